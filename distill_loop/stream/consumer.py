"""The embedded stream's reader. Positions are the loop's: they are part of its checkpoint, nothing is committed here.

Decides only the order in which partitions are read (each from its own position, taking turns). A message that retention removed
before it was read shows as a gap and is counted; a file that somebody replaced is read from its start. One thread.
"""

import contextlib
import dataclasses
import json
import pathlib
import sqlite3
from collections.abc import Iterator

import structlog

from protos.embedded_stream import connect
from protos.errors import UnavailableError
from protos.topics import topic

Position = tuple[str, int]


@dataclasses.dataclass(frozen=True)
class Message:
    """One message: `kind` is the topic's last part."""

    kind: str
    partition: int
    offset: int
    headers: dict[str, str]
    value: bytes


class EmbeddedConsumer:
    """Reads some topics of one model from one SQLite file.

    Args:
        partitions: number of partitions by kind.
    """

    def __init__(self, path: pathlib.Path, model: str, partitions: dict[str, int]) -> None:
        self._path = path
        self._model = model
        self._positions: dict[Position, int] = {
            (kind, partition): 0 for kind, count in partitions.items() for partition in range(count)
        }
        self._connection: sqlite3.Connection | None = None
        self.gaps = 0

    def positions(self) -> dict[Position, int]:
        """Return the next offset of each partition."""
        return dict(self._positions)

    def seek(self, positions: dict[Position, int]) -> None:
        """Read on from these offsets; partitions that are not named start at 0."""
        self._positions.update(
            {position: offset for position, offset in positions.items() if position in self._positions}
        )

    def poll(self, max_messages: int) -> list[Message]:
        """Return the next messages, at most `max_messages` of each partition; `advance` moves past one of them.

        Raises:
            UnavailableError: the file can't be read now.
        """
        messages = []
        with self._reading() as connection:
            self._begin_again_where_replaced(self._ends(connection))
            for (kind, partition), offset in self._positions.items():
                rows = connection.execute(
                    "SELECT offset, headers, value FROM message WHERE topic = ? AND partition = ? AND offset >= ?"
                    " ORDER BY offset LIMIT ?",
                    (topic(self._model, kind), partition, offset, max_messages),
                ).fetchall()
                messages += [
                    Message(kind, partition, found, _headers_of(headers), value) for found, headers, value in rows
                ]
        return messages

    def advance(self, message: Message) -> None:
        """Move past a message that was dealt with; offsets that retention took away before are counted as a gap."""
        position = (message.kind, message.partition)
        self.gaps += message.offset - self._positions[position]
        self._positions[position] = message.offset + 1

    def lag(self) -> int:
        """Return how many messages wait to be read; raises as `poll`."""
        with self._reading() as connection:
            ends = self._ends(connection)
        return sum(max(0, ends[position] - offset) for position, offset in self._positions.items())

    def close(self) -> None:
        """Close the file."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _ends(self, connection: sqlite3.Connection) -> dict[Position, int]:
        """Return the offset that each partition's next message will have."""
        rows = connection.execute("SELECT topic, partition, offset FROM next_offset").fetchall()
        ends = {(name, partition): offset for name, partition, offset in rows}
        return {
            (kind, partition): ends.get((topic(self._model, kind), partition), 0) for kind, partition in self._positions
        }

    def _begin_again_where_replaced(self, ends: dict[Position, int]) -> None:
        """Offsets are never given twice, so a stream that ends before our position is another file: read it from its start."""
        for (kind, partition), offset in self._positions.items():
            if offset > ends[kind, partition]:
                structlog.get_logger().error(
                    "the stream was replaced, it is read from its start", kind=kind, partition=partition, offset=offset
                )
                self._positions[kind, partition] = 0

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


def _headers_of(text: str) -> dict[str, str]:
    """Return a message's headers; none where they can't be read, so that the message is refused for the want of its schema."""
    try:
        headers = json.loads(text)
    except ValueError:
        return {}
    return headers if isinstance(headers, dict) else {}
