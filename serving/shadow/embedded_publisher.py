"""The embedded stream's writer. Offsets are given inside one transaction, so they have no gaps and are never given twice."""

import contextlib
import json
import pathlib
import sqlite3
import time

import structlog

from protos.embedded_stream import connect
from protos.errors import UnavailableError
from protos.topics import PREFIX, topic
from serving.shadow.embedded_retention import Retention
from serving.shadow.message import Message, StreamUnavailable

BUSY = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def check_stream(path: pathlib.Path) -> None:
    """Open the stream once and see that it can be written; one that another process is writing can.

    Raises:
        UnavailableError: it can't be made, or isn't a stream.
    """
    fix = "Set stream.path to a file in a folder that can be written"
    try:
        with contextlib.closing(connect(path)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("ROLLBACK")
    except (FileExistsError, NotADirectoryError):
        raise UnavailableError(
            f"the stream {path} can't be made: a file is where its folder should be", fix=fix
        ) from None
    except OSError as error:
        raise UnavailableError(f"the stream {path} can't be made: {error.strerror}", fix=fix) from None
    except sqlite3.Error as error:
        if error.sqlite_errorcode & 0xFF not in BUSY:  # the rest is the extended code
            raise UnavailableError(f"the stream {path} can't be used: {error}", fix=fix) from None


class EmbeddedPublisher:
    """Publishes one model's messages to one SQLite file; it is made at the first use. One thread."""

    def __init__(
        self,
        path: pathlib.Path,
        model: str,
        *,
        retention_s: float,
        retention_bytes: int = 2**63 - 1,
        prefix: str = PREFIX,
    ) -> None:
        self._path = path
        self._model = model
        self._prefix = prefix
        self._retention = Retention(retention_s, retention_bytes)
        self._connection: sqlite3.Connection | None = None

    def publish(self, messages: list[Message]) -> None:
        """Write messages, all or none, in order.

        Raises:
            StreamUnavailable: none was written.
        """
        try:
            if self._connection is None:
                self._connection = connect(self._path)
            self._write(self._connection, messages)
        except (sqlite3.Error, OSError) as error:
            self.close()
            raise StreamUnavailable(
                f"the stream {self._path} took nothing: {error}",
                rest=messages,
                fix="Check that its disk has room and the file is not damaged",
            ) from None
        self._keep(self._connection, sum(len(message.value) for message in messages))

    def close(self) -> None:
        """Close the file."""
        if self._connection is not None:
            with contextlib.suppress(sqlite3.Error):
                self._connection.close()
            self._connection = None

    def _keep(self, connection: sqlite3.Connection, written_bytes: int) -> None:
        try:
            self._retention.keep(connection, written_bytes)
        except sqlite3.Error as error:  # what was written is safe; the next look may find the file free
            structlog.get_logger().warning("old messages stay on the stream", path=str(self._path), error=str(error))

    def _write(self, connection: sqlite3.Connection, messages: list[Message]) -> None:
        now_ns = time.time_ns()
        connection.execute("BEGIN IMMEDIATE")
        try:
            for message in messages:
                name, headers = topic(self._model, message.kind, self._prefix), json.dumps(message.headers(self._model))
                row = connection.execute(
                    "INSERT INTO next_offset VALUES (?, ?, 1) ON CONFLICT DO UPDATE SET offset = offset + 1 RETURNING offset - 1",
                    (name, message.partition),
                ).fetchone()
                connection.execute(
                    "INSERT INTO message VALUES (?, ?, ?, ?, ?, ?)",
                    (name, message.partition, row[0], now_ns, headers, message.value),
                )
            connection.execute("COMMIT")
        except sqlite3.Error:
            with contextlib.suppress(sqlite3.Error):
                connection.execute("ROLLBACK")
            raise
