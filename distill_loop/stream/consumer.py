"""How the loop reads its stream, whatever it is made of: messages, positions, gaps. Positions are the loop's: they are part of its
checkpoint, and what a broker remembers of them is only a hint. They are of one stream, which is known by its identity: the file's, or a Kafka topic's.
"""

import dataclasses
from collections.abc import Mapping
from typing import Protocol

Position = tuple[str, int]
#: What is logged where another stream lies in the old one's place.
REPLACED = "the stream was replaced, it is read from its start"


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


@dataclasses.dataclass(frozen=True)
class Replaced:
    """Another stream lies where the one was that our position is of. It is read from its start; of the old one nothing more from `offset` on.

    stream, successor: identities of the two, empty where one isn't known; equal where it is the same one, and ends before our position.
    """

    kind: str
    partition: int
    offset: int
    stream: str
    successor: str


class Consumer(Protocol):
    """Reads some topics of one model. One thread. `embedded_consumer` reads the file, `kafka_consumer` asks brokers."""

    def positions(self) -> dict[Position, int]:
        """Return the next offset of each partition."""
        ...

    def streams(self) -> dict[str, str]:
        """Return the identity of the stream that positions of each kind are of; empty where it isn't known (yet)."""
        ...

    def seek(self, positions: dict[Position, int], streams: Mapping[str, str] | None = None) -> None:
        """Read on from these offsets; partitions that are not named start at 0. `streams`: what they are of, by kind; where it isn't known, what is there."""
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

    def take_replaced(self) -> list[Replaced]:
        """Return the partitions that were found to be of another stream since the last call, and where something of the old one was read."""
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
