"""Dead letters: a message that can't be understood goes to the dead topic with its reason, once, and never stops the stream."""

import contextlib
import json
import pathlib
import sqlite3
import time

from distill_loop.stream.consumer import Message
from protos.embedded_stream import connect
from protos.errors import UnavailableError
from protos.topics import DEAD, topic


class DeadLetters:
    """Writes to the dead topic of one model. The headers name the source, so a message that is read again isn't written twice."""

    def __init__(self, path: pathlib.Path, model: str) -> None:
        self._path = path
        self._topic = topic(model, DEAD)

    def put(self, message: Message, reason: str) -> None:
        """Write a message's bytes and why it is dead.

        Raises:
            UnavailableError: the stream can't be written now.
        """
        source = {"kind": message.kind, "partition": message.partition, "offset": message.offset}
        headers = json.dumps({**source, "reason": reason[:500]})
        beginning = json.dumps(source)[:-1]
        try:
            with contextlib.closing(connect(self._path)) as connection:
                connection.execute("BEGIN IMMEDIATE")
                # By the bytes too: several dead records may come from one message.
                known = connection.execute(
                    "SELECT 1 FROM message WHERE topic = ? AND substr(headers, 1, ?) = ? AND value = ? LIMIT 1",
                    (self._topic, len(beginning), beginning, message.value),
                ).fetchone()
                if known is None:
                    offset = connection.execute(
                        "INSERT INTO next_offset VALUES (?, 0, 1) ON CONFLICT DO UPDATE SET offset = offset + 1"
                        " RETURNING offset - 1",
                        (self._topic,),
                    ).fetchone()[0]
                    connection.execute(
                        "INSERT INTO message VALUES (?, 0, ?, ?, ?, ?)",
                        (self._topic, offset, time.time_ns(), headers, message.value),
                    )
                connection.execute("COMMIT")
        except (sqlite3.Error, OSError) as error:
            raise UnavailableError(
                f"the dead topic of {self._path} can't be written: {error}", fix="Check its disk"
            ) from None
