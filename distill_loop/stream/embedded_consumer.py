"""The embedded stream's reader.

Decides only the order in which partitions are read (each from its own position, taking turns). A message that retention removed
before it was read shows as a gap and is counted; a file that somebody replaced is read from its start, an older copy of the same one from where it may hold
what is new. One thread.
"""

import contextlib
import json
import pathlib
import sqlite3
from collections.abc import Iterable, Iterator, Mapping

from distill_loop.stream.consumer import Gap, Message, Position, Replaced, first_new_unix_ns
from protos.embedded_stream import connect, identity_of
from protos.errors import UnavailableError
from protos.topics import PAIRS, PREFIX, topic

#: Bytes that one poll brings: each partition has its part of them, so that none starves another, and one message at least.
MAX_POLL_BYTES = 32 * 2**20


class EmbeddedConsumer:
    """Reads some topics of one model from one SQLite file.

    Args:
        partitions: number of partitions by kind.
    """

    def __init__(self, path: pathlib.Path, model: str, partitions: dict[str, int], *, prefix: str = PREFIX) -> None:
        self._path = path
        self._names = {kind: topic(model, kind, prefix) for kind in partitions}
        self._positions: dict[Position, int] = {
            (kind, partition): 0 for kind, count in partitions.items() for partition in range(count)
        }
        self._connection: sqlite3.Connection | None = None
        self._gaps: list[Gap] = []
        self._replaced: list[Replaced] = []
        self._stream = ""
        self._times: dict[Position, int] = {}

    def positions(self) -> dict[Position, int]:
        """Return the next offset of each partition."""
        return dict(self._positions)

    def streams(self) -> dict[str, str]:
        """Return the identity of the file that positions are of, for each kind the same; empty before it was read."""
        return dict.fromkeys(self._names, self._stream)

    def times(self) -> dict[Position, int]:
        """Return when the file took the message before each position, as far as that is known."""
        return dict(self._times)

    def seek(
        self,
        positions: dict[Position, int],
        streams: Mapping[str, str] | None = None,
        times: Mapping[Position, int] | None = None,
    ) -> None:
        """Read on from these offsets, if the file is the one that they are of; partitions that are not named stay where they are, at 0 in the beginning."""
        self._stream = next(filter(None, (streams or {}).values()), "")
        for position, offset in positions.items():
            if position in self._positions:
                self._positions[position] = offset
                self._times[position] = (times or {}).get(position, 0)

    def poll(self, max_messages: int) -> list[Message]:
        """Return the next messages, at most `max_messages` of each partition; `advance` moves past one of them.

        Raises:
            UnavailableError: the file can't be read now.
        """
        messages = []
        with self._reading() as connection:
            ends = self._ends(connection)
            self._find_again(connection, identity_of(connection), ends)
            for (kind, partition), offset in self._positions.items():
                rows = connection.execute(
                    # A text that is no UTF-8 would raise; as bytes it is a message like others.
                    "SELECT offset, CAST(headers AS BLOB), CAST(value AS BLOB), time_unix_ns FROM message"
                    " WHERE topic = ? AND partition = ? AND offset >= ?"
                    " ORDER BY offset LIMIT ?",
                    (self._names[kind], partition, offset, max_messages),
                )
                found = _some(rows, MAX_POLL_BYTES // len(self._positions))
                if not found and offset < ends[kind, partition]:  # all that was there is gone
                    self._gaps.append(Gap(kind, partition, offset, ends[kind, partition], self._stream))
                    self._positions[kind, partition] = ends[kind, partition]
                messages += [
                    Message(kind, partition, number, _headers_of(headers), value, time_ns)
                    for number, headers, value, time_ns in found
                ]
        return messages

    def advance(self, message: Message) -> None:
        """Move past a message that was dealt with; offsets that retention took away before it become a gap."""
        position = (message.kind, message.partition)
        if message.offset > self._positions[position]:
            self._gaps.append(Gap(*position, self._positions[position], message.offset, self._stream))
        self._positions[position] = message.end
        self._times[position] = message.time_unix_ns

    def take_gaps(self) -> list[Gap]:
        """Return the gaps that were found since the last call, oldest first."""
        gaps, self._gaps = self._gaps, []
        return gaps

    def take_replaced(self) -> list[Replaced]:
        """Return the partitions that were found to be of another file since the last call."""
        replaced, self._replaced = self._replaced, []
        return replaced

    def lag(self) -> int:
        """Return how many messages wait to be read; raises as `poll`."""
        with self._reading() as connection:
            ends = self._ends(connection)
        return sum(max(0, ends[position] - offset) for position, offset in self._positions.items())

    def oldest_waiting_unix_ns(self) -> int | None:
        """Return when the stream took the oldest message of pairs that wasn't advanced past, None where none waits; raises as `poll`."""
        with self._reading() as connection:
            times = [
                connection.execute(
                    "SELECT time_unix_ns FROM message WHERE topic = ? AND partition = ? AND offset >= ? ORDER BY offset LIMIT 1",
                    (self._names[kind], partition, offset),
                ).fetchone()
                for (kind, partition), offset in self._positions.items()
                if kind == PAIRS
            ]
        return min((row[0] for row in times if row), default=None)

    def close(self) -> None:
        """Close the file."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _ends(self, connection: sqlite3.Connection) -> dict[Position, int]:
        """Return the offset that each partition's next message will have."""
        rows = connection.execute("SELECT topic, partition, offset FROM next_offset").fetchall()
        ends = {(name, partition): offset for name, partition, offset in rows}
        return {(kind, partition): ends.get((self._names[kind], partition), 0) for kind, partition in self._positions}

    def _find_again(self, connection: sqlite3.Connection, found: str, ends: dict[Position, int]) -> None:
        """Go to the start of another file than the one that our positions are of: it says who it is, or, where we don't know ours, it ends before our position.
        The same one that does was put back from an older copy, and may have grown since."""
        before, self._stream = self._stream, found
        for position, offset in self._positions.items():
            if offset and before and found != before:
                self._go_on(Replaced(*position, offset, before, found))
            elif offset > ends[position] and not before:
                self._go_on(Replaced(*position, offset, "", found))
            elif offset > ends[position]:
                row = connection.execute(
                    "SELECT min(offset) FROM message WHERE topic = ? AND partition = ? AND time_unix_ns >= ?",
                    (self._names[position[0]], position[1], first_new_unix_ns(self._times.get(position, 0))),
                ).fetchone()
                read_from = ends[position] if row[0] is None else row[0]
                self._go_on(Replaced(*position, offset, found, found, ends[position], read_from))

    def _go_on(self, replaced: Replaced) -> None:
        replaced.log()
        self._replaced.append(replaced)
        self._positions[replaced.kind, replaced.partition] = replaced.read_from
        if replaced.end is None:
            self._times.pop((replaced.kind, replaced.partition), None)

    @contextlib.contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        try:
            if self._connection is None:
                self._connection = connect(self._path)
            yield self._connection
        except (sqlite3.Error, OSError) as error:
            self.close()
            raise UnavailableError(
                f"the stream {self._path} can't be read: {error}", fix="Check the file and its disk"
            ) from None


def _some(rows: Iterable[tuple[int, bytes, bytes, int]], max_bytes: int) -> list[tuple[int, bytes, bytes, int]]:
    """Return rows until their values have so many bytes: no more are read then."""
    found, num_bytes = [], 0
    for row in rows:
        found.append(row)
        num_bytes += len(row[2])
        if num_bytes >= max_bytes:
            break
    return found


def _headers_of(text: bytes) -> dict[str, str]:
    """Return a message's headers; none where they can't be read, so that the message is refused for the want of its schema."""
    try:
        headers = json.loads(text)
    except ValueError:
        return {}
    if not isinstance(headers, dict):
        return {}
    return {name: text for name, text in headers.items() if isinstance(text, str)}
