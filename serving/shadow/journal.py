"""The journal: what the mirror has come to, kept so that one that is killed at any moment goes on as if it had not been.

Two files that are written in turn, each the whole state and what is in flight: messages for the stream and pairs that wait for the teacher, which have
left the rings or a spool and are not placed yet. The newest whole file counts; a torn one is told by its checksum, and the other one holds. Decides the
bytes of the files (docs/formats.md), not what they mean. One thread.

A killed process needs no sync: what it wrote is in the system's memory. A power cut does, so a commit that goes with a change of a spool is synced.
"""

import contextlib
import json
import os
import pathlib
import struct
import zlib
from collections.abc import Sequence
from typing import Any

import structlog

from protos.errors import FormatError, UnavailableError
from registry.at_rest import AtRest
from registry.store import sync_folder
from serving.config import JOURNAL_FILE_BYTES
from serving.shadow.message import Message

MAGIC = b"EVJRNL01"
#: Room taken for each file when it is made, so that a disk that is full later doesn't stop a step.
FIRST_BYTES = JOURNAL_FILE_BYTES
CONTEXT = b"journal"
_HEADER = struct.Struct("<8sQIII")
_PIECE = struct.Struct("<cI")
_MESSAGE, _PAIR = b"m", b"p"


class Journal:
    """The two files of one model. `state` is what was committed last, None where nothing was; `messages` and `pairs` were in flight then.

    Raises:
        UnavailableError: the folder can't be used.
        KeyMissing: what was in flight is sealed with a key that isn't configured.
    """

    def __init__(self, folder: pathlib.Path, at_rest: AtRest | None = None) -> None:
        self._at_rest = at_rest or AtRest()
        self._folder = folder
        self._generation = 0
        self.state: dict[str, Any] | None = None
        self.messages: list[Message] = []
        self.pairs: list[bytes] = []
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._files = [_open(folder / f"journal-{place}") for place in (0, 1)]
            sync_folder(folder)
            found = [one for file in self._files if (one := _read(file)) is not None]
        except OSError as error:
            raise self._unavailable(error) from None
        if found:
            self._generation, state, in_flight = max(found)
            self.state = json.loads(state)
            self._take_up(self._at_rest.open(in_flight, CONTEXT))
        elif any(os.fstat(file).st_size and os.pread(file, 8, 0) == MAGIC for file in self._files):
            structlog.get_logger().error("the journal is damaged, and the counts begin anew", folder=str(folder))

    def commit(
        self, state: dict[str, Any], messages: Sequence[Message], pairs: Sequence[bytes], *, durable: bool = False
    ) -> None:
        """Make this the state that the next process goes on from.

        Args:
            durable: whether it must also outlast a power cut.

        Raises:
            UnavailableError: the disk is full or away; what was committed before still holds.
        """
        pieces = []
        for message in messages:
            raw = message.to_spool()
            pieces += [_PIECE.pack(_MESSAGE, len(raw)), raw]
        for pair in pairs:
            pieces += [_PIECE.pack(_PAIR, len(pair)), pair]
        in_flight = self._at_rest.seal(b"".join(pieces), CONTEXT) if pieces else b""
        told = json.dumps(state, separators=(",", ":")).encode()
        generation = self._generation + 1
        checksum = _checksum(generation, told, in_flight)
        data = b"".join([_HEADER.pack(MAGIC, generation, len(told), len(in_flight), checksum), told, in_flight])
        file = self._files[generation % 2]
        try:
            view, place = memoryview(data), 0
            while place < len(data):
                place += os.pwrite(file, view[place:], place)
            if durable:
                os.fsync(file)
        except OSError as error:
            raise self._unavailable(error) from None
        self._generation = generation

    def close(self) -> None:
        """Close the files."""
        for file in self._files:
            os.close(file)

    def _take_up(self, in_flight: bytes) -> None:
        place = 0
        while place < len(in_flight):
            kind, length = _PIECE.unpack_from(in_flight, place)
            place += _PIECE.size
            raw = in_flight[place : place + length]
            place += length
            if kind == _MESSAGE:
                self.messages.append(Message.from_spool(raw))
            elif kind == _PAIR:
                self.pairs.append(raw)
            else:
                raise FormatError(
                    f"the journal in {self._folder} holds a piece of kind {kind!r}", fix="Use the version that wrote it"
                )

    def _unavailable(self, error: OSError) -> UnavailableError:
        return UnavailableError(
            f"the journal in {self._folder} can't be used: {error.strerror}", fix="Make room or set capture.dir"
        )


def _open(path: pathlib.Path) -> int:
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    if not os.fstat(file).st_size and hasattr(os, "posix_fallocate"):
        with contextlib.suppress(OSError):  # a disk that is full now may have room at the first commit
            os.posix_fallocate(file, 0, FIRST_BYTES)
    return file


def _read(file: int) -> tuple[int, bytes, bytes] | None:
    """Return generation, state and what was in flight; None where the file is empty or torn."""
    header = os.pread(file, _HEADER.size, 0)
    if len(header) < _HEADER.size:
        return None
    magic, generation, num_state, num_in_flight, checksum = _HEADER.unpack(header)
    if magic != MAGIC or num_state + num_in_flight > os.fstat(file).st_size:
        return None
    body = os.pread(file, num_state + num_in_flight, _HEADER.size)
    state, in_flight = body[:num_state], body[num_state:]
    return (generation, state, in_flight) if _checksum(generation, state, in_flight) == checksum else None


def _checksum(generation: int, state: bytes, in_flight: bytes) -> int:
    start = zlib.crc32(struct.pack("<QII", generation, len(state), len(in_flight)))
    return zlib.crc32(in_flight, zlib.crc32(state, start))
