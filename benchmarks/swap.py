"""Swaps under load: is a swap invisible to callers, and does it cost memory?

A real gateway serves two students in turn while callers ask without a pause; the registry's live pointer is moved from one to
the other, again and again, each time as soon as the gateway answers with the version it was moved to. Every answer is checked
against what the version that it names would say to that input. Resident memory is the worker's.
"""

import pathlib
import tempfile
import time

import numpy as np

from benchmarks import harness
from benchmarks.harness import Check, Options, Result
from benchmarks.load import RECORD, Load, Records, latencies_ms
from benchmarks.processes import Gateway, gateway
from benchmarks.students import MODEL_SETTINGS, answers, make_files, make_inputs
from registry.bundle import MODEL, version_of, write_bundle
from serving.rpc.client import InferenceClient

NUM_CALLERS, NUM_INPUTS = 8, 64
#: Answers of one version to one input, alone or beside others in a batch, differ by less than this.
SAME_LOGIT = 1e-3
#: Memory is compared from this swap on: before it, caches and allocator pools still fill.
SETTLED_AFTER = 20
#: Swaps of which the median is taken at each end: at a single one, both versions may be loaded.
WINDOW = 15
MAX_GROWTH_MB, MAX_SLOPE_KB = 8.0, 40.0


def measure(options: Options) -> Result:
    """Run the benchmark."""
    num_swaps, quiet_s = (60, 3.0) if options.quick else (200, 10.0)
    with tempfile.TemporaryDirectory(prefix="everstill-swap-") as name:
        folder = pathlib.Path(name)
        sections = {"gateway": {"follow_interval_s": 0.02}, "capture": {"rate": 0.0}}
        with gateway(folder / "gateway", sections) as running:
            bundles = [make_files(options.seed * 10 + number) for number in range(2)]
            digests = [write_bundle(running.store, files) for files in bundles]
            inputs = make_inputs(NUM_INPUTS, options.seed)
            expected = {
                version_of(digest): answers(files[MODEL], inputs)
                for digest, files in zip(digests, bundles, strict=True)
            }
            if wrong_answers(_said_by(digests[0], expected, naming=digests[1]), expected).mean() < 1:
                raise AssertionError("the two students answer alike: nothing could be told from their answers")
            with Load(running.address, folder, NUM_CALLERS, NUM_INPUTS, options.seed) as load:
                return _swaps(running, load, digests, expected, num_swaps, quiet_s)


def _swaps(
    running: Gateway,
    load: Load,
    digests: list[str],
    expected: dict[str, np.ndarray],
    num_swaps: int,
    quiet_s: float,
) -> Result:
    client = InferenceClient(running.address)
    try:
        _swap(running, client, digests[0])
        load.run(2.0)  # warm up
        quiet = load.run(quiet_s)
        worker = int(running.status()["worker_pid"])
        resident_mb, seconds = [resident_memory_mb(worker)], []
        load.start()
        for number in range(1, num_swaps + 1):
            seconds.append(_swap(running, client, digests[number % 2]))
            resident_mb.append(resident_memory_mb(worker))
            if not number % 20:
                harness.say(f"swap {number} of {num_swaps}: worker {resident_mb[-1]:.1f} MB")
        records = load.stop()
        quiet_after = load.run(quiet_s)
        same_worker = running.status()["worker_pid"] == worker
        refused = len(running.status()["refused"])
    finally:
        client.close()
    figures, checks = _judged(records, expected, resident_mb, num_swaps)
    quiet = np.concatenate([quiet, quiet_after])
    figures |= {
        "seconds_per_swap_median": round(float(np.median(seconds)), 4),
        "seconds_per_swap_max": round(max(seconds), 4),
        "requests_quiet": len(quiet),
        "requests_per_s_quiet": round(len(quiet) / (2 * quiet_s), 1),
        "latency_ms_quiet": latencies_ms(quiet),
        "latency_ms_swapping": latencies_ms(records),
    }
    checks += [Check("worker_restarts", 0 if same_worker else 1, "==", 0), Check("refused_versions", refused, "==", 0)]
    return Result(figures, checks)


def _judged(
    records: Records, expected: dict[str, np.ndarray], resident_mb: list[float], num_swaps: int
) -> tuple[dict[str, object], list[Check]]:
    failed = int((records["code"] != "OK").sum())
    wrong = int(wrong_answers(records[records["code"] == "OK"], expected).sum())
    settled = np.array(resident_mb[SETTLED_AFTER:])
    slope_kb = float(np.polyfit(np.arange(len(settled)), settled, 1)[0] * 1024)
    growth_mb = float(np.median(settled[-WINDOW:]) - np.median(settled[:WINDOW]))
    duration_s = float(records["start_s"].max() - records["start_s"].min())
    figures: dict[str, object] = {
        "swaps": num_swaps,
        "callers": NUM_CALLERS,
        "requests": len(records),
        "requests_per_s": round(len(records) / duration_s, 1),
        "failed_requests": failed,
        "answers_by_version": {version: int((records["version"] == version).sum()) for version in expected},
        "answers_not_of_their_version": wrong,
        "worker_resident_mb_before": resident_mb[0],
        f"worker_resident_mb_after_swap_{SETTLED_AFTER}": resident_mb[SETTLED_AFTER],
        "worker_resident_mb_end": resident_mb[-1],
        "worker_resident_mb_max": max(resident_mb),
        "worker_resident_kb_per_swap": round(slope_kb, 2),
    }
    checks = [
        Check("swaps", len(resident_mb) - 1, "==", num_swaps),
        Check("failed_requests", failed, "==", 0),
        Check("answers_not_of_their_version", wrong, "==", 0),
        Check("worker_growth_mb", round(growth_mb, 2), "<=", MAX_GROWTH_MB),
        Check("worker_growth_kb_per_swap", round(slope_kb, 2), "<=", MAX_SLOPE_KB),
    ]
    return figures, checks


def wrong_answers(records: Records, expected: dict[str, np.ndarray]) -> np.ndarray:
    """Return, for each answered call, whether its content isn't what the version that it names would say."""
    right = np.zeros(len(records), bool)
    for version, logits_BC in expected.items():
        mine_BC = logits_BC[records["input"]]
        same = (mine_BC.argmax(axis=1) == records["top"]) & (
            np.abs(mine_BC[:, 0] - records["first_logit"]) < SAME_LOGIT
        )
        right |= (records["version"] == version) & same
    return ~right


def _said_by(digest: str, expected: dict[str, np.ndarray], *, naming: str) -> Records:
    """Return what a gateway would answer that mixes two versions up: one's content under the other's name."""
    logits_BC = expected[version_of(digest)]
    records: Records = np.zeros(len(logits_BC), RECORD)
    records["input"], records["version"] = np.arange(len(logits_BC)), version_of(naming)
    records["top"], records["first_logit"] = logits_BC.argmax(axis=1), logits_BC[:, 0]
    return records


def _swap(running: Gateway, client: InferenceClient, digest: str) -> float:
    """Move the pointer and wait until the gateway names the version; returns the seconds that it took."""
    start, version = time.monotonic(), version_of(digest)
    running.point(digest)
    running.wait(lambda: list(client.metadata(MODEL_SETTINGS.name).versions) == [version], f"version {version}")
    return time.monotonic() - start


def resident_memory_mb(pid: int) -> float:
    """Return a process's resident memory."""
    lines = pathlib.Path(f"/proc/{pid}/status").read_text().splitlines()
    return round(next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:")) / 1024, 2)


if __name__ == "__main__":
    raise SystemExit(harness.main("swap", __doc__, measure))
