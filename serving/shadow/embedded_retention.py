"""Keeps the embedded stream's file within its age and its size: the oldest messages of all topics go first.

Decides when to look and what goes. Offsets are left alone: a reader that comes too late sees a gap. The file doesn't shrink, what is
freed is written again. Called by the file's publishers, each after what it wrote itself; one thread.
"""

import itertools
import sqlite3
import time

#: Time between two looks, and the part of the bound that is written before a look comes sooner.
INTERVAL_S, EVERY_PART = 60.0, 16
#: What is kept of a file that was too large, so that the next look has nothing to do.
KEPT = 0.9
#: Times are taken together to so much, to find the oldest.
GRAIN_NS = 1_000_000_000


class Retention:
    """Removes what is older or more than is kept.

    Args:
        max_bytes: of the file's pages that are in use.
    """

    def __init__(self, max_age_s: float, max_bytes: int) -> None:
        self._max_age_s = max_age_s
        self._max_bytes = max_bytes
        self._looked_at = 0.0
        self._num_bytes = 0

    def keep(self, connection: sqlite3.Connection, written_bytes: int) -> None:
        """Look whether anything has to go, where it is time to; `connection` is outside of a transaction.

        Raises:
            sqlite3.Error: the file can't be written; what is too much goes another time.
        """
        self._num_bytes += written_bytes
        now = time.monotonic()
        if now - self._looked_at < INTERVAL_S and self._num_bytes < self._max_bytes // EVERY_PART:
            return
        self._looked_at, self._num_bytes = now, 0
        before_ns = time.time_ns() - int(self._max_age_s * 1e9)
        if used_bytes(connection) > self._max_bytes:
            before_ns = max(before_ns, self._oldest_kept(connection))
        connection.execute("DELETE FROM message WHERE time_unix_ns < ?", (before_ns,))

    def _oldest_kept(self, connection: sqlite3.Connection) -> int:
        """Return the time from which on messages are kept, so that those take a little less than the bound."""
        grains = connection.execute(
            "SELECT time_unix_ns / ?, sum(length(value) + length(headers) + 50) FROM message GROUP BY 1 ORDER BY 1 DESC",
            (GRAIN_NS,),
        ).fetchall()
        ((total,),) = connection.execute("SELECT sum(length(value) + length(headers) + 50) FROM message").fetchall()
        # A page holds less than its size: what is used is more than what was written.
        allowed = KEPT * self._max_bytes * total / used_bytes(connection)
        sums = itertools.accumulate(num_bytes for _, num_bytes in grains)
        kept = [grain for (grain, _), so_far in zip(grains, sums, strict=True) if so_far <= allowed]
        oldest: int = kept[-1] if kept else grains[0][0]  # what just came stays
        return oldest * GRAIN_NS


def used_bytes(connection: sqlite3.Connection) -> int:
    """Return the bytes of the pages that hold something."""
    pages, free, size = (
        connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "freelist_count", "page_size")
    )
    return int((pages - free) * size)
