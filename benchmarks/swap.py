"""Swaps under load: is a swap invisible to callers, and does it cost memory? With --workers N: behind one port, N at a time.

A real gateway serves one version after the other while callers ask without a pause, first each over a channel of its own, then all
over one; the registry's live pointer is moved as soon as every worker serves the version before. Every answer is checked against
what the version that it names would say to that input, and against the answers that were there on its channel before it was asked for:
versions never go back on a connection. Resident memory is the workers'. With several workers a gateway of one stands beside them, for
what a worker adds in memory and in requests a second (rounds of the two in turn).
"""

import contextlib
import pathlib
import tempfile
import time
from typing import Any

import numpy as np

from benchmarks import harness
from benchmarks.harness import Check, Options, Result
from benchmarks.load import RECORD, Load, Records, latencies_ms
from benchmarks.processes import Gateway, gateway
from benchmarks.versions import Versions, went_back, wrong_answers
from registry.bundle import version_of
from serving.supervision.memory import memory_of

NUM_CALLERS, NUM_INPUTS = 8, 64
#: Memory is compared from this swap on: before it, caches and allocator pools still fill.
SETTLED_AFTER = 20
#: Swaps of which the median is taken at each end: at a single one, both versions may be loaded.
WINDOW = 15
MAX_GROWTH_MB, MAX_SLOPE_KB = 8.0, 40.0
ROUND_S = 4.0


def measure(options: Options) -> Result:
    """Run the benchmark."""
    num_swaps, quiet_s, num_rounds = (48 // options.workers, 2.0, 1) if options.quick else (200, 6.0, 5)
    with contextlib.ExitStack() as stack:
        folder = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="everstill-swap-")))
        running = stack.enter_context(gateway(folder / "gateway", _sections(options.workers)))
        versions = Versions(running, NUM_INPUTS, options.seed)
        _swap(running, versions.next())
        _swap(running, versions.next())
        _check_that_mistakes_show(versions)
        figures: dict[str, Any] = {"workers": options.workers}
        if options.workers > 1:
            figures |= _compared_with_one(running, folder, options, num_rounds)
        checks = []
        for name, num_channels in (("many_channels", NUM_CALLERS), ("one_channel", 1)):
            with Load(running.address, folder, NUM_CALLERS, NUM_INPUTS, options.seed, num_channels) as load:
                part = _swaps(running, load, versions, num_swaps, quiet_s)
            figures[name] = part.figures
            checks += [
                Check(f"{name}_{check.name}", check.value, check.comparison, check.goal) for check in part.checks
            ]
        status = running.status()
        restarts = sum(one["restarts"] for one in status["workers"])
        checks += [
            Check("worker_restarts", restarts, "==", 0),
            Check("refused_versions", len(status["refused"]), "==", 0),
        ]
    return Result(figures, checks)


def _sections(workers: int) -> dict[str, dict[str, Any]]:
    return {"gateway": {"follow_interval_s": 0.02, "workers": workers}, "capture": {"rate": 0.0}}


def _swaps(running: Gateway, load: Load, versions: Versions, num_swaps: int, quiet_s: float) -> Result:
    load.run(2.0)  # warm up
    quiet = load.run(quiet_s)
    pids = [one["pid"] for one in running.status()["workers"]]
    resident_mb, seconds = [_resident_mb(pids)], []
    load.start()
    for number in range(1, num_swaps + 1):
        seconds.append(_swap(running, versions.next()))
        resident_mb.append(_resident_mb(pids))
        if not number % 20:
            harness.say(
                f"swap {number} of {num_swaps}: workers {', '.join(f'{one:.0f}' for one in resident_mb[-1])} MB"
            )
    records = load.stop()
    quiet = np.concatenate([quiet, load.run(quiet_s)])
    figures, checks = _judged(records, versions, np.array(resident_mb))
    figures |= {
        "seconds_per_swap_median": round(float(np.median(seconds)), 4),
        "seconds_per_swap_max": round(max(seconds), 4),
        "requests_quiet": len(quiet),
        "requests_per_s_quiet": round(len(quiet) / (2 * quiet_s), 1),
        "latency_ms_quiet": latencies_ms(quiet),
        "latency_ms_swapping": latencies_ms(records),
    }
    return Result(figures, checks)


def _judged(records: Records, versions: Versions, resident_mb: np.ndarray) -> tuple[dict[str, Any], list[Check]]:
    num_swaps = len(resident_mb) - 1
    answered = records[records["code"] == "OK"]
    failed = len(records) - len(answered)
    wrong = int(wrong_answers(answered, versions.expected).sum())
    back = went_back(records, versions.order)
    settled = resident_mb[min(SETTLED_AFTER, num_swaps // 3) :]
    mean_mb = settled.mean(axis=1)  # a worker, on average: each hops between levels of its allocator
    slope_kb = float(np.polyfit(np.arange(len(mean_mb)), mean_mb, 1)[0] * 1024)
    window = min(WINDOW, len(settled) // 2)
    growth_mb = float(np.median(mean_mb[-window:]) - np.median(mean_mb[:window]))
    duration_s = float(records["start_s"].max() - records["start_s"].min())
    figures: dict[str, Any] = {
        "swaps": num_swaps,
        "callers": NUM_CALLERS,
        "channels": len(np.unique(records["channel"])),
        "requests": len(records),
        "requests_per_s": round(len(records) / duration_s, 1),
        "failed_requests": failed,
        "versions_that_answered": len(np.unique(answered["version"])),
        "answers_not_of_their_version": wrong,
        "answers_of_an_older_version_than_before": back,
        "worker_resident_mb_before": resident_mb[0].tolist(),
        "worker_resident_mb_end": resident_mb[-1].tolist(),
        "worker_resident_mb_max": float(resident_mb.max()),
        "worker_resident_kb_per_swap": round(slope_kb, 2),
    }
    checks = [
        Check("swaps", num_swaps, ">=", 1),
        Check("failed_requests", failed, "==", 0),
        Check("answers_not_of_their_version", wrong, "==", 0),
        Check("answers_of_an_older_version_than_before", back, "==", 0),
        Check("worker_growth_mb", round(growth_mb, 2), "<=", MAX_GROWTH_MB),
    ]
    if len(settled) > 2 * WINDOW:  # in fewer, one load at the wrong moment looks like a slope
        checks.append(Check("worker_growth_kb_per_swap", round(slope_kb, 2), "<=", MAX_SLOPE_KB))
    return figures, checks


def _compared_with_one(running: Gateway, folder: pathlib.Path, options: Options, num_rounds: int) -> dict[str, Any]:
    """Return what further workers add, beside a gateway of one: requests a second, over many channels, and memory."""
    rates: dict[str, list[float]] = {"one": [], "all": []}
    with gateway(folder / "one", _sections(1)) as alone, contextlib.ExitStack() as stack:
        versions = Versions(alone, NUM_INPUTS, options.seed)
        _swap(alone, versions.next())
        loads = {
            name: stack.enter_context(Load(one.address, folder, 4 * NUM_CALLERS, NUM_INPUTS, options.seed))
            for name, one in (("one", alone), ("all", running))
        }
        for load in loads.values():
            load.run(2.0)  # warm up
        for number in range(num_rounds):
            for name in ("one", "all") if number % 2 else ("all", "one"):
                rates[name].append(len(loads[name].run(ROUND_S)) / ROUND_S)
        ratios = [more / less for more, less in zip(rates["all"], rates["one"], strict=True)]
        pss_mb = [_shared_out_mb(one) for one in (alone, running)]
    private = running.status()["memory_per_added_worker_bytes"]
    return {
        "requests_per_s_one_worker": round(float(np.median(rates["one"])), 1),
        "requests_per_s_all_workers": round(float(np.median(rates["all"])), 1),
        "requests_per_s_ratio_median": round(float(np.median(ratios)), 3),
        "requests_per_s_ratio_spread": [round(min(ratios), 3), round(max(ratios), 3)],
        "gateway_workers_pss_mb": [round(one, 1) for one in pss_mb],
        "memory_per_added_worker_mb": round((pss_mb[1] - pss_mb[0]) / (options.workers - 1), 1),
        "memory_per_added_worker_mb_by_status": round(private / 2**20, 1),
    }


def _shared_out_mb(running: Gateway) -> float:
    """Return the memory of a gateway's workers, shared pages counted by their share."""
    found = [memory_of(one["pid"]) for one in running.status()["workers"]]
    return sum(one.resident for one in found if one is not None) / 2**20


def _check_that_mistakes_show(versions: Versions) -> None:
    """See that a gateway that mixed two versions up would be found out."""
    (first, first_BC), (second, second_BC) = list(versions.expected.items())[:2]
    records: Records = np.zeros(len(first_BC), RECORD)
    records["input"], records["version"] = np.arange(len(first_BC)), second
    records["top"], records["first_logit"] = first_BC.argmax(axis=1), first_BC[:, 0]
    if wrong_answers(records, versions.expected).mean() < 1:
        raise AssertionError(f"{first} and {second} answer alike: nothing could be told from their answers")
    assert first_BC.shape == second_BC.shape


def _swap(running: Gateway, digest: str) -> float:
    """Move the pointer and wait until every worker serves the version; returns the seconds that it took."""
    start, version = time.monotonic(), version_of(digest)
    running.point(digest)
    running.wait(lambda: running.status().get("live") == version, f"version {version}")
    return time.monotonic() - start


def _resident_mb(pids: list[int]) -> list[float]:
    return [resident_memory_mb(pid) for pid in pids]


def resident_memory_mb(pid: int) -> float:
    """Return a process's resident memory."""
    lines = pathlib.Path(f"/proc/{pid}/status").read_text().splitlines()
    return round(next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:")) / 1024, 2)


if __name__ == "__main__":
    raise SystemExit(harness.main("swap", __doc__, measure, workers=True))
