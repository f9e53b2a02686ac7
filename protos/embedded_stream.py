"""The embedded stream's file format: one SQLite database in WAL mode, with Kafka's surface (topic, partition, offset, headers).

Decides the schema that the mirror's publisher writes and the loop's consumer reads; neither imports the other. Offsets of a
partition start at 0, have no gaps, and are never given twice, also after retention removed the oldest messages.
"""

import contextlib
import pathlib
import sqlite3

SCHEMA = """
CREATE TABLE IF NOT EXISTS message (
    topic TEXT NOT NULL,
    partition INTEGER NOT NULL,
    offset INTEGER NOT NULL,
    time_unix_ns INTEGER NOT NULL,
    headers TEXT NOT NULL,
    value BLOB NOT NULL,
    PRIMARY KEY (topic, partition, offset)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS next_offset (
    topic TEXT NOT NULL,
    partition INTEGER NOT NULL,
    offset INTEGER NOT NULL,
    PRIMARY KEY (topic, partition)
) WITHOUT ROWID;
"""


def connect(path: pathlib.Path, *, timeout_s: float = 5.0) -> sqlite3.Connection:
    """Open the stream file, making it (readable by its owner only) and its tables where they are missing.

    The connection is in autocommit mode: writers begin their own transactions with BEGIN IMMEDIATE.

    Raises:
        sqlite3.Error: the file can't be opened or is not a database; OSError: its folder can't be made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        with contextlib.suppress(FileExistsError):
            path.touch(mode=0o600, exist_ok=False)
    connection = sqlite3.connect(path, timeout=timeout_s, isolation_level=None, check_same_thread=False)
    try:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.executescript(SCHEMA)
    except sqlite3.Error:
        connection.close()
        raise
    return connection
