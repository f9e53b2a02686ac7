"""The demo, from an empty folder to the summary: set up, send, watch, stop, score, report.

Decides the order of the story. The service's parts are separate processes; this one is only their caller and their audience.
"""

import collections
import contextlib
import dataclasses
import fcntl
import importlib.resources
import json
import os
import pathlib
import shutil
import signal
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from everstill.config import EverstillSettings
from everstill.demo import corpus, plot, report
from everstill.demo.client import ask_each, send_all
from everstill.demo.display import Display
from everstill.demo.score import Scores, Sent
from everstill.demo.watch import Watch
from everstill.stack import Stack
from protos.errors import ConflictError, UnavailableError
from registry.bundle import MODEL, fetch_bundle
from registry.config import load
from registry.store import ObjectStore, open_store
from serving.rpc.client import InferenceClient

CONFIG_FILE, LOCK_FILE = "everstill.toml", ".demo.lock"
SUMMARY_FILE, PICTURE_FILE, LOG_FOLDER = "summary.json", "agreement.png", "logs"
#: What an earlier demo may have left in the folder, and a new one removes.
OWN = (CONFIG_FILE, "registry", "cache", "capture", LOG_FOLDER, SUMMARY_FILE, PICTURE_FILE)
RECENT = 200
LOOK_INTERVAL_S = 1.0
#: The mirror is done when nothing waits and no teacher call was counted for QUIET_S; it has SETTLE_S, both in seconds.
QUIET_S, SETTLE_S = 1.0, 15.0


@dataclasses.dataclass(frozen=True)
class Plan:
    """What the demo shall do."""

    folder: pathlib.Path
    num_requests: int
    requests_per_s: float
    drift_share: float
    seed: int


def run(plan: Plan) -> dict[str, Any]:
    """Tell the story and return the report; it is also written to the folder, with the picture.

    Raises:
        EverstillError: something was missing or ended early; every process is stopped by then.
    """
    start = time.monotonic()
    with _own_folder(plan.folder), Display() as display, _said_when_interrupted(display):
        display.say("gathering real files of this Python, and making others from them")
        drift = int(plan.num_requests * plan.drift_share)
        progress = display.progress()
        inputs = corpus.gather(
            drift, plan.num_requests - drift, plan.seed, lambda what, count: progress(f"{count:,} {what}")
        )
        features = [item.features for item in inputs.items]
        display.say(f"  {len(features):,} different inputs; the drift comes at request {inputs.drift:,}")
        with Stack(plan.folder) as stack:
            settings, teacher_address = _start(stack, plan.folder, display)
            store = open_store(settings.registry.url)
            watch = Watch(store, settings.model.name, settings.gateway.id)
            sent = _send(stack, watch, settings, features, inputs.drift, plan, display)
            _settle(watch)
            stack.stop("gateway")
            stack.stop("loop")
            view = watch.look()
            frozen_version = next((one.version for one in reversed(sent[: inputs.drift]) if not one.error), "")
            scores = _score(
                stack, store, settings, teacher_address, features, inputs.drift, frozen_version, view.lines, display
            )
        body = report.build(
            sent, scores, inputs.drift, view, frozen_version=frozen_version, wall_s=time.monotonic() - start
        )
        (plan.folder / SUMMARY_FILE).write_text(json.dumps(body, indent=1))
        plot.plot(plan.folder / PICTURE_FILE, sent, scores, inputs.drift, body["versions"], report.title(body))
        display.say(
            f"\n{report.summarise(body)}\n\nreport: {plan.folder / SUMMARY_FILE}\npicture: {plan.folder / PICTURE_FILE}"
        )
    return body


@contextlib.contextmanager
def _said_when_interrupted(display: Display) -> Iterator[None]:
    """Let SIGTERM and a closed terminal end the demo as Ctrl-C does: everything is stopped, and that is said."""

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    numbers = [one for one in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(one) == signal.SIG_DFL]
    for number in numbers:
        signal.signal(number, interrupt)
    try:
        yield
    except KeyboardInterrupt:
        display.say("interrupted: every process was stopped")
        raise
    finally:
        for number in numbers:
            signal.signal(number, signal.SIG_DFL)


@contextlib.contextmanager
def _own_folder(folder: pathlib.Path) -> Iterator[None]:
    """Take the folder for this run: empty but for what an earlier demo left, and nobody else's meanwhile."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        strangers = [
            path.name
            for path in folder.iterdir()
            if path.name not in (*OWN, LOCK_FILE) and not path.name.startswith("stream.sqlite")
        ]
        if strangers:
            raise ConflictError(
                f"{folder} holds {strangers[0]!r}, which no demo made", fix="Name another with --folder"
            )
        lock = os.open(folder / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise UnavailableError(
            f"cannot use the folder {folder}: {error.strerror}", fix="Name another with --folder"
        ) from None
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConflictError(
                f"another demo is running in {folder}", fix="Wait for it, or name another with --folder"
            ) from None
        try:
            for path in folder.iterdir():
                if path.is_dir():
                    shutil.rmtree(path)
                elif path.name != LOCK_FILE:
                    path.unlink()
            yield
        finally:
            (folder / LOCK_FILE).unlink(missing_ok=True)
    except OSError as error:
        raise UnavailableError(
            f"the demo can't write to {folder}: {error.strerror}", fix="Make room, or name another with --folder"
        ) from None
    finally:
        os.close(lock)


def _start(stack: Stack, folder: pathlib.Path, display: Display) -> tuple[EverstillSettings, str]:
    """Start teacher, loop and gateway; returns the settings and the teacher's address."""
    config = folder / CONFIG_FILE
    template = importlib.resources.files("everstill.demo").joinpath(CONFIG_FILE).read_text()
    config.write_text(template)
    teacher = stack.start("teacher", ["serving.app", "teacher", "--config", str(config)])
    address = stack.started_event(teacher)["address"]
    config.write_text(template.replace("@TEACHER@", address))
    settings = load(config, EverstillSettings)
    loop = stack.start("loop", ["distill_loop.app", "--config", str(config)])
    gateway = stack.start("gateway", ["serving.app", "gateway", "--config", str(config)])
    watch = Watch(open_store(settings.registry.url), settings.model.name, settings.gateway.id)
    client = InferenceClient(stack.wait_for(gateway, lambda: watch.look().gateway.get("address"), "its port was open"))
    try:
        stack.wait_for(gateway, client.ready, "it was ready")
    finally:
        client.close()
    stack.wait_for(loop, lambda: watch.look().loop, "it had told its status", 120.0)
    display.say(
        f"  teacher on {address}, gateway on {watch.view.gateway['address']}, loop running; logs in {folder / LOG_FOLDER}"
    )
    return settings, address


def _send(
    stack: Stack,
    watch: Watch,
    settings: EverstillSettings,
    features: list[Any],
    drift: int,
    plan: Plan,
    display: Display,
) -> list[Sent]:
    """Send everything while showing how it goes."""
    recent: collections.deque[float] = collections.deque(maxlen=RECENT)
    counts = {"sent": 0, "failed": 0}
    looked_at = 0.0

    def note(one: Sent) -> None:
        counts["sent"] += 1
        counts["failed"] += bool(one.error)
        recent.append(one.latency_s * 1e3)

    def show() -> bool:
        nonlocal looked_at
        if time.monotonic() - looked_at > LOOK_INTERVAL_S:
            looked_at = time.monotonic()
            stack.check()
            newest = list(recent) or [0.0]
            display.show(
                watch.look(),
                num_sent=counts["sent"],
                num_all=len(features),
                phase="before the drift" if counts["sent"] < drift else "after the drift",
                latency_ms=(float(np.percentile(newest, 50)), float(np.percentile(newest, 99))),
                failed=counts["failed"],
            )
        return True

    address = watch.look().gateway["address"]
    return send_all(address, settings.model.name, features, plan.requests_per_s, on_sent=note, keep_going=show)


def _settle(watch: Watch) -> None:
    """Wait until the mirror has asked about the last samples, so that the count of teacher calls misses none."""
    end = time.monotonic() + SETTLE_S
    quiet_since, counted = time.monotonic(), -1
    while time.monotonic() < min(end, quiet_since + QUIET_S):
        view = watch.look()
        if view.waiting_bytes or view.teacher_calls != counted:
            quiet_since, counted = time.monotonic(), view.teacher_calls
        time.sleep(0.1)


def _score(
    stack: Stack,
    store: ObjectStore,
    settings: EverstillSettings,
    teacher_address: str,
    features: list[Any],
    drift: int,
    frozen_version: str,
    lines: list[Any],
    display: Display,
) -> Scores:
    """Ask the teacher about every request, and the student that served at the drift about those after it."""
    display.say("scoring: asking the teacher about every request (not counted as calls of the service)")
    output = settings.teacher.output
    progress = display.progress()

    def count(num: int, of: int, who: str) -> None:
        if num % 100 == 0 or num == of:
            progress(f"{num:,} of {of:,} answered by {who}")

    teacher, latencies = ask_each(
        teacher_address, settings.teacher.model, output, features, lambda num: count(num, len(features), "the teacher")
    )
    frozen = [-1] * len(features)
    digest = (
        next((line.digest for line in lines if line.digest.startswith(frozen_version)), None)
        if frozen_version
        else None
    )
    if digest is not None:
        bundle = fetch_bundle(store, digest, settings.registry.cache)
        environment = {
            "EVERSTILL_TEACHER_SERVER__ONNX": str(bundle.folder / MODEL),
            "EVERSTILL_TEACHER_SERVER__NAME": "frozen",
            "EVERSTILL_TEACHER_SERVER__PORT": "0",
        }
        server = stack.start("frozen-student", ["serving.app", "teacher"], environment)
        address = stack.started_event(server)["address"]
        after = features[drift:]
        frozen[drift:], _ = ask_each(
            address, "frozen", settings.model.output, after, lambda num: count(num, len(after), "the frozen student")
        )
    return Scores(teacher, frozen, latencies)
