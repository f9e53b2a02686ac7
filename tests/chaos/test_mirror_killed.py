"""Kill the mirror with SIGKILL while it drains the ring: every sample is on the stream, and once after its repeats are dropped."""

import contextlib
import pathlib
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from distill_loop.stream.embedded_consumer import EmbeddedConsumer
from protos import records_pb2 as records
from serving.shadow.ring import Ring, create
from tests.support.draining import MODEL, PARTITIONS, RING, STREAM
from tests.support.shadow import make_sample
from tests.support.waiting import wait_for

ROOT = pathlib.Path(__file__).parents[2]
SAMPLES_PER_LIFE = 150


class Producer:
    """A thread that plays the worker: it appends samples without a pause longer than a moment, and remembers their ids."""

    def __init__(self, path: pathlib.Path) -> None:
        self.ring = Ring(path)
        self.appended: list[bytes] = []
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._append, name="producer")
        self._thread.start()

    def stop(self) -> None:
        """Append no more."""
        self._stopping.set()
        self._thread.join()

    def num_accepted(self) -> int:
        """Return how many samples the mirrors have accepted."""
        return self.ring.next_sequence - self.ring.pending_frames

    def wait_until_accepted(self, enough: int) -> None:
        """Wait for a mirror to have come so far."""
        wait_for(lambda: self.num_accepted() >= enough, deadline_s=30, what=f"a mirror to accept sample {enough}")

    def _append(self) -> None:
        number = 0
        while not self._stopping.wait(0.002):
            for _ in range(3):
                sample = make_sample(number)
                number += 1
                self.ring.count_seen(1)
                if self.ring.append(sample.SerializeToString()):
                    self.appended.append(sample.record_id)


@contextlib.contextmanager
def mirror(folder: pathlib.Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a mirror; it has ended when this returns."""
    process = subprocess.Popen([sys.executable, "-m", "tests.support.draining", str(folder)], cwd=ROOT)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def read_stream(folder: pathlib.Path) -> tuple[list[bytes], list[records.CaptureReport]]:
    """Return the record ids and the reports on the stream, which must have no gap."""
    consumer = EmbeddedConsumer(folder / STREAM, MODEL, {"pairs": PARTITIONS, "reports": 1})
    ids, reports = [], []
    for message in consumer.poll(1_000_000):
        consumer.advance(message)
        if message.kind == "pairs":
            ids += [pair.record_id for pair in records.PairBatch.FromString(message.value).pairs]
        else:
            reports.append(records.CaptureReport.FromString(message.value))
    assert not consumer.take_gaps()
    consumer.close()
    return ids, reports


def survive(folder: pathlib.Path, *, num_kills: int, ring_bytes: int, seed: int) -> None:
    """Kill mirrors one after the other, let the last one finish, and check what came of it."""
    rng = random.Random(seed)
    create(folder / RING, ring_bytes)
    producer = Producer(folder / RING)
    try:
        for _ in range(num_kills):
            enough = producer.num_accepted() + rng.randrange(1, SAMPLES_PER_LIFE)
            with mirror(folder) as process:
                producer.wait_until_accepted(enough)
                process.send_signal(signal.SIGKILL)
    finally:
        producer.stop()
    with mirror(folder) as process:
        wait_for(lambda: not producer.ring.pending_bytes, deadline_s=30, what="an empty ring")
        process.terminate()
        assert process.wait(30) == 0

    ids, reports = read_stream(folder)
    repeats = len(ids) - len(set(ids))
    assert len(producer.appended) > num_kills
    assert set(ids) == set(producer.appended), f"{repeats} repeats"
    assert {report.gaps for report in reports} == {0}
    assert producer.ring.next_sequence == len(producer.appended)
    assert reports[-1].strata[0].seen == producer.ring.rows_seen == len(producer.appended) + producer.ring.dropped
    assert reports[-1].teacher_calls >= len(producer.appended)


def test_a_mirror_that_is_killed_loses_nothing(tmp_path: pathlib.Path) -> None:
    survive(tmp_path, num_kills=3, ring_bytes=2**20, seed=1)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_a_mirror_that_is_killed_often_loses_nothing_though_the_ring_is_full_at_times(
    tmp_path: pathlib.Path, seed: int
) -> None:
    survive(tmp_path, num_kills=10, ring_bytes=2**16, seed=seed)
