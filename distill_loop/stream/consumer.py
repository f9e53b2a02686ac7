"""How the loop reads its stream, whatever it is made of: messages, positions, gaps. Positions are the loop's: they are part of its
checkpoint, and what a broker remembers of them is only a hint.
"""

import dataclasses
from typing import Protocol

Position = tuple[str, int]


@dataclasses.dataclass(frozen=True)
class Message:
    """One message: `kind` is the topic's last part, `time_unix_ns` when the stream took it.

    Where `unreadable` says why, it stands for `num_offsets` messages from `offset` on that a batch holds and nobody here can read.
    """

    kind: str
    partition: int
    offset: int
    headers: dict[str, str]
    value: bytes
    time_unix_ns: int = 0
    num_offsets: int = 1
    unreadable: str = ""

    @property
    def end(self) -> int:
        """The offset after it."""
        return self.offset + self.num_offsets


@dataclasses.dataclass(frozen=True)
class Gap:
    """Messages that retention removed before they were read: `first` is the first offset that is gone, `end` the one after the last.

    stream: identity of the stream that offsets are of; empty where it isn't known.
    """

    kind: str
    partition: int
    first: int
    end: int
    stream: str = ""


class Consumer(Protocol):
    """Reads some topics of one model. One thread. `embedded_consumer` reads the file, `kafka_consumer` asks brokers."""

    def positions(self) -> dict[Position, int]:
        """Return the next offset of each partition."""
        ...

    @property
    def stream(self) -> str:
        """The identity of the stream that positions are of; empty where it isn't known, as on Kafka."""
        ...

    def seek(self, positions: dict[Position, int], stream: str = "") -> None:
        """Read on from these offsets; partitions that are not named start at 0. `stream` is what they are of."""
        ...

    def poll(self, max_messages: int) -> list[Message]:
        """Return the next messages, at most `max_messages` of each partition, without waiting for any; `advance` moves past one.

        However many there are, what comes is about 32 MiB at most, or one message of each partition.

        Messages that were not advanced past come again.

        Raises:
            UnavailableError: the stream can't be read now.
        """
        ...

    def advance(self, message: Message) -> None:
        """Move past a message that was dealt with; offsets that retention took away before it become a gap."""
        ...

    def take_gaps(self) -> list[Gap]:
        """Return the gaps that were found since the last call, oldest first."""
        ...

    def lag(self) -> int:
        """Return how many messages wait to be read; raises as `poll`."""
        ...

    def oldest_waiting_unix_ns(self) -> int | None:
        """Return when the stream took the oldest message of pairs that wasn't advanced past, None where none waits; raises as `poll`."""
        ...

    def close(self) -> None:
        """Let go of file or brokers."""
        ...
