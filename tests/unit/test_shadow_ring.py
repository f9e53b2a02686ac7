"""The ring: a queue of frames between two processes, whoever is killed, whatever is damaged."""

import collections
import functools
import pathlib
import stat
import struct
import tempfile
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protos.errors import FormatError, UnavailableError
from serving.shadow.ring import HEADER_BYTES, READ, WRITTEN, Ring, create

CAPACITY = 512
PAYLOADS = st.one_of(st.binary(max_size=40), st.integers(0, CAPACITY + 8).map(bytes), st.just(b"\xff" * 64))
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("append"), PAYLOADS),
        st.tuples(st.just("read"), st.integers(1, 4)),
        st.tuples(st.sampled_from(["advance", "kill consumer", "kill producer"]), st.none()),
    ),
    max_size=80,
)


class Model:
    """A ring of small capacity, and what it should do: `waiting` is appended and not accepted, `num_read` of it were read."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.path = fresh_ring(folder)
        self.producer, self.consumer = Ring(self.path), Ring(self.path)
        self.waiting: collections.deque[tuple[int, bytes]] = collections.deque()
        self.num_read = 0
        self.dropped = 0
        self.written = 0

    def step(self, name: str, value: Any) -> None:
        """Do one thing to both."""
        if name == "append":
            self.append(value)
        elif name == "read":
            frames = self.consumer.read(value)
            assert frames == list(self.waiting)[self.num_read : self.num_read + value]
            self.num_read += len(frames)
        elif name == "advance":
            self.consumer.advance()
            for _ in range(self.num_read):
                self.waiting.popleft()
            self.num_read = 0
        elif name == "kill consumer":
            self.consumer.close()
            self.consumer, self.num_read = Ring(self.path), 0
        else:
            self.producer.close()
            self.producer = Ring(self.path)

    def append(self, payload: bytes) -> None:
        """Append, and expect a drop only where the frame and what it skips don't fit."""
        sequence = self.producer.next_sequence
        size = 16 + len(payload) + -len(payload) % 8
        free = CAPACITY - self.producer.pending_bytes
        to_end = CAPACITY - self.written % CAPACITY
        needed = size if size <= to_end else size + to_end
        if self.producer.append(payload):
            self.waiting.append((sequence, payload))
            self.written += needed
        else:
            self.dropped += 1
            assert needed > free


@settings(max_examples=150, deadline=None)
@given(STEPS)
def test_what_is_appended_is_read_once_and_in_order_whatever_happens_in_between(steps: list[tuple[str, Any]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        model = Model(pathlib.Path(folder))

        for name, value in steps:
            model.step(name, value)
        model.step("read", 10_000)
        model.step("advance", None)

        assert not model.waiting
        assert model.consumer.pending_bytes == model.consumer.pending_frames == 0
        assert model.consumer.gaps == 0
        assert model.producer.dropped == model.dropped


@settings(max_examples=60, deadline=None)
@given(st.lists(st.binary(max_size=50), min_size=1, max_size=12), st.integers(0, CAPACITY - 1), st.integers(1, 255))
def test_a_damaged_byte_costs_frames_that_are_counted_and_never_delivers_a_wrong_one(
    payloads: list[bytes], place: int, flip: int
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = fresh_ring(pathlib.Path(folder))
        producer = Ring(path)
        appended = {number: payload for number, payload in enumerate(payloads) if producer.append(payload)}
        patch(path, HEADER_BYTES + place, bytes([path.read_bytes()[HEADER_BYTES + place] ^ flip]))
        consumer = Ring(path)

        read = consumer.read(1000)
        consumer.advance()
        assert consumer.pending_bytes == 0
        assert producer.append(b"the next one")
        read += consumer.read(1000)

        sequences = [sequence for sequence, _ in read]
        assert sequences == sorted(set(sequences))
        assert read[-1][1] == b"the next one"
        assert all(appended[sequence] == payload for sequence, payload in read[:-1])
        assert consumer.gaps == len(appended) + 1 - len(read)


def test_a_frame_of_a_producer_that_was_killed_before_the_commit_word_is_never_seen(tmp_path: pathlib.Path) -> None:
    create(tmp_path / "ring", CAPACITY)
    Ring(tmp_path / "ring").append(b"half")
    patch(tmp_path / "ring", WRITTEN, struct.pack("<Q", 0))
    consumer = Ring(tmp_path / "ring")

    assert consumer.read(10) == []

    Ring(tmp_path / "ring").append(b"whole")
    assert consumer.read(10) == [(1, b"whole")]
    assert consumer.gaps == 1


def test_a_damaged_length_that_says_go_on_at_the_start_leads_no_further_than_what_was_written(
    tmp_path: pathlib.Path,
) -> None:
    create(tmp_path / "ring", CAPACITY)
    producer, consumer = Ring(tmp_path / "ring"), Ring(tmp_path / "ring")
    producer.append(b"lost")
    patch(tmp_path / "ring", HEADER_BYTES, b"\xff" * 4)

    assert consumer.read(10) == []
    consumer.advance()

    assert consumer.pending_bytes == 0
    assert producer.append(b"next")
    assert consumer.read(10) == [(1, b"next")]


def test_counters_survive_both_sides(tmp_path: pathlib.Path) -> None:
    create(tmp_path / "ring", CAPACITY)
    ring = Ring(tmp_path / "ring")
    ring.count_seen(5)
    ring.teacher_rows = 3
    ring.append(bytes(10_000))
    epoch = ring.epoch
    ring.close()

    create(tmp_path / "ring", CAPACITY)
    again = Ring(tmp_path / "ring")

    assert (again.rows_seen, again.teacher_rows, again.dropped, again.epoch) == (5, 3, 1, epoch)


def test_the_file_is_its_owners_only(tmp_path: pathlib.Path) -> None:
    create(tmp_path / "new" / "ring", CAPACITY)

    assert stat.S_IMODE((tmp_path / "new" / "ring").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o700


def test_a_ring_of_another_size_that_holds_samples_is_refused_and_keeps_them(tmp_path: pathlib.Path) -> None:
    create(tmp_path / "ring", CAPACITY)
    Ring(tmp_path / "ring").append(b"precious")

    with pytest.raises(UnavailableError, match="still holds samples"):
        create(tmp_path / "ring", 2 * CAPACITY)

    assert Ring(tmp_path / "ring").read(1) == [(0, b"precious")]


def test_an_empty_ring_of_another_size_is_replaced_and_its_counts_go_on(tmp_path: pathlib.Path) -> None:
    create(tmp_path / "ring", CAPACITY)
    old = Ring(tmp_path / "ring")
    old.count_seen(50)
    old.teacher_rows = 7
    old.append(bytes(10_000))

    create(tmp_path / "ring", 2 * CAPACITY, teacher_rows_if_lost=99)

    new = Ring(tmp_path / "ring")
    assert new.capacity == 2 * CAPACITY
    assert (new.rows_seen, new.teacher_rows, new.dropped) == (50, 7, 1)


def test_a_damaged_ring_is_moved_aside_with_its_samples_and_they_are_counted(tmp_path: pathlib.Path) -> None:
    create(tmp_path / "ring-0.mmap", CAPACITY)
    Ring(tmp_path / "ring-0.mmap").append(b"precious")
    patch(tmp_path / "ring-0.mmap", 0, b"EVILRING")

    create(tmp_path / "ring-0.mmap", CAPACITY)

    (kept,) = tmp_path.glob("ring-0.damaged-*")
    assert b"precious" in kept.read_bytes()
    ring = Ring(tmp_path / "ring-0.mmap")
    assert (ring.pending_frames, ring.pending_bytes, ring.counts()["served"].handed) == (1, 0, 1)
    assert ring.append(b"next")
    assert ring.read(10) == [(1, b"next")]
    assert ring.gaps == 1


@pytest.mark.parametrize("size", [0, 8, HEADER_BYTES, HEADER_BYTES + CAPACITY - 8])
def test_a_file_that_was_cut_short_is_no_ring_and_is_replaced(tmp_path: pathlib.Path, size: int) -> None:
    create(tmp_path / "ring", CAPACITY)
    (tmp_path / "ring").write_bytes((tmp_path / "ring").read_bytes()[:size])

    with pytest.raises(FormatError):
        Ring(tmp_path / "ring")
    create(tmp_path / "ring", CAPACITY)

    assert Ring(tmp_path / "ring").append(b"works")


@pytest.mark.parametrize(("place", "value"), [(READ, 8), (WRITTEN, CAPACITY + 8), (WRITTEN, 4), (0, 0)])
def test_a_header_that_contradicts_itself_is_no_ring(tmp_path: pathlib.Path, place: int, value: int) -> None:
    create(tmp_path / "ring", CAPACITY)
    patch(tmp_path / "ring", place, struct.pack("<Q", value))

    with pytest.raises(FormatError):
        Ring(tmp_path / "ring")


def test_a_folder_that_can_not_be_made_is_said_in_a_sentence(tmp_path: pathlib.Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(UnavailableError, match="cannot make the ring"):
        create(tmp_path / "file" / "ring", CAPACITY)


@functools.cache
def empty_ring() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        create(pathlib.Path(folder) / "ring", CAPACITY)
        return (pathlib.Path(folder) / "ring").read_bytes()


def fresh_ring(folder: pathlib.Path) -> pathlib.Path:
    """Return an empty ring, without the sync to disk that `create` does each time."""
    (folder / "ring").write_bytes(empty_ring())
    return folder / "ring"


def patch(path: pathlib.Path, place: int, data: bytes) -> None:
    """Change bytes of a file in place."""
    with path.open("r+b") as file:
        file.seek(place)
        file.write(data)
