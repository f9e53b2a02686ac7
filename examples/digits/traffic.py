"""Send a drifting stream of digits to a running service, then say how well it kept up: `python examples/digits/traffic.py my-service`.

For the first part of the stream there are only the digits 0 to 4; then all ten. Afterwards the teacher is asked about every
image, and the student that served at the drift is run again on the last quarter: what a student that stopped learning would do.
"""

import argparse
import json
import math
import pathlib
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnxruntime
from images import draw

from serving.rpc.client import InferenceClient

CALLERS = 4
START_S = 120.0


def main() -> int:
    """Send, score, report; returns 1 where a request failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("service", type=pathlib.Path, help="folder that `everstill init` made")
    parser.add_argument("--requests", type=int, default=3600)
    parser.add_argument("--per-second", type=float, default=36.0)
    parser.add_argument("--drift-at", type=float, default=0.4, help="share of the requests before the drift")
    parser.add_argument("--gateway", default="127.0.0.1:8001")
    parser.add_argument("--teacher", default="127.0.0.1:8101")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of text")
    parsed = parser.parse_args()

    drift = int(parsed.requests * parsed.drift_at)
    random = np.random.default_rng(parsed.seed)
    before, _ = draw(random, drift, (0, 1, 2, 3, 4))
    after, _ = draw(random, parsed.requests - drift, tuple(range(10)))
    images = np.concatenate([before, after])
    answers = send(parsed.gateway, parsed.service.name, images, parsed.per_second, drift)
    truth = ask_teacher(parsed.teacher, images)
    failed = sum(version == "" for version, _ in answers)
    at_drift = next((v for v, _ in reversed(answers[:drift]) if v not in ("", "teacher")), "")
    last = slice(parsed.requests - parsed.requests // 4, parsed.requests)
    served = np.array([digit for _, digit in answers])
    report = {
        "requests": len(images),
        "failed": failed,
        "versions": len({version for version, _ in answers} - {"", "teacher"}),
        "before_drift": agreement(served[drift // 2 : drift], truth[drift // 2 : drift]),
        "online": agreement(served[last], truth[last]),
        "frozen": agreement(frozen(parsed.service, at_drift, images[last]), truth[last]) if at_drift else None,
    }
    print(json.dumps(report) if parsed.json else tell(report))
    return 1 if failed else 0


def send(address: str, model: str, images: np.ndarray, per_second: float, drift: int) -> list[tuple[str, int]]:
    """Send each image once, at the pace; returns the version and the digit of each answer, in order."""
    with InferenceClient(address) as client, ThreadPoolExecutor(CALLERS) as pool:
        wait_until_ready(client, model)
        start = time.monotonic()

        def call(image: np.ndarray) -> tuple[str, int]:
            answer = client.infer(model, {"X": image[None]})
            return answer.version, int(next(iter(answer.outputs.values()))[0].argmax())

        futures = []
        for number, image in enumerate(images):
            time.sleep(max(0.0, start + number / per_second - time.monotonic()))
            futures.append(pool.submit(call, image))
            if number % 300 == 0:
                phase = "digits 0 to 4" if number < drift else "all ten digits"
                print(f"{number:,} of {len(images):,} requests sent ({phase})", file=sys.stderr)
        if errors := [error for future in futures if (error := future.exception())]:
            print(f"the first of {len(errors)} failed requests: {errors[0]}", file=sys.stderr)
        return [("", -1) if future.exception() else future.result() for future in futures]


def wait_until_ready(client: InferenceClient, model: str) -> None:
    """Wait for the gateway, as long as `everstill up` may take."""
    end, told = time.monotonic() + START_S, False
    while not client.ready(model):
        if time.monotonic() > end:
            raise SystemExit(f"nothing answers for {model!r} after {START_S:.0f} s: does `everstill up` run?")
        if not told:
            print(f"waiting until {model!r} is answered", file=sys.stderr)
        told = True
        time.sleep(0.2)


def ask_teacher(address: str, images: np.ndarray) -> np.ndarray:
    """Return the teacher's digit for each image; these calls are only for the score."""
    with InferenceClient(address, timeout_s=60.0) as client:
        return client.infer("teacher", {"X": images}).outputs["probabilities"].argmax(axis=1)


def frozen(service: pathlib.Path, version: str, images: np.ndarray) -> np.ndarray:
    """Return the digits that an old version of the student gives."""
    (folder,) = (service / "everstill-data" / "registry" / "bundles").glob(f"{version}*")
    session = onnxruntime.InferenceSession(folder / "model.onnx")
    return session.run(None, {"X": images})[0].argmax(axis=1)


def agreement(digits: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """Return the share that agrees, with its 95% interval (Wilson)."""
    num, share, z = len(truth), float((digits == truth).mean()), 1.96
    centre = (share + z**2 / (2 * num)) / (1 + z**2 / num)
    half = z / (1 + z**2 / num) * math.sqrt(share * (1 - share) / num + z**2 / (4 * num**2))
    return {"estimate": share, "low": centre - half, "high": centre + half}


def tell(report: dict) -> str:
    """Return the report in words."""
    lines = [
        f"{report['requests']:,} requests, {report['failed']} failed, {report['versions']} student versions served"
    ]
    for name, words in (
        ("before_drift", "before the drift the service agreed with its teacher on"),
        ("online", "in the last quarter, all ten digits, it agreed on"),
        ("frozen", "the student of the drift, had it stopped learning, would agree on"),
    ):
        if part := report[name]:
            lines.append(f"{words} {part['estimate']:.1%} [{part['low']:.1%}, {part['high']:.1%}]")
    return "\n".join(lines)


if __name__ == "__main__":
    raise SystemExit(main())
