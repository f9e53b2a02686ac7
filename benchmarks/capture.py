"""What callers pay for learning: requests a second with sampling off, on, and on with the teacher dead.

Four real gateways serve the same student; each round loads them one after the other, in an order that rotates, and before each
one the mirrors have emptied their rings, so that no gateway pays for another's samples. A ratio is the median over rounds of
the pair in one round. What is judged is what the gateway asks of its callers, so the teacher is elsewhere: a stand-in that takes
the real one's time and none of these cores. A fourth gateway asks the real one, in magika's wheel, at the lowest priority on the
same two cores: that is shown, and judged by nothing, since its arithmetic is not the gateway's.
"""

import contextlib
import os
import pathlib
import statistics
import tempfile
import time
from typing import Any

from benchmarks import harness
from benchmarks.harness import Check, Options, Result
from benchmarks.load import Load, Records, latencies_ms
from benchmarks.processes import Gateway, gateway, teacher, teacher_elsewhere
from benchmarks.students import MODEL_SETTINGS, make_files
from registry.bundle import version_of, write_bundle
from serving.rpc.client import InferenceClient

NUM_CALLERS, NUM_INPUTS = 8, 512
RATE = 0.2
OFF, ON, DEAD, BESIDE = "sampling_off", "sampling_on", "teacher_dead", "teacher_on_these_cores"
GOAL = 0.95
#: Nobody listens there.
NOBODY = "127.0.0.1:1"


def measure(options: Options) -> Result:
    """Run the benchmark."""
    num_rounds, round_s = (7, 1.0) if options.quick else (20, 2.0)
    with tempfile.TemporaryDirectory(prefix="everstill-capture-") as name, contextlib.ExitStack() as stack:
        folder = pathlib.Path(name)
        elsewhere = stack.enter_context(teacher_elsewhere(folder / "elsewhere"))
        beside = stack.enter_context(teacher(folder / "teacher", onnx="magika", nice=19))
        gateways, loads = {}, {}
        for case, rate, asked in (
            (OFF, 0.0, elsewhere),
            (ON, RATE, elsewhere),
            (DEAD, RATE, NOBODY),
            (BESIDE, RATE, beside),
        ):
            sections: dict[str, dict[str, Any]] = {"capture": {"rate": rate}, "teacher": {"address": asked}}
            gateways[case] = stack.enter_context(gateway(folder / case, sections))
            _serve(gateways[case], options.seed)
            load = Load(gateways[case].address, folder, NUM_CALLERS, NUM_INPUTS, options.seed)
            loads[case] = stack.enter_context(load)
        rounds = {case: list[Records]() for case in gateways}
        lag_s = {case: list[float]() for case in gateways}
        for case, load in loads.items():  # warm up
            load.run(1.0)
            _wait_until_idle(gateways[case])
        for number in range(num_rounds):
            cases = list(gateways)
            for case in cases[number % len(cases) :] + cases[: number % len(cases)]:
                rounds[case].append(loads[case].run(round_s))
                lag_s[case].append(_wait_until_idle(gateways[case]))
            harness.say(f"round {number + 1} of {num_rounds}: { ({case: len(rounds[case][-1]) for case in cases}) }")
        shadow = {case: _shadow_figures(one) | {"lag_s": max(lag_s[case])} for case, one in gateways.items()}
        return _judged(rounds, shadow, round_s)


def _judged(rounds: dict[str, list[Records]], shadow: dict[str, dict[str, float]], round_s: float) -> Result:
    per_s = {case: [len(records) / round_s for records in each] for case, each in rounds.items()}
    failed = sum(int((records["code"] != "OK").sum()) for each in rounds.values() for records in each)
    figures: dict[str, Any] = {
        "callers": NUM_CALLERS,
        "rounds": len(rounds[OFF]),
        "round_s": round_s,
        "sampling_probability": RATE,
        "failed_requests": failed,
    }
    for case, each in per_s.items():
        figures[f"requests_per_s_{case}"] = spread(each)
        figures[f"latency_ms_{case}"] = {
            quantile: statistics.median(latencies_ms(records)[quantile] for records in rounds[case])
            for quantile in ("p50", "p99")
        }
        figures[f"shadow_{case}"] = shadow[case]
    checks = [Check("failed_requests", failed, "==", 0)]
    for case in (ON, DEAD, BESIDE):
        ratios = [on / off for on, off in zip(per_s[case], per_s[OFF], strict=True)]
        figures[f"ratio_{case}"] = spread(ratios)
        if case != BESIDE:
            checks.append(Check(f"ratio_{case}", round(statistics.median(ratios), 4), ">=", GOAL))
    checks += [  # sampling was on in earnest
        Check("samples_when_off", shadow[OFF]["samples"], "==", 0),
        Check("samples_ratio_when_on", _ratio(shadow[ON], "samples", "rows"), ">=", RATE * 0.9),
        Check("samples_ratio_when_dead", _ratio(shadow[DEAD], "samples", "rows"), ">=", RATE * 0.9),
        Check("teacher_rows_when_on", shadow[ON]["teacher_rows"], ">=", 1),
        Check("dropped_ratio_when_on", _ratio(shadow[ON], "dropped", "samples"), "<=", 0.01),
    ]
    return Result(figures, checks)


def spread(values: list[float]) -> dict[str, float]:
    """Return the median of some values, and their least and greatest."""
    shown = {"median": statistics.median(values), "min": min(values), "max": max(values)}
    return {name: round(value, 4) for name, value in shown.items()}


def _ratio(figures: dict[str, float], part: str, whole: str) -> float:
    return round(figures[part] / figures[whole], 4) if figures[whole] else 0.0


def _serve(running: Gateway, seed: int) -> None:
    digest = write_bundle(running.store, make_files(seed))
    running.point(digest)
    client = InferenceClient(running.address)
    try:
        running.wait(
            lambda: list(client.metadata(MODEL_SETTINGS.name).versions) == [version_of(digest)], "the first version"
        )
    finally:
        client.close()


def _wait_until_idle(running: Gateway) -> float:
    """Wait until the mirror has taken everything out of its ring; returns the seconds that it took."""
    start = time.monotonic()
    running.wait(lambda: running.metric("everstill_shadow_ring_bytes") == 0, "an empty ring")
    return round(time.monotonic() - start, 2)


def _shadow_figures(running: Gateway) -> dict[str, float]:
    """Return what became of the samples, and the processor time that worker and mirror took."""
    status = running.status()
    names = {
        "rows": "everstill_gateway_rows_total",
        "samples": "everstill_shadow_samples_total",
        "dropped": "everstill_shadow_dropped_total",
        "missing": "everstill_shadow_missing_total",
        "teacher_rows": "everstill_shadow_teacher_rows_total",
        "published": "everstill_shadow_published_total",
        "spool_bytes": "everstill_shadow_spool_bytes",
    }
    figures = {key: running.metric(name) for key, name in names.items()}
    return figures | {f"{name}_cpu_s": cpu_s(status[f"{name}_pid"]) for name in ("worker", "mirror")}


def cpu_s(pid: int) -> float:
    """Return the processor time that a process has taken."""
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1].split()
    return round((int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK"), 2)


if __name__ == "__main__":
    raise SystemExit(harness.main("capture", __doc__, measure))
