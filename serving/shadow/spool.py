"""The spool: where pairs and messages wait on disk while the teacher or the stream is away. Whoever owns it keeps account of it.

Segment files `<number>.seg` of records: u32 length, u32 crc32 of time and payload, i64 unix nanoseconds, payload (little-endian), the payload sealed where
a key is configured. From where to where it is full is its `position`, which the owner commits to the journal: what lies before was taken and
what lies behind was never promised, so an append or a take that a kill cut in two is as if it had not been. Hence the order: append, commit; take,
commit, `clear`. A damaged record costs the rest of its segment. One thread.
"""

import contextlib
import os
import pathlib
import struct
import time
import zlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

import structlog

from protos.errors import FormatError, UnavailableError
from registry.at_rest import AtRest, KeyMissing
from registry.store import sync_folder

#: The bound is kept by removing whole segments; this many make up the bound.
SEGMENTS = 16
CONTEXT = b"spool"
_RECORD = struct.Struct("<IIq")


class Position(NamedTuple):
    """From where to where a spool is full: numbers of segments, and bytes in them. `offset` is of the first, `end` of the last."""

    first: int = 0
    offset: int = 0
    last: int = 0
    end: int = 0


class Kept(NamedTuple):
    """A record, when it was appended, and where it ends in its segment."""

    time_ns: int
    payload: bytes
    end: int


class Spool:
    """A queue of byte strings on disk.

    Args:
        position: what was committed last; None takes up whatever lies in the folder, from its beginning.

    Raises:
        UnavailableError: the folder can't be used.
    """

    def __init__(
        self,
        folder: pathlib.Path,
        *,
        max_bytes: int,
        retention_s: float,
        position: Sequence[int] | None = None,
        at_rest: AtRest | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._folder = folder
        self._max_bytes = max_bytes
        self._segment_bytes = max(4096, max_bytes // SEGMENTS)
        self._retention_s = retention_s
        self._at_rest = at_rest or AtRest()
        self._clock = clock
        self._log = structlog.get_logger(spool=str(folder))
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._sizes = {
                int(path.stem): path.stat().st_size for path in folder.glob("*.seg") if path.stem.isdecimal()
            }
            self.position = self._found() if position is None else self._committed(Position(*position))
        except OSError as error:
            raise self._unavailable(error) from None
        self._peeked = (self.position.first, self.position.offset)

    @property
    def num_bytes(self) -> int:
        """Bytes that were not taken yet."""
        position = self.position
        between = sum(size for number, size in self._sizes.items() if position.first <= number < position.last)
        return max(0, between + position.end - position.offset)

    @property
    def is_empty(self) -> bool:
        """Whether all was taken."""
        return (self.position.first, self.position.offset) == (self.position.last, self.position.end)

    def append(self, payloads: list[bytes]) -> None:
        """Keep payloads, durably.

        Raises:
            UnavailableError: the disk is full or away; nothing of these payloads is kept.
        """
        if not payloads:
            return
        now_ns = int(self._clock() * 1e9)
        pieces = []
        for payload in payloads:
            sealed = self._at_rest.seal(payload, CONTEXT)
            pieces += [_RECORD.pack(len(sealed), _checksum(now_ns, sealed), now_ns), sealed]
        data = b"".join(pieces)
        number, end = self.position.last, self.position.end
        if end and end + len(data) > self._segment_bytes:
            number, end = number + 1, 0
        try:
            with open(os.open(self._path(number), os.O_WRONLY | os.O_CREAT, 0o600), "r+b", buffering=0) as file:
                try:
                    file.truncate(end)
                    file.seek(end)
                    _write_all(file.fileno(), data)
                    os.fsync(file.fileno())
                except OSError:
                    file.truncate(end)
                    raise
            if number not in self._sizes:
                sync_folder(self._folder)
        except OSError as error:
            raise self._unavailable(error) from None
        self._sizes[number] = end + len(data)
        self.position = self.position._replace(last=number, end=end + len(data))

    def has_room(self, payloads: list[bytes]) -> bool:
        """Whether payloads can be appended within the bound; what is larger than the bound has room where nothing else is kept."""
        return self.is_empty or self.num_bytes + sum(map(len, payloads)) <= self._max_bytes

    def peek(self, max_records: int, max_bytes: int = 2**62) -> list[bytes]:
        """Return the oldest records without taking them.

        Raises:
            UnavailableError: the disk is away. KeyMissing: they are sealed with a key that isn't configured.
        """
        while not self.is_empty:
            kept = self._scan(max_records, max_bytes)
            if kept:
                self._peeked = (self.position.first, kept[-1].end)
                return [one.payload for one in kept]
            self._skip_segment()
        return []

    def peek_too_old(self) -> list[bytes] | None:
        """Return records of the oldest segment that are past their age, without taking them; None where none is.

        Their time isn't sealed, so one whose key is missing grows old like the others; it is left out here, and taken with them.
        """
        oldest_ns = (self._clock() - self._retention_s) * 1e9
        while not self.is_empty:
            kept = self._scan(1, opens=False)
            if not kept:
                self._skip_segment()
                continue
            if kept[0].time_ns >= oldest_ns:
                return None
            old = [one for one in self._scan(2**31, opens=False) if one.time_ns < oldest_ns]
            self._peeked = (self.position.first, old[-1].end)
            return self._readable(old)
        return None

    def peek_segment(self) -> list[bytes]:
        """Return what is left in the oldest segment and can be read, without taking it; `take` then takes all of it."""
        if self.is_empty:
            return []
        self._peeked = (self.position.first + 1, 0)
        return self._readable(self._scan(2**31, opens=False))

    def take(self) -> None:
        """Take what was peeked last. The files stay until `clear`."""
        self._move_to(*self._peeked)
        if (
            self.position.first < self.position.last and self.position.offset >= self._sizes.get(self.position.first, 0)
        ) or (self.is_empty and self.position.end):
            self._skip_segment()

    def go_back_to(self, position: Position) -> None:
        """Undo takes that were not committed."""
        self.position, self._peeked = position, (position.first, position.offset)

    def clear(self) -> None:
        """Remove the segments of which all was taken, once that is committed."""
        try:
            for number in [number for number in self._sizes if number < self.position.first]:
                self._path(number).unlink(missing_ok=True)
                del self._sizes[number]
        except OSError as error:
            raise self._unavailable(error) from None

    def _found(self) -> Position:
        """Return the position of a folder that no journal knows, behind the last whole record of it."""
        if not self._sizes:
            return Position()
        first, last = min(self._sizes), max(self._sizes)
        self.position = Position(last, 0, last, self._sizes[last])
        kept = self._scan(2**31, opens=False)
        return Position(first, 0, last, kept[-1].end if kept else 0)

    def _committed(self, position: Position) -> Position:
        """Make the folder what was committed: what was taken goes, and so does what was appended since."""
        for number in list(self._sizes):
            if not position.first <= number <= position.last or (number == position.last and not position.end):
                self._path(number).unlink()
                del self._sizes[number]
            elif number == position.last and self._sizes[number] > position.end:
                os.truncate(self._path(number), position.end)
                self._sizes[number] = position.end
        return position

    def _skip_segment(self) -> None:
        self._move_to(self.position.first + 1, 0)

    def _move_to(self, first: int, offset: int) -> None:
        """Let the spool begin here; behind the last segment there is nothing, and a new one begins."""
        last, end = (self.position.last, self.position.end) if first <= self.position.last else (first, 0)
        self.position, self._peeked = Position(first, offset, last, end), (first, offset)

    def _readable(self, kept: list[Kept]) -> list[bytes]:
        """Return what can be opened of records that are still sealed."""
        payloads = []
        for one in kept:
            with contextlib.suppress(FormatError):
                payloads.append(self._at_rest.open(one.payload, CONTEXT))
        return payloads

    def _scan(self, max_records: int, max_bytes: int = 2**62, *, opens: bool = True) -> list[Kept]:
        """Return records from the position on, of one segment, as they lie there or opened; none where it is damaged there or gone."""
        position, records = self.position, list[Kept]()
        end = position.end if position.first == position.last else self._sizes.get(position.first, 0)
        place = position.offset
        try:
            with self._path(position.first).open("rb") as file:
                file.seek(place)
                while len(records) < max_records and max_bytes > 0 and place < end:
                    header = file.read(_RECORD.size)
                    length, checksum, time_ns = _RECORD.unpack(header) if len(header) == _RECORD.size else (2**32, 0, 0)
                    sealed = file.read(length) if length < 2**32 else b""
                    if len(sealed) < length or checksum != _checksum(time_ns, sealed):
                        self._log.error("the rest of a segment is damaged", segment=position.first, offset=place)
                        break
                    place += _RECORD.size + length
                    max_bytes -= length
                    payload = self._at_rest.open(sealed, CONTEXT) if opens else sealed
                    records.append(Kept(time_ns, payload, place))
        except FileNotFoundError:
            self._log.error("a segment is gone", segment=position.first)
        except KeyMissing:
            if not records:
                raise
        except FormatError as error:
            self._log.error("a record was changed, and costs the rest of its segment", error=str(error))
        except OSError as error:
            raise self._unavailable(error) from None
        return records

    def _path(self, number: int) -> pathlib.Path:
        return self._folder / f"{number:08d}.seg"

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
