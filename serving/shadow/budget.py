"""The teacher budget: a hard cap on rows asked, checked before a call is made. A retry is a call; a crash forfeits what it took.

Two bounds at once: a share of the rows that all workers answered (with a burst ahead of it), and rows a second. The count lives in
the rings' headers, so a restarted mirror goes on where it was. One thread.
"""

import math
import time
from collections.abc import Callable
from typing import Protocol

from serving.config import TeacherSection


class Count(Protocol):
    """Where the counts live: a ring's header, or those of several."""

    teacher_rows: int

    @property
    def rows_seen(self) -> int: ...


def allowed_rows(settings: TeacherSection, rows_seen: int) -> float:
    """Return how many rows may ever be asked after this many were answered: the hard cap."""
    return settings.budget_burst + settings.budget_ratio * rows_seen


class Budget:
    """Args:
    ring: knows the rows seen, and keeps the rows spent.
    clock: monotonic seconds.
    """

    def __init__(self, settings: TeacherSection, ring: Count, clock: Callable[[], float] = time.monotonic) -> None:
        self._settings = settings
        self._ring = ring
        self._clock = clock
        # A lot is reserved whole: a slow rate must still be able to save up for one.
        self._depth = max(settings.max_calls_per_s, float(settings.max_batch))
        self._tokens = self._depth
        self._refilled_at = clock()

    def pace(self) -> float:
        """Return the share of the trial arm's rows that is evaluated now: unspent rows over `budget_reserve`, at most 1. So trials
        live on what the uniform arm leaves, and something is there when the traffic turns."""
        saved = allowed_rows(self._settings, self._ring.rows_seen) - self._ring.teacher_rows
        return min(1.0, max(0.0, saved / self._settings.budget_reserve))

    def reserve(self, rows: int) -> bool:
        """Take the right to ask about `rows` rows once; False where either bound forbids it."""
        if self._left() < rows:
            return False
        self._spend(rows)
        return True

    def reserve_up_to(self, rows: int) -> int:
        """Take the right to ask about as many of `rows` rows as both bounds allow; returns how many."""
        allowed = max(0, min(rows, math.floor(self._left())))
        if allowed:
            self._spend(allowed)
        return allowed

    def refund(self, rows: int) -> None:
        """Give back what was reserved and not spent."""
        self._tokens += rows
        self._ring.teacher_rows -= rows

    def _left(self) -> float:
        """Return how many rows both bounds leave now."""
        now = self._clock()
        rate = self._settings.max_calls_per_s
        self._tokens = min(self._depth, self._tokens + (now - self._refilled_at) * rate)
        self._refilled_at = now
        return min(self._tokens, allowed_rows(self._settings, self._ring.rows_seen) - self._ring.teacher_rows)

    def _spend(self, rows: int) -> None:
        self._tokens -= rows
        self._ring.teacher_rows += rows
