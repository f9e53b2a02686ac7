"""The spool: where samples and messages wait on disk while the teacher or the stream is away. Bounded; the oldest go first.

Segment files `<number>.seg` of records: u32 length, u32 crc32 of time and payload, i64 unix nanoseconds, payload (little-
endian). A segment is removed once all of it was taken, so a crash may give some records again, never lose one: whoever reads
the stream counts each record once. A torn end (a crash while writing) is skipped. One thread.
"""

import itertools
import os
import pathlib
import struct
import time
import zlib
from collections.abc import Callable
from typing import NamedTuple

from protos.errors import UnavailableError

_RECORD = struct.Struct("<IIq")
#: The bound is kept by removing whole segments; this many make up the bound.
SEGMENTS = 16


class _Record(NamedTuple):
    """A record, and where it ends in its segment."""

    time_ns: int
    payload: bytes
    end: int


class Spool:
    """A queue of byte strings on disk.

    Args:
        on_dropped: given the records that were dropped, and why: `spool_full` or `too_old`.
    """

    def __init__(
        self,
        folder: pathlib.Path,
        *,
        max_bytes: int,
        retention_s: float,
        on_dropped: Callable[[list[bytes], str], None],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._folder = folder
        self._max_bytes = max_bytes
        self._segment_bytes = max(4096, max_bytes // SEGMENTS)
        self._retention_s = retention_s
        self._on_dropped = on_dropped
        self._clock = clock
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            segments = [path for path in folder.glob("*.seg") if path.stem.isdecimal()]
            self._segments = sorted(segments, key=lambda path: int(path.stem))
            self._sizes = {path: path.stat().st_size for path in self._segments}
        except OSError as error:
            raise self._unavailable(error) from None
        self._taken_to = 0
        self._peeked_to = 0
        self._writable: pathlib.Path | None = None

    @property
    def num_bytes(self) -> int:
        """Bytes on disk that were not taken yet."""
        return sum(self._sizes.values()) - self._taken_to

    def append(self, payloads: list[bytes]) -> None:
        """Keep payloads, durably, dropping the oldest segments where the bound asks for it.

        Raises:
            UnavailableError: the disk is full or away; nothing of these payloads is kept.
        """
        if not payloads:
            return
        now_ns = int(self._clock() * 1e9)
        data = b"".join(
            _RECORD.pack(len(payload), _checksum(now_ns, payload), now_ns) + payload for payload in payloads
        )
        path = self._segment_for(len(data))
        size = self._sizes.get(path, 0)
        try:
            with open(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600), "r+b", buffering=0) as file:
                file.seek(size)
                try:
                    _write_all(file.fileno(), data)
                    os.fsync(file.fileno())
                except OSError:
                    file.truncate(size)
                    raise
        except OSError as error:
            raise self._unavailable(error) from None
        if path not in self._sizes:
            self._segments.append(path)
        self._sizes[path] = size + len(data)
        while sum(self._sizes.values()) > self._max_bytes and len(self._segments) > 1:
            self._drop_oldest()

    def peek(self, max_records: int) -> list[bytes]:
        """Return the oldest records without taking them; those past their age are dropped and counted."""
        while self._segments:
            records = self._scan(self._segments[0], self._taken_to, max_records)
            if not records:
                self._remove_oldest()
                continue
            too_old = self._too_old(records)
            if too_old:
                self._taken_to = too_old[-1].end
                self._on_dropped([record.payload for record in too_old], "too_old")
            if fresh := records[len(too_old) :]:
                self._peeked_to = fresh[-1].end
                return [record.payload for record in fresh]
        return []

    def take(self) -> None:
        """Take what `peek` returned last."""
        self._taken_to = self._peeked_to
        if self._segments and self._taken_to >= self._sizes[self._segments[0]]:
            self._remove_oldest()

    def _too_old(self, records: list[_Record]) -> list[_Record]:
        oldest_ns = (self._clock() - self._retention_s) * 1e9
        return list(itertools.takewhile(lambda record: record.time_ns < oldest_ns, records))

    def _segment_for(self, num_bytes: int) -> pathlib.Path:
        """Return the segment to append to: a new one after a start, since the last may have a torn end, and when full."""
        if self._writable in self._sizes and self._sizes[self._writable] + num_bytes <= self._segment_bytes:
            return self._writable
        number = int(self._segments[-1].stem) + 1 if self._segments else 0
        self._writable = self._folder / f"{number:08d}.seg"
        return self._writable

    def _scan(self, path: pathlib.Path, start: int, max_records: int) -> list[_Record]:
        """Return up to `max_records` records from `start`."""
        records: list[_Record] = []
        place = start
        try:
            with path.open("rb") as file:
                file.seek(start)
                while len(records) < max_records:
                    header = file.read(_RECORD.size)
                    if len(header) < _RECORD.size:
                        break
                    length, checksum, time_ns = _RECORD.unpack(header)
                    payload = file.read(length)
                    if len(payload) < length or checksum != _checksum(time_ns, payload):
                        break
                    place += _RECORD.size + length
                    records.append(_Record(time_ns, payload, place))
        except OSError as error:
            raise self._unavailable(error) from None
        return records

    def _drop_oldest(self) -> None:
        records = self._scan(self._segments[0], self._taken_to, 2**31)
        self._on_dropped([record.payload for record in records], "spool_full")
        self._remove_oldest()

    def _remove_oldest(self) -> None:
        path = self._segments.pop(0)
        del self._sizes[path]
        self._taken_to = self._peeked_to = 0
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise self._unavailable(error) from None

    def _unavailable(self, error: OSError) -> UnavailableError:
        return UnavailableError(
            f"the spool {self._folder} can't be used: {error.strerror}", fix="Make room or set capture.dir"
        )


def _checksum(time_ns: int, payload: bytes) -> int:
    return zlib.crc32(payload, zlib.crc32(struct.pack("<q", time_ns)))


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
