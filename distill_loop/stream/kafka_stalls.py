"""Partitions of Kafka that have messages and bring none: a client that a fault inside kafka-python left deaf would else be believed for ever, since
it answers questions for offsets.

Decides when that is so: the broker has more than was fetched, and neither time nor many polls moved the position. What is then done is
`kafka_consumer`'s. Knows no kafka-python. One thread.
"""

import time
from collections.abc import Callable, Hashable, Mapping
from typing import Generic, TypeVar

Place = TypeVar("Place", bound=Hashable)
#: A partition brings nothing for so long, and in so many polls that brought nothing at all.
STALLED_S = 10.0
STALLED_POLLS = 20


class Stalls(Generic[Place]):
    """Watches the partitions of one client.

    Args:
        clock: seconds that only go forward.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._num_polls = 0
        self._behind: dict[Place, tuple[int, float, int]] = {}

    def begin(self) -> None:
        """Begin with another client."""
        self._behind.clear()

    def note_empty_poll(self) -> None:
        """Note that the client was asked, and had nothing of any partition."""
        self._num_polls += 1

    def look(self, positions: Mapping[Place, int], ends: Mapping[Place, int]) -> dict[Place, float]:
        """Return the partitions that bring nothing, and for how many seconds.

        Args:
            positions: offsets that are fetched next.
            ends: of the logs, as brokers say.
        """
        now, stalled = self._clock(), {}
        for place, offset in positions.items():
            known = self._behind.get(place)
            if ends[place] <= offset:
                self._behind.pop(place, None)
            elif known is None or known[0] != offset:
                self._behind[place] = (offset, now, self._num_polls)
            elif now - known[1] > STALLED_S and self._num_polls - known[2] >= STALLED_POLLS:
                stalled[place] = now - known[1]
        return stalled
