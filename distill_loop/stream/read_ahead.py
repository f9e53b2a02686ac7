"""What a consumer has read of its partitions, and its user has not yet dealt with: messages that wait, and positions that only move past what was dealt with.

Decides that a gap counts once everything before it was dealt with, and that no more is read ahead while there is enough (in messages and in bytes). Knows no broker. One thread.
"""

import collections
import itertools
from collections.abc import Iterable, Sequence

from distill_loop.stream.consumer import Gap, Message, Position


class ReadAhead:
    """Positions of some partitions, at 0 in the beginning, and what was read from there on.

    Args:
        max_messages, max_bytes: read ahead in all partitions together; one answer more may come.
    """

    def __init__(self, positions: Iterable[Position], max_messages: int, max_bytes: int) -> None:
        self.positions: dict[Position, int] = dict.fromkeys(positions, 0)
        #: When the stream took the messages before our positions, as far as that is known.
        self.times: dict[Position, int] = {}
        self.num_bytes = 0
        self._max_messages = max_messages
        self._max_bytes = max_bytes
        self._waiting: dict[Position, collections.deque[Message]] = {one: collections.deque() for one in self.positions}
        #: Gaps that begin after messages that wait.
        self._coming: dict[Position, collections.deque[Gap]] = {one: collections.deque() for one in self.positions}
        self._gaps: list[Gap] = []

    def waiting(self, position: Position) -> Sequence[Message]:
        """Return the messages of a partition that wait, oldest first."""
        return self._waiting[position]

    def any_waits(self) -> bool:
        """Whether a message does, of any partition."""
        return any(self._waiting.values())

    def first(self, count: int) -> list[Message]:
        """Return the first messages of each partition."""
        return [message for waiting in self._waiting.values() for message in itertools.islice(waiting, count)]

    def room(self, count: int) -> int:
        """Return how many messages may be read ahead, 0 where there are enough, or `count` of each partition."""
        counts = [len(waiting) for waiting in self._waiting.values()]
        if self.num_bytes >= self._max_bytes or min(counts) >= count:
            return 0
        return max(0, self._max_messages - sum(counts))

    def next(self, position: Position) -> int:
        """Return the offset that is read next."""
        waiting, coming = self._waiting[position], self._coming[position]
        return max(self.positions[position], waiting[-1].end if waiting else 0, coming[-1].end if coming else 0)

    def put(self, position: Position, messages: list[Message]) -> None:
        """Take what was read."""
        self._waiting[position].extend(messages)
        self.num_bytes += sum(len(message.value) for message in messages)

    def put_gap(self, gap: Gap) -> None:
        """Take a gap that comes next."""
        self._coming[gap.kind, gap.partition].append(gap)
        self._note_gaps((gap.kind, gap.partition))

    def advance(self, message: Message) -> None:
        """Move past a message that was dealt with, and past gaps behind it."""
        position = (message.kind, message.partition)
        waiting = self._waiting[position]
        while waiting and waiting[0].offset <= message.offset:
            self.num_bytes -= len(waiting.popleft().value)
        self.positions[position] = message.end
        if message.time_unix_ns:
            self.times[position] = message.time_unix_ns
        self._note_gaps(position)

    def go_to(self, position: Position, offset: int) -> None:
        """Read on from there; what waits is forgotten."""
        self.num_bytes -= sum(len(message.value) for message in self._waiting[position])
        self._waiting[position].clear()
        self._coming[position].clear()
        self.positions[position] = offset

    def take_gaps(self) -> list[Gap]:
        """Return the gaps that were moved past since the last call, oldest first."""
        gaps, self._gaps = self._gaps, []
        return gaps

    def _note_gaps(self, position: Position) -> None:
        coming = self._coming[position]
        while coming and coming[0].first == self.positions[position]:
            gap = coming.popleft()
            self._gaps.append(gap)
            self.positions[position] = gap.end
