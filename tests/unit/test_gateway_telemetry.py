"""Metrics merged over processes: counters of the dead stay, their gauges go."""

import os
import pathlib
import subprocess
import sys
from collections.abc import Iterator

import pytest
from prometheus_client import CollectorRegistry, multiprocess

PROGRAM = """
from serving.telemetry import BATCH_ROWS, IN_FLIGHT, REQUESTS, RING_BYTES
REQUESTS.labels("OK", "", "m").inc(5)
BATCH_ROWS.labels("m").observe(3)
IN_FLIGHT.set(2)
RING_BYTES.labels("m").set(100)
print(flush=True)
input()
"""
ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture
def workers(tmp_path: pathlib.Path) -> Iterator[list["subprocess.Popen[str]"]]:
    """Two processes that have counted."""
    environment = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
    started = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM],
            cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        for _ in range(2)
    ]  # fmt: skip
    for worker in started:
        assert worker.stdout is not None
        worker.stdout.readline()
    yield started
    for worker in started:
        worker.kill()
        worker.communicate()


def merged(folder: pathlib.Path, name: str, **labels: str) -> float:
    registry = CollectorRegistry()
    multiprocess.MultiProcessCollector(registry, path=str(folder))  # type: ignore[no-untyped-call]
    return registry.get_sample_value(name, labels) or 0.0


def test_counters_histograms_and_gauges_are_summed_over_workers(
    tmp_path: pathlib.Path, workers: list["subprocess.Popen[str]"]
) -> None:
    assert merged(tmp_path, "everstill_gateway_requests_total", code="OK", reason="", model="m") == 10
    assert merged(tmp_path, "everstill_student_batch_rows_count", model="m") == 2
    assert merged(tmp_path, "everstill_gateway_in_flight") == 4
    assert merged(tmp_path, "everstill_shadow_ring_bytes", model="m") == 200


def test_a_dead_workers_counters_stay_and_its_gauges_go(
    tmp_path: pathlib.Path, workers: list["subprocess.Popen[str]"]
) -> None:
    workers[0].kill()
    workers[0].wait()

    multiprocess.mark_process_dead(workers[0].pid, str(tmp_path))  # type: ignore[no-untyped-call]

    assert merged(tmp_path, "everstill_gateway_requests_total", code="OK", reason="", model="m") == 10
    assert merged(tmp_path, "everstill_student_batch_rows_count", model="m") == 2
    assert merged(tmp_path, "everstill_gateway_in_flight") == 2
    assert merged(tmp_path, "everstill_shadow_ring_bytes", model="m") == 100
