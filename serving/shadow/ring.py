"""The ring: how a worker hands samples to the mirror without waiting - a memory-mapped file, one producer, one consumer.

Byte format (little-endian; also in docs/formats.md, so that a worker in another language can write it):

  header, 4,096 bytes
      0  magic "EVRING01"        8  capacity u64: bytes of data after the header     16  epoch u64: when it was made
     64  written u64: bytes ever committed, the commit word      72  next_sequence u64      80  rows_seen u64      88  dropped u64
     96  labels u64: frames of feedback, which are no samples    104  counted_from u64: the number from which strata are counted
    112  counts_epoch u64: the epoch of the ring in which the counts began, 0 for this one
    128  read u64: bytes ever accepted by the consumer          136  teacher_rows u64: the mirror's own count, see budget.py
    144  accepted u64: the sequence number after the last accepted frame
    512  the table of strata, the producer's, see strata.py
  data: frames, each at a multiple of 8, never split over the end
      u32 length, u32 crc32 of sequence and payload, u64 sequence, payload, padding
      length 0xFFFFFFFF: the rest up to the end is empty, go on at the start

The producer writes a frame, counts it, gives it its number, then moves `written`: a frame of a killed producer is never seen, and one that was
counted and got no number gets it from the next producer. The consumer moves `read` only after
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

import structlog

from protos.errors import FormatError, UnavailableError
from serving.shadow.strata import ROW_BYTES, ROWS, SERVED, TABLE, StratumCounts, Table

MAGIC = b"EVRING01"
HEADER_BYTES = 4096
CAPACITY, EPOCH = 8, 16
WRITTEN, NEXT_SEQUENCE, ROWS_SEEN, DROPPED, LABELS, COUNTED_FROM, COUNTS_EPOCH = 64, 72, 80, 88, 96, 104, 112
READ, TEACHER_ROWS, ACCEPTED = 128, 136, 144
#: What a ring that takes another's place goes on from.
CARRIED = (NEXT_SEQUENCE, ROWS_SEEN, DROPPED, LABELS, COUNTED_FROM, TEACHER_ROWS, ACCEPTED)
WRAP = 0xFFFFFFFF
_FRAME = struct.Struct("<IIQ")
_WORD = struct.Struct("<Q")
_LENGTH = struct.Struct("<I")


def create(path: pathlib.Path, capacity_bytes: int, *, teacher_rows_if_lost: int = 0) -> None:
    """Make the ring's file, or keep one that is there: what the last process left in it is still to be read.

    An empty ring of another size is replaced, and its counts go on. A file that is no ring is moved aside, never removed; the samples that
    were in it are a gap in the numbers, as far as its header can be believed.

    Args:
        teacher_rows_if_lost: where the count of rows asked of the teacher begins when there is none to go on from.

    Raises:
        UnavailableError: the folder can't be written, the disk is full, or a ring of another size still holds samples.
    """
    capacity_bytes -= capacity_bytes % 8
    header = bytearray(HEADER_BYTES)
    _WORD.pack_into(header, TEACHER_ROWS, teacher_rows_if_lost)
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        if path.exists():
            try:
                ring = Ring(path)
            except FormatError as error:
                _carry(_move_aside(path, error), header, NEXT_SEQUENCE, DROPPED, LABELS, COUNTED_FROM, ACCEPTED)
            else:
                with contextlib.closing(ring):
                    if ring.capacity == capacity_bytes:
                        return
                    _refuse_to_lose(ring, path)
                    _carry(ring.header(), header, *CARRIED)
        header[:24] = MAGIC + _WORD.pack(capacity_bytes) + _WORD.pack(time.time_ns())
        aside = path.with_suffix(".new")
        with open(os.open(aside, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600), "r+b") as file:
            _take_room(file.fileno(), HEADER_BYTES + capacity_bytes)
            file.write(header)
            file.flush()
            os.fsync(file.fileno())
        aside.rename(path)
    except OSError as error:
        raise UnavailableError(
            f"cannot make the ring {path}: {error.strerror}", fix="Make room or set capture.dir"
        ) from None


def _carry(before: bytes | None, header: bytearray, *words: int) -> None:
    """Let a new header go on from the words and the table of another."""
    if before is not None:
        for place in words:
            header[place : place + 8] = before[place : place + 8]
        header[COUNTS_EPOCH : COUNTS_EPOCH + 8] = _WORD.pack(_counts_epoch(before))
        header[TABLE : TABLE + ROWS * ROW_BYTES] = before[TABLE : TABLE + ROWS * ROW_BYTES]


def _counts_epoch(header: bytes) -> int:
    """Return when a header's counts began."""
    epoch, counts_epoch = (_WORD.unpack_from(header, place)[0] for place in (EPOCH, COUNTS_EPOCH))
    return int(counts_epoch or epoch)


def _refuse_to_lose(ring: "Ring", path: pathlib.Path) -> None:
    if ring.pending_bytes:
        raise UnavailableError(
            f"the ring {path} has {ring.capacity} bytes and still holds samples",
            fix="Start once with the old capture.ring_bytes, or remove it",
        )


def _move_aside(path: pathlib.Path, error: FormatError) -> bytes | None:
    """Keep a damaged ring under another name; returns its header where that can be believed."""
    with path.open("rb") as file:
        header = file.read(HEADER_BYTES)
    believed, num_lost = False, 0
    if len(header) == HEADER_BYTES:
        places = (NEXT_SEQUENCE, ACCEPTED, COUNTED_FROM, LABELS)
        next_sequence, accepted, counted_from, labels = (_WORD.unpack_from(header, place)[0] for place in places)
        num_lost = next_sequence - accepted
        told = counted_from + labels + Table(memoryview(bytearray(header))).num_handed()
        believed = (
            _counts_epoch(header) <= time.time_ns()
            and 0 <= num_lost <= path.stat().st_size // _FRAME.size
            and told in (next_sequence, next_sequence + 1)
        )
    kept = path.with_name(f"{path.stem}.damaged-{time.time_ns()}")
    path.rename(kept)
    structlog.get_logger().error(
        "a damaged ring was moved aside, with its samples",
        error=error.message,
        kept=str(kept),
        samples=num_lost if believed else 0,
    )
    return header if believed else None


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
                self._table = Table(memoryview(self._map)[:HEADER_BYTES])
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
        self._is_producer = False
        self._cursor = self._word(READ)
        self._expected = self._word(ACCEPTED)
        self.gaps = 0

    @property
    def epoch(self) -> int:
        """When the ring was made: sequences of different epochs don't compare."""
        return self._word(EPOCH)

    @property
    def counts_epoch(self) -> int:
        """When the counts began: in this ring, or in one whose place it took."""
        return self._word(COUNTS_EPOCH) or self.epoch

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

    @property
    def position(self) -> int:
        """Bytes ever read through this object, accepted or not."""
        return self._cursor

    @property
    def has_moved(self) -> bool:
        """Whether something was read, or passed over unread, that isn't accepted."""
        return self._cursor != self._word(READ)

    @property
    def expected(self) -> int:
        """The sequence number after the last frame that was read through this object."""
        return self._expected

    def header(self) -> bytes:
        """Return a copy of the header."""
        return self._map[:HEADER_BYTES]

    def counts(self) -> dict[str, StratumCounts]:
        """Return the worker's counts by stratum."""
        return self._table.read()

    @property
    def counted_from(self) -> int:
        """The sequence number from which on rows are counted by stratum."""
        return self._word(COUNTED_FROM)

    @property
    def told(self) -> int:
        """The sequence number up to which rows are counted: beyond `next_sequence` by the row of an append that has not ended."""
        told = self._word(COUNTED_FROM) + self._table.num_handed() + self.labels
        return max(told, self.next_sequence)

    def count_seen(self, rows: int, stratum: str = SERVED, confidence_sum: float = 0.0) -> None:
        """Count answered rows, sampled or not: the denominator of every estimate.

        Args:
            confidence_sum: of each row the highest probability of its answer, summed.
        """
        with self._lock:
            self._begin()
            self._store(ROWS_SEEN, self._word(ROWS_SEEN) + rows)
            self._table.count_seen(stratum, rows, confidence_sum)

    def append(
        self, payload: bytes, *, stratum: str = SERVED, arms: tuple[str, ...] = (), feedback: bool = False
    ) -> bool:
        """Hand a payload over; False where there is no room. Never waits for the consumer.

        A sample that finds no room counts as dropped. Feedback doesn't: its caller hears of it, and still has it. Nor does it take
        room in a ring that is half full: a flood of it must not cost samples.

        Args:
            arms: those that took the row.
        """
        length = len(payload)
        size = _padded(_FRAME.size + length)
        with self._lock:
            self._begin()
            written = self._word(WRITTEN)
            start = written % self.capacity
            to_end = self.capacity - start
            skip = to_end if size > to_end else 0
            room = self.capacity // (2 if feedback else 1) - (written - self._word(READ))
            if size + skip > room:
                if not feedback:
                    self._table.count_dropped(stratum, arms)
                    self._store(DROPPED, self._word(DROPPED) + 1)
                return False
            sequence = self._word(NEXT_SEQUENCE)
            if skip:
                _LENGTH.pack_into(self._map, HEADER_BYTES + start, WRAP)
                start = 0
            place = HEADER_BYTES + start
            self._map[place + _FRAME.size : place + _FRAME.size + length] = payload
            _FRAME.pack_into(self._map, place, length, _checksum(sequence, payload), sequence)
            if feedback:
                self._store(LABELS, self._word(LABELS) + 1)
            else:
                self._table.count_handed(stratum, arms)
            self._store(NEXT_SEQUENCE, sequence + 1)
            self._store(WRITTEN, written + skip + size)
        return True

    def read(self, max_frames: int, max_bytes: int = 2**62) -> list[tuple[int, bytes]]:
        """Return the next frames as (sequence, payload), oldest first, without accepting them; call `advance` for that.

        Args:
            max_bytes: no further frame is read once so many bytes of payload were.
        """
        frames: list[tuple[int, bytes]] = []
        data, capacity, written = self._map, self.capacity, self._word(WRITTEN)
        cursor, expected = self._cursor, self._expected
        while cursor < written and len(frames) < max_frames and max_bytes > 0:
            start = cursor % capacity
            place = HEADER_BYTES + start
            (length,) = _LENGTH.unpack_from(data, place)
            if length == WRAP:
                cursor = min(written, cursor + capacity - start)
                continue
            size = _FRAME.size + length
            padded = size + -size % 8
            if start + size > capacity or cursor + padded > written:
                cursor = written  # unreadable: everything up to the commit word is lost, and counted as a gap
                break
            cursor += padded
            _, checksum, sequence = _FRAME.unpack_from(data, place)
            framed = data[place + 8 : place + size]  # the sequence number lies right before the payload
            if checksum == zlib.crc32(framed):
                self.gaps += max(0, sequence - expected)
                expected = sequence + 1
                max_bytes -= length
                frames.append((sequence, framed[8:]))
        self._cursor, self._expected = cursor, expected
        return frames

    def go_to(self, position: int, expected: int) -> None:
        """Read on from another place: from where an earlier process that kept its own account has come to, or from the beginning again."""
        self._cursor, self._expected = position, expected

    def advance(self) -> None:
        """Accept all that `read` returned: their room is free, and they are never returned again."""
        self._store(ACCEPTED, self._expected)
        self._store(READ, self._cursor)

    def close(self) -> None:
        """Unmap the file."""
        self._table.release()
        self._words.release()
        self._map.close()

    def _begin(self) -> None:
        """Set right, once, what a producer that was killed in the middle of an append left, or one of the version before never counted."""
        if self._is_producer:
            return
        self._table.name_rows()
        told = self._word(COUNTED_FROM) + self._table.num_handed() + self.labels
        if told > self.next_sequence:
            self._store(NEXT_SEQUENCE, told)
        else:
            self._store(COUNTED_FROM, self._word(COUNTED_FROM) + self.next_sequence - told)
        self._is_producer = True

    def _word(self, place: int) -> int:
        return self._words[place // 8]

    def _store(self, place: int, value: int) -> None:
        self._words[place // 8] = value


def _padded(size: int) -> int:
    return size + -size % 8


def _checksum(sequence: int, payload: bytes) -> int:
    return zlib.crc32(payload, zlib.crc32(_WORD.pack(sequence)))
