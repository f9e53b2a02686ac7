"""The ring: how a worker hands samples to the mirror without waiting - a memory-mapped file, one producer, one consumer.

Byte format (little-endian; also in docs/formats.md, so that a worker in another language can write it):

  header, 4,096 bytes
      0  magic "EVRING01"        8  capacity u64: bytes of data after the header     16  epoch u64: when it was made
     64  written u64: bytes ever committed, the commit word      72  next_sequence u64      80  rows_seen u64      88  dropped u64
     96  labels u64: frames of feedback, which are no samples
    128  read u64: bytes ever accepted by the consumer          136  teacher_rows u64: the mirror's own count, see budget.py
    144  accepted u64: the sequence number after the last accepted frame
  data: frames, each at a multiple of 8, never split over the end
      u32 length, u32 crc32 of sequence and payload, u64 sequence, payload, padding
      length 0xFFFFFFFF: the rest up to the end is empty, go on at the start

The producer writes a frame, then `written`: a frame of a killed producer is never seen. The consumer moves `read` only after
the samples are safe elsewhere: a killed consumer loses nothing. A frame whose checksum is wrong (a machine that lost power) is
skipped, and shows as a gap in the sequence.

Header words are stored and loaded whole, as machine words: `struct.pack_into` would empty a word before it fills it, and the
other process, or a kill, would find the emptiness.
"""

import contextlib
import mmap
import os
import pathlib
import struct
import threading
import time
import zlib
from collections.abc import Iterator

import structlog

from protos.errors import FormatError, UnavailableError

MAGIC = b"EVRING01"
HEADER_BYTES = 4096
CAPACITY, EPOCH = 8, 16
WRITTEN, NEXT_SEQUENCE, ROWS_SEEN, DROPPED, LABELS = 64, 72, 80, 88, 96
READ, TEACHER_ROWS, ACCEPTED = 128, 136, 144
WRAP = 0xFFFFFFFF
_FRAME = struct.Struct("<IIQ")
_WORD = struct.Struct("<Q")


def create(path: pathlib.Path, capacity_bytes: int, *, teacher_rows_if_lost: int = 0) -> None:
    """Make the ring's file, or keep one that is there: what the last process left in it is still to be read.

    An empty ring of another size is replaced, and its counts go on. A file that is no ring is moved aside, never removed.

    Args:
        teacher_rows_if_lost: where the count of rows asked of the teacher begins when there is none to go on from.

    Raises:
        UnavailableError: the folder can't be written, the disk is full, or a ring of another size still holds samples.
    """
    capacity_bytes -= capacity_bytes % 8
    counts = {TEACHER_ROWS: teacher_rows_if_lost}
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        if path.exists():
            try:
                ring = Ring(path)
            except FormatError as error:
                counts[DROPPED] = _move_aside(path, error)
            else:
                with contextlib.closing(ring):
                    if ring.capacity == capacity_bytes:
                        return
                    counts = _counts_of_empty(ring, path)
        aside = path.with_suffix(".new")
        with open(os.open(aside, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600), "r+b") as file:
            _take_room(file.fileno(), HEADER_BYTES + capacity_bytes)
            file.write(MAGIC + _WORD.pack(capacity_bytes) + _WORD.pack(time.time_ns()))
            for place, count in counts.items():
                file.seek(place)
                file.write(_WORD.pack(count))
            file.flush()
            os.fsync(file.fileno())
        aside.rename(path)
    except OSError as error:
        raise UnavailableError(
            f"cannot make the ring {path}: {error.strerror}", fix="Make room or set capture.dir"
        ) from None


def _counts_of_empty(ring: "Ring", path: pathlib.Path) -> dict[int, int]:
    if ring.pending_bytes:
        raise UnavailableError(
            f"the ring {path} has {ring.capacity} bytes and still holds samples",
            fix="Start once with the old capture.ring_bytes, or remove it",
        )
    return {ROWS_SEEN: ring.rows_seen, DROPPED: ring.dropped, TEACHER_ROWS: ring.teacher_rows}


def _move_aside(path: pathlib.Path, error: FormatError) -> int:
    """Keep a damaged ring under another name; returns the samples in it, as far as its header can be believed."""
    with path.open("rb") as file:
        header = file.read(HEADER_BYTES)
    num_lost = 0
    if len(header) == HEADER_BYTES:
        next_sequence, accepted = (_WORD.unpack_from(header, place)[0] for place in (NEXT_SEQUENCE, ACCEPTED))
        num_lost = next_sequence - accepted
        if not 0 <= num_lost <= path.stat().st_size // _FRAME.size:
            num_lost = 0
    kept = path.with_name(f"{path.stem}.damaged-{time.time_ns()}")
    path.rename(kept)
    structlog.get_logger().error(
        "a damaged ring was moved aside, with its samples", error=error.message, kept=str(kept), samples=num_lost
    )
    return num_lost


def _take_room(descriptor: int, num_bytes: int) -> None:
    """Take a file's room now: a full disk must be told here, not by a signal at a write to the map."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, 0, num_bytes)
        return
    zeros = bytes(2**16)  # macOS has no such call
    for start in range(0, num_bytes, len(zeros)):
        os.pwrite(descriptor, zeros[: num_bytes - start], start)


class Ring:
    """One end of a ring: a worker uses `append` and the counters, the mirror `read` and `advance`.

    `append` may be called by several threads of one process; `read` and `advance` by one.
    """

    def __init__(self, path: pathlib.Path) -> None:
        """Map a ring that `create` made.

        Raises:
            FormatError: the file is not a ring. UnavailableError: it can't be opened.
        """
        try:
            with path.open("r+b") as file:
                size = os.fstat(file.fileno()).st_size
                if size <= HEADER_BYTES:
                    raise FormatError(f"{path} is not a ring: only {size} bytes", fix="Remove it")
                self._map = mmap.mmap(file.fileno(), 0)
                self._words = memoryview(self._map)[:HEADER_BYTES].cast("Q")
        except OSError as error:
            raise UnavailableError(f"cannot open the ring {path}: {error.strerror}", fix="Check capture.dir") from None
        self.capacity = self._word(CAPACITY)
        if self._map[:8] != MAGIC or self.capacity + HEADER_BYTES != size or self.capacity % 8:
            self.close()
            raise FormatError(f"{path} is not a ring of version 1", fix="Remove it")
        if not 0 <= self.pending_bytes <= self.capacity or self.pending_bytes % 8:
            self.close()
            raise FormatError(f"the ring {path} has positions that contradict each other", fix="Remove it")
        self._lock = threading.Lock()
        self._cursor = self._word(READ)
        self._expected = self._word(ACCEPTED)
        self.gaps = 0

    @property
    def epoch(self) -> int:
        """When the ring was made: sequences of different epochs don't compare."""
        return self._word(EPOCH)

    @property
    def pending_bytes(self) -> int:
        """Bytes written and not yet accepted."""
        return self._word(WRITTEN) - self._word(READ)

    @property
    def pending_frames(self) -> int:
        """Frames written and not yet accepted, lost ones included."""
        return self._word(NEXT_SEQUENCE) - self._word(ACCEPTED)

    @property
    def rows_seen(self) -> int:
        """Rows that the worker answered since its first ring was made."""
        return self._word(ROWS_SEEN)

    @property
    def dropped(self) -> int:
        """Sampled rows that found the ring full."""
        return self._word(DROPPED)

    @property
    def labels(self) -> int:
        """Frames of feedback that were handed over."""
        return self._word(LABELS)

    @property
    def next_sequence(self) -> int:
        """The sequence number that the next frame gets."""
        return self._word(NEXT_SEQUENCE)

    @property
    def teacher_rows(self) -> int:
        """Rows asked of the teacher since the first ring was made; the mirror's."""
        return self._word(TEACHER_ROWS)

    @teacher_rows.setter
    def teacher_rows(self, rows: int) -> None:
        self._store(TEACHER_ROWS, rows)

    def count_seen(self, rows: int) -> None:
        """Count answered rows, sampled or not: the denominator of every estimate."""
        with self._lock:
            self._store(ROWS_SEEN, self._word(ROWS_SEEN) + rows)

    def append(self, payload: bytes, *, feedback: bool = False) -> bool:
        """Hand a payload over; False where there is no room. Never waits for the consumer.

        A sample that finds no room counts as dropped. Feedback doesn't: its caller hears of it, and still has it.
        """
        length = len(payload)
        size = _padded(_FRAME.size + length)
        with self._lock:
            written = self._word(WRITTEN)
            start = written % self.capacity
            to_end = self.capacity - start
            skip = to_end if size > to_end else 0
            if size + skip > self.capacity - (written - self._word(READ)) or size > self.capacity:
                if not feedback:
                    self._store(DROPPED, self._word(DROPPED) + 1)
                return False
            sequence = self._word(NEXT_SEQUENCE)
            if skip:
                struct.pack_into("<I", self._map, HEADER_BYTES + start, WRAP)
                start = 0
            place = HEADER_BYTES + start
            self._map[place + _FRAME.size : place + _FRAME.size + length] = payload
            _FRAME.pack_into(self._map, place, length, _checksum(sequence, payload), sequence)
            if feedback:
                self._store(LABELS, self._word(LABELS) + 1)
            self._store(NEXT_SEQUENCE, sequence + 1)
            self._store(WRITTEN, written + skip + size)
        return True

    def read(self, max_frames: int) -> list[tuple[int, bytes]]:
        """Return the next frames as (sequence, payload), oldest first, without accepting them; call `advance` for that."""
        frames = []
        for sequence, payload in self._frames():
            if sequence > self._expected:
                self.gaps += sequence - self._expected
            self._expected = sequence + 1
            frames.append((sequence, payload))
            if len(frames) == max_frames:
                break
        return frames

    def advance(self) -> None:
        """Accept all that `read` returned: their room is free, and they are never returned again."""
        self._store(ACCEPTED, self._expected)
        self._store(READ, self._cursor)

    def close(self) -> None:
        """Unmap the file."""
        self._words.release()
        self._map.close()

    def _frames(self) -> Iterator[tuple[int, bytes]]:
        written = self._word(WRITTEN)
        while self._cursor < written:
            start = self._cursor % self.capacity
            place = HEADER_BYTES + start
            length: int = struct.unpack_from("<I", self._map, place)[0]
            if length == WRAP:
                self._cursor = min(written, self._cursor + self.capacity - start)
                continue
            end = place + _FRAME.size + length
            if start + _FRAME.size + length > self.capacity or self._cursor + _padded(_FRAME.size + length) > written:
                self._cursor = written  # unreadable: everything up to the commit word is lost, and counted as a gap
                return
            _, checksum, sequence = _FRAME.unpack_from(self._map, place)
            payload = self._map[place + _FRAME.size : end]
            self._cursor += _padded(_FRAME.size + length)
            if checksum == _checksum(sequence, payload):
                yield sequence, payload

    def _word(self, place: int) -> int:
        return self._words[place // 8]

    def _store(self, place: int, value: int) -> None:
        self._words[place // 8] = value


def _padded(size: int) -> int:
    return size + -size % 8


def _checksum(sequence: int, payload: bytes) -> int:
    return zlib.crc32(payload, zlib.crc32(_WORD.pack(sequence)))
