"""The circuit breaker between mirror and teacher: after some failures in a row, calls are not even tried for a while.

closed -> (failures in a row) -> open -> (time) -> half-open, one call -> closed or open again. Remembers when it was open. Thread-safe.
"""

import collections
import threading
import time
from collections.abc import Callable

#: Newest spans that are remembered.
MAX_SPANS = 64


class CircuitBreaker:
    """Args:
    failures: failed calls in a row that open it.
    open_s: time until one call is let through.
    clock: monotonic seconds.
    wall_clock_ns: unix nanoseconds.
    """

    def __init__(
        self,
        failures: int,
        open_s: float,
        clock: Callable[[], float] = time.monotonic,
        wall_clock_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self._failures_to_open = failures
        self._open_s = open_s
        self._clock = clock
        self._wall_clock_ns = wall_clock_ns
        self._spans: collections.deque[tuple[int, int]] = collections.deque(maxlen=MAX_SPANS)
        self._lock = threading.Lock()
        self._failures = 0
        self._opened_at: float | None = None
        self._probing = False

    @property
    def is_open(self) -> bool:
        """Whether a call would be refused now; False once the pause is over, so that whoever waits may try."""
        with self._lock:
            return self._refuses()

    @property
    def spans(self) -> list[tuple[int, int]]:
        """The newest spans in which it was open, oldest first: start and end in unix nanoseconds, 0 for the end of one that lasts.

        One begins with the failure that opens it and ends with the next call that is answered: what is tried in between fails, and is part of it.
        """
        with self._lock:
            return list(self._spans)

    def allow(self) -> bool:
        """Return whether a call may be made now; a half-open breaker allows one."""
        with self._lock:
            if self._refuses():
                return False
            self._probing = self._opened_at is not None
            return True

    def abandoned(self) -> None:
        """Note that an allowed call was not made after all."""
        with self._lock:
            self._probing = False

    def succeeded(self) -> None:
        """Note an answered call: the breaker closes."""
        with self._lock:
            if self._opened_at is not None:
                start, _ = self._spans.pop()
                self._spans.append((start, max(self._wall_clock_ns(), start)))
            self._failures, self._opened_at, self._probing = 0, None, False

    def failed(self) -> None:
        """Note a failed call: enough of them in a row, or a failed probe, open the breaker."""
        with self._lock:
            self._failures += 1
            if self._probing or self._failures >= self._failures_to_open:
                if self._opened_at is None:
                    last, _ = self._spans[-1] if self._spans else (0, 0)
                    self._spans.append((max(self._wall_clock_ns(), last + 1), 0))  # a clock that is set back
                self._opened_at, self._probing = self._clock(), False

    def _refuses(self) -> bool:
        if self._opened_at is None:
            return False
        return self._probing or self._clock() - self._opened_at < self._open_s
