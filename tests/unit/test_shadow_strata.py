"""Counts by stratum in a ring's header: right at any moment, also after a worker was killed between a count and its frame."""

import pathlib
import struct

import pytest

from protos.records import ARM_TRIAL, ARM_UNIFORM
from serving.shadow.ring import COUNTED_FROM, HEADER_BYTES, LABELS, NEXT_SEQUENCE, WRITTEN, Ring, create
from serving.shadow.strata import PASS_THROUGH, ROW_BYTES, SERVED, TABLE, StratumCounts

CAPACITY = 512


@pytest.fixture
def path(tmp_path: pathlib.Path) -> pathlib.Path:
    create(tmp_path / "ring", CAPACITY)
    return tmp_path / "ring"


def patch(path: pathlib.Path, place: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(place)
        file.write(data)


def handed(ring: Ring) -> dict[str, int]:
    return {name: one.handed for name, one in ring.counts().items()}


def test_rows_are_counted_by_stratum_and_arm(path: pathlib.Path) -> None:
    ring = Ring(path)
    ring.count_seen(3, SERVED, 2.5)
    ring.count_seen(1, PASS_THROUGH)
    ring.append(b"a", stratum=SERVED, arms=(ARM_UNIFORM, ARM_TRIAL))
    ring.append(b"b", stratum=PASS_THROUGH, arms=("pass_through",))
    ring.append(bytes(CAPACITY), stratum=SERVED, arms=(ARM_UNIFORM,))
    ring.append(b"feedback", feedback=True)

    counts = Ring(path).counts()

    assert counts[SERVED] == StratumCounts(3, 2.5, 1, 1, {"uniform": 2, "trial": 1, "pass_through": 0})
    assert counts[PASS_THROUGH] == StratumCounts(1, 0.0, 1, 0, {"uniform": 0, "trial": 0, "pass_through": 1})
    assert counts[SERVED].sampled == 2
    assert (ring.rows_seen, ring.dropped, ring.labels, ring.told, ring.next_sequence) == (4, 1, 1, 3, 3)


def test_a_row_that_was_counted_by_a_worker_that_died_then_gets_its_number_and_is_a_gap(path: pathlib.Path) -> None:
    Ring(path).append(b"a")
    patch(path, TABLE + 6 * 8, struct.pack("<Q", 2))  # counted, and killed before it got its number

    assert (Ring(path).told, Ring(path).next_sequence) == (2, 1)
    ring = Ring(path)
    ring.append(b"c")

    assert [sequence for sequence, _ in ring.read(10)] == [0, 2]
    assert ring.gaps == 1
    assert handed(ring)[SERVED] == ring.told == ring.next_sequence == 3


def test_a_killed_append_of_feedback_is_a_gap_too(path: pathlib.Path) -> None:
    patch(path, LABELS, struct.pack("<Q", 1))
    ring = Ring(path)

    ring.append(b"a")

    assert ring.read(1) == [(1, b"a")]
    assert ring.told == ring.next_sequence == 2


@pytest.mark.parametrize("place", [NEXT_SEQUENCE, WRITTEN])
def test_a_worker_that_died_before_the_commit_word_leaves_a_gap(path: pathlib.Path, place: int) -> None:
    Ring(path).append(b"lost")
    patch(path, WRITTEN, bytes(8))
    if place == NEXT_SEQUENCE:
        patch(path, NEXT_SEQUENCE, bytes(8))
    ring = Ring(path)

    ring.append(b"kept")

    assert ring.read(10) == [(1, b"kept")]
    assert handed(ring)[SERVED] == 2


def test_a_ring_of_the_version_before_is_opened_and_counted_from_there_on(path: pathlib.Path) -> None:
    Ring(path).append(b"old")
    patch(path, TABLE, bytes(16 * ROW_BYTES))

    consumer, worker = Ring(path), Ring(path)
    assert consumer.counts() == {}
    worker.append(b"new", stratum=PASS_THROUGH)

    assert consumer.read(10) == [(0, b"old"), (1, b"new")]
    assert handed(consumer) == {SERVED: 0, PASS_THROUGH: 1}
    assert struct.unpack_from("<Q", path.read_bytes(), COUNTED_FROM) == (1,)
    assert consumer.told == consumer.next_sequence == 2


def test_counts_go_on_in_a_ring_of_another_size(path: pathlib.Path) -> None:
    ring = Ring(path)
    ring.append(b"a")
    ring.read(1)
    ring.advance()

    create(path, 2 * CAPACITY)

    bigger = Ring(path)
    assert (bigger.next_sequence, bigger.pending_frames, handed(bigger)[SERVED]) == (1, 0, 1)
    assert bigger.append(b"b")
    assert bigger.read(10) == [(1, b"b")]


def test_a_damaged_table_is_not_gone_on_from(path: pathlib.Path) -> None:
    Ring(path).append(b"a")
    patch(path, TABLE + 6 * 8, struct.pack("<Q", 2**60))
    patch(path, 0, b"EVILRING")

    create(path, CAPACITY)

    ring = Ring(path)
    assert ring.append(b"b")
    assert ring.next_sequence == 1
    assert path.stat().st_size == HEADER_BYTES + CAPACITY


def test_reading_stops_at_a_number_of_bytes(path: pathlib.Path) -> None:
    ring = Ring(path)
    for _ in range(5):
        ring.append(bytes(40))

    assert len(ring.read(10, max_bytes=100)) == 3
    assert len(ring.read(10, max_bytes=100)) == 2


def test_a_reader_can_go_back(path: pathlib.Path) -> None:
    ring = Ring(path)
    ring.append(b"a")
    before = (ring.position, ring.expected)

    assert ring.read(1) == [(0, b"a")]
    ring.go_to(*before)

    assert ring.read(1) == [(0, b"a")]
