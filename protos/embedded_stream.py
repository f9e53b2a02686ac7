"""The embedded stream's file format: one SQLite database in WAL mode, with Kafka's surface (topic, partition, offset, headers).

Decides the schema that the mirror's publisher writes and the loop's consumer reads; neither imports the other. Offsets of a
partition start at 0, have no gaps, and are never given twice, also after retention removed the oldest messages. Who opens a file first gives it a random
identity, so that another file in its place is known for one.
"""

import contextlib
import pathlib
import secrets
import sqlite3
import time

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
CREATE TABLE IF NOT EXISTS identity (
    place INTEGER PRIMARY KEY CHECK (place = 0),
    id TEXT NOT NULL
);
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
    deadline = time.monotonic() + timeout_s
    try:
        while not _prepared(connection, deadline):
            time.sleep(0.01)
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def _prepared(connection: sqlite3.Connection, deadline: float) -> bool:
    """Make the file what it should be; False where another process is about to, before the deadline: of two that make the file at once
    SQLite refuses one without the wait that others get."""
    try:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.executescript(SCHEMA)
        if not identity_of(connection):
            connection.execute("INSERT OR IGNORE INTO identity VALUES (0, ?)", (secrets.token_hex(16),))
    except sqlite3.OperationalError as error:
        if time.monotonic() >= deadline or error.sqlite_errorcode & 0xFF not in (
            sqlite3.SQLITE_BUSY,
            sqlite3.SQLITE_LOCKED,
        ):
            raise
        return False
    return True


def identity_of(connection: sqlite3.Connection) -> str:
    """Return the identity of a file; nothing where it has none."""
    row = connection.execute("SELECT CAST(id AS TEXT) FROM identity").fetchone()
    return str(row[0]) if row else ""
