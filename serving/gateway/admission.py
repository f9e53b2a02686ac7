"""Admission: the threads that answer callers, and how many requests may be running or waiting for them.

Decides when a request is one too many; it is then refused at once, so that a queue never grows without bound. Counts, never
waits. Calls arrive in gRPC's own thread and end in those of the pool; requests of a stream come and go in the stream's thread.
"""

import contextlib
import threading
from collections.abc import Callable, Iterator
from concurrent import futures
from typing import Any

from serving.gateway.refusal import overload
from serving.telemetry import IN_FLIGHT


class Admission(futures.ThreadPoolExecutor):
    """A thread pool that knows how many calls are inside it.

    Args:
        threads: calls that run at once.
        max_in_flight: calls that run or wait at once, and requests of streams beside them.
    """

    def __init__(self, threads: int, max_in_flight: int) -> None:
        super().__init__(threads, thread_name_prefix="caller")
        self._max_in_flight = max_in_flight
        self._counting = threading.Lock()
        self._inside = 0

    @property
    def inside(self) -> int:
        """Requests running or waiting."""
        return self._inside

    @property
    def full(self) -> bool:
        """Whether one more is one too many."""
        return self._inside >= self._max_in_flight

    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> "futures.Future[Any]":
        """Run a call when a thread is free."""
        future = super().submit(function, *args, **kwargs)
        self._count(1)
        future.add_done_callback(lambda _: self._count(-1))
        return future

    @contextlib.contextmanager
    def one_more(self) -> Iterator[None]:
        """Count a request that runs in a thread of its own.

        Raises:
            Refusal: it is one too many.
        """
        if self.full:
            raise overload(self._inside)
        self._count(1)
        try:
            yield
        finally:
            self._count(-1)

    def _count(self, change: int) -> None:
        with self._counting:
            self._inside += change
            IN_FLIGHT.set(self._inside)
