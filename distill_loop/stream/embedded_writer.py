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
                for message in messages:
                    self._insert(connection, message)
                connection.execute("COMMIT")
        except (sqlite3.Error, OSError) as error:
            raise UnavailableError(
                f"the stream {self._path} can't be written: {error}", fix="Check the file and its disk"
            ) from None

    def close(self) -> None:
        """Nothing is held between calls."""

    def _insert(self, connection: sqlite3.Connection, message: Outgoing) -> None:
        name = topic(self._model, message.kind, self._prefix)
        offset = connection.execute(
            "INSERT INTO next_offset VALUES (?, ?, 1) ON CONFLICT DO UPDATE SET offset = offset + 1 RETURNING offset - 1",
            (name, message.partition),
        ).fetchone()[0]
        connection.execute(
            "INSERT INTO message VALUES (?, ?, ?, ?, ?, ?)",
            (name, message.partition, offset, time.time_ns(), json.dumps(dict(message.headers)), message.value),
        )
