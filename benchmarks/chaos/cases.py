"""The cases: which rig each fault is played on, and what is judged when it is over.

Of every case: the books close (books.py), no request failed, and the calls made during the fault were answered about as fast as those of the
steady times before, between and after.
"""

import contextlib
import dataclasses
import pathlib
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from benchmarks.chaos import faults
from benchmarks.chaos.books import read_books
from benchmarks.chaos.callers import Records
from benchmarks.chaos.rig import Plan, Rig, rig
from benchmarks.harness import Check, Options, Result, say
from benchmarks.swap import resident_memory_mb
from serving.shadow.journal import FIRST_BYTES

MAX_P99_RATIO = 1.2
MIN_RATE_RATIO = 0.97
MAX_GROWTH_MB = 8.0
#: Calls are counted in times of this length.
RATE_TIME_S = 1.0
STEADY_S, STEADY_QUICK_S = 30.0, 3.0
SPOOL_BYTES = 4 * 2**20
Fault = Callable[[Rig, bool], tuple[dict[str, Any], list[Check]]]


@dataclasses.dataclass(frozen=True)
class Case:
    """A fault, and the rig that it is played on. fault: given the rig and whether to be quick; returns figures and checks of its own."""

    fault: Fault
    plan: Plan
    on_small_disk: bool = False


def run(name: str, options: Options, folder: pathlib.Path) -> Result:
    """Play one case."""
    case, steady_s = CASES[name], STEADY_QUICK_S if options.quick else STEADY_S
    plan = dataclasses.replace(case.plan, seed=options.seed, pinned=not options.quick)
    with contextlib.ExitStack() as stack:
        if case.on_small_disk:
            plan = stack.enter_context(small_disk(folder / "disk", plan))
        running = stack.enter_context(rig(folder / "rig", plan))
        time.sleep(steady_s / 3)  # warm up
        running.steady(steady_s)
        say(f"{name}: breaking")
        figures, checks = case.fault(running, options.quick)
        running.steady(steady_s)
        say(f"{name}: at rest")
        running.rest()
        books = read_books(running)
    calls = np.concatenate(running.calls)
    latency, ratio = latencies(calls, running.windows)
    checks = [*checks, *books.checks()]
    if plan.pinned and ratio is not None:
        checks.append(Check("p99_ratio_during_the_fault", ratio, "<=", MAX_P99_RATIO))
    if not plan.rate:
        rates = rates_per_s(calls, running.windows)
        figures |= {f"{kind}_calls_per_s": rate for kind, rate in rates.items()}
        checks.append(
            Check("rate_ratio_during_the_fault", round(rates["fault"] / rates["steady"], 3), ">=", MIN_RATE_RATIO)
        )
    return Result({**figures, **books.figures(), **latency}, checks)


@contextlib.contextmanager
def small_disk(folder: pathlib.Path, plan: Plan, spool_bytes: int = SPOOL_BYTES) -> Iterator[Plan]:
    """Return a plan whose rings and spools lie on a disk of their own that is soon full: it has that room for spools, and an eighth of it for the ring.

    Raises:
        PermissionError: no disk can be mounted here.
    """
    folder.mkdir(parents=True)
    ring_bytes = spool_bytes // 8
    num_bytes = 2 * FIRST_BYTES + ring_bytes + spool_bytes  # the journal takes its room before
    mount = ["mount", "-t", "tmpfs", "-o", f"size={num_bytes},mode=700", "none", str(folder)]
    done = subprocess.run(mount, capture_output=True, text=True, timeout=20)
    if done.returncode:
        raise PermissionError(f"no small disk can be mounted here, that needs root and Linux: {done.stderr.strip()}")
    try:
        small = {"dir": str(folder), "ring_bytes": ring_bytes}
        yield dataclasses.replace(plan, capture={**plan.capture, **small})
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True, timeout=20)


def latencies(calls: Records, windows: list[tuple[str, float, float]]) -> tuple[dict[str, Any], float | None]:
    """Return figures of the calls due in steady times and in those of the fault, and the ratio of their p99."""
    figures: dict[str, Any] = {}
    for kind in ("steady", "fault"):
        spans = [(start_s, end_s) for one, start_s, end_s in windows if one == kind]
        due_s = calls["due_s"]
        inside = np.any([(due_s >= start_s) & (due_s < end_s) for start_s, end_s in spans], axis=0)
        latency_ms = calls["latency_s"][inside] * 1e3
        figures[f"{kind}_s"] = round(sum(end_s - start_s for start_s, end_s in spans), 1)
        figures[f"{kind}_calls"] = len(latency_ms)
        if len(latency_ms):
            for quantile in (50, 99, 99.9):
                figures[f"{kind}_p{quantile:g}_ms"] = round(float(np.percentile(latency_ms, quantile)), 3)
    if not figures["steady_calls"] or not figures["fault_calls"]:
        return figures, None
    return figures, round(figures["fault_p99_ms"] / figures["steady_p99_ms"], 3)


def rates_per_s(calls: Records, windows: list[tuple[str, float, float]]) -> dict[str, float]:
    """Return the calls a second of steady times and of the fault: the median over short times of each."""
    counts: dict[str, list[int]] = {"steady": [], "fault": []}
    for kind, start_s, end_s in windows:
        edges = np.arange(start_s, end_s, RATE_TIME_S)
        counts[kind] += np.histogram(calls["due_s"], edges)[0].tolist()
    return {kind: round(statistics.median(each) / RATE_TIME_S, 1) for kind, each in counts.items()}


def _loops(rig: Rig, quick: bool) -> tuple[dict[str, Any], list[Check]]:
    num_kills = 3 if quick else 50
    faults.kill_loops(rig, num_kills=num_kills)
    return {"kills": num_kills}, []


def _mirrors(rig: Rig, quick: bool) -> tuple[dict[str, Any], list[Check]]:
    num_kills = 2 if quick else 20
    faults.kill_mirrors(rig, num_kills=num_kills)
    return {"kills": num_kills}, []


def _broker(rig: Rig, quick: bool) -> tuple[dict[str, Any], list[Check]]:
    silent_s, dead_s = (3.0, 3.0) if quick else (60.0, 20.0)
    faults.silence_broker(rig, seconds=silent_s)
    faults.kill_broker(rig, dead_s=dead_s)
    return {"silent_s": silent_s, "dead_s": dead_s}, []


def _network(rig: Rig, quick: bool) -> tuple[dict[str, Any], list[Check]]:
    seconds = 3.0 if quick else 30.0
    faults.cut_network(rig, seconds=seconds)
    return {"cut_s": seconds}, []


def _duplicates(rig: Rig, quick: bool) -> tuple[dict[str, Any], list[Check]]:
    faults.kill_mirrors(rig, num_kills=1)  # the next one doesn't know which inputs of the trial were evaluated
    num_sent = faults.inject_duplicates(rig, most_messages=100 if quick else 500, seconds=2.0 if quick else 30.0)
    checks = [Check(f"{kind}_messages_injected", num, ">=", 1) for kind, num in num_sent.items()]
    return {"messages_injected": num_sent.total()}, checks


def _disk(rig: Rig, quick: bool) -> tuple[dict[str, Any], list[Check]]:
    faults.fill_the_disk(rig, full_s=2.0 if quick else 30.0)
    dropped = rig.gateway.metric(faults.DROPPED)
    return {"spool_disk_bytes": SPOOL_BYTES, "ring_bytes": SPOOL_BYTES // 8}, [Check("rows_dropped", dropped, ">=", 1)]


def _leader(rig: Rig, quick: bool) -> tuple[dict[str, Any], list[Check]]:
    moved_s = faults.move_leader(rig)
    return {"brokers": rig.plan.num_brokers, "seconds_until_the_moved_partition_took_a_pair": round(moved_s, 1)}, []


def _outage(rig: Rig, quick: bool) -> tuple[dict[str, Any], list[Check]]:
    """Let the broker be dead for long at full load, and look at memory and at the rate of calls."""
    dead_s, every_s = (20.0, 1.0) if quick else (600.0, 5.0)
    resident_mb: dict[str, list[float]] = {"worker": [], "mirror": []}
    with rig.window("fault"):
        rig.cluster.kill()
        end = time.monotonic() + dead_s
        while time.monotonic() < end:
            time.sleep(every_s)
            status = rig.gateway.status()
            for part, seen in resident_mb.items():
                seen.append(resident_memory_mb(status[f"{part}_pid"]))
    rig.cluster.start()
    figures: dict[str, Any] = {"dead_s": dead_s, "sampling_probability": rig.plan.sampling}
    checks = []
    for part, seen in resident_mb.items():
        tenth = max(1, len(seen) // 10)
        growth = statistics.median(seen[-tenth:]) - statistics.median(seen[tenth : 2 * tenth])
        figures[f"{part}_resident_mb"] = {"least": round(min(seen), 1), "most": round(max(seen), 1)}
        checks.append(Check(f"{part}_growth_mb", round(growth, 2), "<=", MAX_GROWTH_MB))
    return figures, checks


CASES = {
    "loop_killed": Case(_loops, Plan()),
    "mirror_killed": Case(_mirrors, Plan()),
    "broker_stopped": Case(_broker, Plan()),
    "network_cut": Case(_network, Plan()),
    "duplicates": Case(_duplicates, Plan(trial=True)),
    "disk_full": Case(_disk, Plan(), on_small_disk=True),
    "leader_moved": Case(_leader, Plan(num_brokers=3)),
    "broker_dead": Case(_outage, Plan(rate=0.0, sampling=0.2, capture={"ring_bytes": 8 * 2**20})),
}
