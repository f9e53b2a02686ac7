"""Writes the loop's messages to the embedded stream's file, all of a call in one transaction. One thread."""

import contextlib
import json
import pathlib
import sqlite3
import time

from distill_loop.stream.writer import Outgoing
from protos.embedded_stream import connect
from protos.errors import UnavailableError
from protos.topics import PREFIX, topic


class EmbeddedWriter:
    """Writes to the topics of one model; opens the file for each call, since calls are rare."""

    def __init__(self, path: pathlib.Path, model: str, *, prefix: str = PREFIX) -> None:
        self._path = path
        self._model = model
        self._prefix = prefix

    def write(self, messages: list[Outgoing]) -> None:
        """Write messages, all or none, in order.

        Raises:
            UnavailableError: the stream can't be written now.
        """
        try:
            with contextlib.closing(connect(self._path)) as connection:
                connection.execute("BEGIN IMMEDIATE")
                for place in dict.fromkeys((message.kind, message.partition) for message in messages):
                    self._insert(connection, [one for one in messages if (one.kind, one.partition) == place])
                connection.execute("COMMIT")
        except (sqlite3.Error, OSError) as error:
            raise UnavailableError(
                f"the stream {self._path} can't be written: {error}", fix="Check the file and its disk"
            ) from None

    def close(self) -> None:
        """Nothing is held between calls."""

    def _insert(self, connection: sqlite3.Connection, messages: list[Outgoing]) -> None:
        """Give messages of one partition their offsets, all at once."""
        partition, num = messages[0].partition, len(messages)
        name = topic(self._model, messages[0].kind, self._prefix)
        (end,) = connection.execute(
            "INSERT INTO next_offset VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET offset = offset + excluded.offset RETURNING offset",
            (name, partition, num),
        ).fetchone()
        now_ns = time.time_ns()
        connection.executemany(
            "INSERT INTO message VALUES (?, ?, ?, ?, ?, ?)",
            [
                (name, partition, offset, now_ns, json.dumps(dict(message.headers)), message.value)
                for offset, message in enumerate(messages, end - num)
            ],
        )
