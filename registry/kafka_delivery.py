"""Messages on their way to Kafka, the same for the mirror's publisher and the loop's writer. Knows no kafka-python itself.

Decides how many bytes may be on their way, and how long an acknowledgement may take: as long as some arrive in time, the others have
theirs. What a failure means is its user's. One thread.
"""

import collections
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar


class _Message(Protocol):
    @property
    def value(self) -> bytes: ...
    @property
    def partition(self) -> int: ...


Sent = TypeVar("Sent", bound=_Message)


class Delivery:
    """Keeps the bytes on their way within bounds, and knows which messages arrived.

    Args:
        producer: kafka-python's.
        max_bytes: of values and headers that are not acknowledged yet; one message may have more.
        patience_s: longest time without an acknowledgement.
        wake: wakes whoever sends, where the producer doesn't at every message; called before a wait.
    """

    def __init__(
        self, producer: Any, max_bytes: int, patience_s: float, *, wake: Callable[[], object] = lambda: None
    ) -> None:
        self._producer = producer
        self._max_bytes = max_bytes
        self._patience_s = patience_s
        self._wake = wake
        self._sent: list[Any] = []
        self._waiting: collections.deque[tuple[int, Any]] = collections.deque()
        self._num_bytes = 0
        self._progress_at = time.monotonic()

    @property
    def num_accepted(self) -> int:
        """Messages that the brokers acknowledged."""
        return sum(future.succeeded() for future in self._sent)

    def send(self, name: str, message: _Message, headers: list[tuple[str, bytes]]) -> None:
        """Hand a message over, waiting for older ones where too many bytes are on their way; raises kafka-python's errors."""
        size = len(message.value) + sum(len(key) + len(value) for key, value in headers)
        while self._waiting and self._num_bytes + size > self._max_bytes:
            self._settle()
        future = self._producer.send(name, message.value, headers=headers, partition=message.partition)
        self._sent.append(future)
        self._waiting.append((size, future))
        self._num_bytes += size

    def finish(self) -> None:
        """Wait until all have arrived; raises kafka-python's errors."""
        while self._waiting:
            self._settle()

    def rest(self, messages: Sequence[Sent]) -> list[Sent]:
        """Return those that weren't acknowledged, sent or not, in their order."""
        arrived = [future.succeeded() for future in self._sent]
        return [message for place, message in enumerate(messages) if place >= len(arrived) or not arrived[place]]

    def _settle(self) -> None:
        size, future = self._waiting[0]
        if not future.succeeded():
            self._wake()
        future.get(max(0.0, self._progress_at + self._patience_s - time.monotonic()))
        self._progress_at = time.monotonic()
        self._waiting.popleft()
        self._num_bytes -= size
