"""Kill the mirror with SIGKILL while it drains the ring: every sample and all feedback is on the stream or counted, and each is counted once."""

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
from protos.topics import LABELS, PAIRS, REPORTS
from serving.shadow.ring import Ring, create
from serving.shadow.rings import Rings
from tests.support.draining import MODEL, PARTITIONS, RING, STREAM
from tests.support.shadow import make_sample, open_rows
from tests.support.shadow_books import Books, read_books
from tests.support.waiting import wait_for

ROOT = pathlib.Path(__file__).parents[2]
SAMPLES_PER_LIFE = 150
FAULTS = ("--teacher-away", "--stream-away", "--small-spool")


class Producer:
    """A thread that plays the worker: it appends samples, and feedback on some, without a pause longer than a moment, and remembers their ids."""

    def __init__(self, path: pathlib.Path) -> None:
        self.ring = Ring(path)
        self.appended: list[bytes] = []
        self.told: list[bytes] = []
        self.still = threading.Lock()
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
                sample.stratum = "pass_through" if number % 5 == 0 else "served"
                number += 1
                with self.still:
                    self.ring.count_seen(1)
                    if self.ring.append(sample.SerializeToString(), stratum=sample.stratum, arms=("uniform",)):
                        self.appended.append(sample.record_id)
                    label = records.Sample(label=records.Label(record_id=sample.record_id))
                    if number % 3 == 0 and self.ring.append(label.SerializeToString(), feedback=True):
                        self.told.append(sample.record_id)


@contextlib.contextmanager
def mirror(folder: pathlib.Path, *options: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a mirror; it has ended when this returns."""
    process = subprocess.Popen([sys.executable, "-m", "tests.support.draining", str(folder), *options], cwd=ROOT)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def read_stream(folder: pathlib.Path) -> tuple[list[bytes], list[bytes], list[records.CaptureReport]]:
    """Return the record ids of pairs, those of labels, and the reports on the stream, which must have no gap."""
    consumer = EmbeddedConsumer(folder / STREAM, MODEL, {PAIRS: PARTITIONS, LABELS: PARTITIONS, REPORTS: 1})
    ids, told, reports = [], [], []
    for message in consumer.poll(1_000_000):
        consumer.advance(message)
        if message.kind == PAIRS:
            ids += [pair.record_id for pair in records.PairBatch.FromString(message.value).pairs]
        elif message.kind == LABELS:
            told += [label.record_id for label in records.LabelBatch.FromString(message.value).labels]
        else:
            reports.append(records.CaptureReport.FromString(message.value))
    assert not consumer.take_gaps()
    consumer.close()
    return ids, told, reports


def books_of(folder: pathlib.Path) -> Books:
    """Return the books of a folder whose mirror is dead; equation A must close in them, and each term be what the files hold."""
    books = read_books(folder, Rings({0: Ring(folder / RING)}), MODEL)
    assert open_rows(books.report) == {}
    assert books.report.gaps == 0
    for rows in (books.spooled, books.in_ring, books.in_flight):
        del rows[LABELS]  # feedback is no sample
    assert books.of("spooled") == books.spooled
    assert books.of("pending") == books.in_ring + books.in_flight
    return books


def survive(
    folder: pathlib.Path, *, num_kills: int, ring_bytes: int, seed: int, faults: tuple[str, ...] = ()
) -> list[bytes]:
    """Kill mirrors one after the other, let the last one finish, and check what came of it; returns the ids on the stream."""
    rng = random.Random(seed)
    create(folder / RING, ring_bytes)
    producer = Producer(folder / RING)
    try:
        for _ in range(num_kills):
            enough = producer.num_accepted() + rng.randrange(1, SAMPLES_PER_LIFE)
            with mirror(folder, *rng.sample(faults, rng.randrange(len(faults) + 1))) as process:
                producer.wait_until_accepted(enough)
                process.send_signal(signal.SIGKILL)
            with producer.still:
                books_of(folder)
    finally:
        producer.stop()
    with mirror(folder) as process:
        wait_for(lambda: not producer.ring.pending_bytes, deadline_s=30, what="an empty ring")
        wait_for(lambda: not any((folder).glob("spool-*/*.seg")), deadline_s=30, what="empty spools")
        process.terminate()
        assert process.wait(30) == 0

    ids, told, reports = read_stream(folder)
    books, handed = books_of(folder), producer.ring.counts()
    assert len(producer.appended) > num_kills
    assert producer.ring.next_sequence == len(producer.appended) + len(producer.told)
    assert producer.ring.labels == len(producer.told) > 0
    assert set(told) <= set(producer.told)
    assert set(told) == set(producer.told) or "--small-spool" in faults
    assert {report.gaps for report in reports} == {0}
    assert all(open_rows(report) == {} for report in reports if report.mirror)
    assert books.of("sampled") == {name: one.sampled for name, one in handed.items()}
    # A row that the stream took from a mirror that was killed before it knew, and that then fell out of a full spool, counts as dropped.
    lost = books.of("dropped").total() - producer.ring.dropped
    assert len(producer.appended) == books.of("published").total() + books.of("missing").total() + lost
    assert books.of("published").total() <= len(set(ids)) <= books.of("published").total() + lost
    assert bool(lost) <= ("--small-spool" in faults)
    assert set(ids) <= set(producer.appended)
    (worker,) = [report for report in reports[-2:] if not report.mirror]
    assert sum(one.seen for one in worker.strata) == producer.ring.rows_seen
    assert producer.ring.rows_seen == len(producer.appended) + producer.ring.dropped
    assert worker.teacher_calls == producer.ring.teacher_rows >= len(set(ids))
    return ids


def test_a_mirror_that_is_killed_loses_nothing(tmp_path: pathlib.Path) -> None:
    ids = survive(tmp_path, num_kills=3, ring_bytes=2**20, seed=1)

    assert len(ids) - len(set(ids)) <= 3 * 1024


def test_the_accounts_close_whatever_else_is_away_when_a_mirror_is_killed(tmp_path: pathlib.Path) -> None:
    survive(
        tmp_path, num_kills=5, ring_bytes=2**18, seed=2, faults=("--teacher-away", "--stream-away", "--small-spool")
    )


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_twenty_kills_leave_the_accounts_exact_though_the_ring_is_full_at_times(
    tmp_path: pathlib.Path, seed: int
) -> None:
    faults = FAULTS[: seed * 2]
    survive(tmp_path, num_kills=20, ring_bytes=2**16, seed=seed, faults=faults)
