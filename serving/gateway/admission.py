"""Admission: how many requests are inside at once. Counts, never waits."""

import contextlib
import threading
from collections.abc import Iterator

from serving.gateway.refusal import Refusal
from serving.telemetry import IN_FLIGHT


class Admission:
    """Counts the requests inside. Entered by gRPC threads."""

    def __init__(self, max_in_flight: int) -> None:
        self._max_in_flight = max_in_flight
        self._lock = threading.Lock()
        self._inside = 0

    @contextlib.contextmanager
    def admit(self) -> Iterator[None]:
        """Hold a place inside.

        Raises:
            Refusal: RESOURCE_EXHAUSTED where all are taken.
        """
        with self._lock:
            if self._inside >= self._max_in_flight:
                raise Refusal(
                    "RESOURCE_EXHAUSTED",
                    "overload",
                    f"{self._inside} requests are inside already",
                    fix="Send fewer at once, or later",
                )
            self._inside += 1
            IN_FLIGHT.set(self._inside)
        try:
            yield
        finally:
            with self._lock:
                self._inside -= 1
                IN_FLIGHT.set(self._inside)
