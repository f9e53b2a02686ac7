"""How the loop reads its stream, whatever it is made of: messages, positions, gaps. Positions are the loop's: they are part of its
checkpoint, and what a broker remembers of them is only a hint. They are of one stream, which is known by its identity: the file's, or a Kafka topic's.
"""

import dataclasses
import time
from collections.abc import Mapping
from typing import Protocol

import structlog

Position = tuple[str, int]
#: Clocks of brokers, and of machines that a stream moves between, differ by less.
CLOCK_SKEW_NS = 60_000_000_000


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
    """What was read up to `offset` is there no more: another stream lies in its place, or it is the same one, cut off before our position.

    stream, successor: identities of the two, empty where one isn't known; equal and known where it is the same one.
    end: where it is the same one, where it ended when that was seen; others may have had the offsets from a lower one on by then.
    read_from: where it is read on.
    """

    kind: str
    partition: int
    offset: int
    stream: str
    successor: str
    end: int | None = None
    read_from: int = 0

    def log(self) -> None:
        """Say it in the log."""
        what = "the stream was replaced, it is read from its start"
        if self.end is not None:
            what = "the stream was cut off before our position, it is read on from where messages may be new"
        structlog.get_logger().error(what, **dataclasses.asdict(self))


def first_new_unix_ns(read_unix_ns: int) -> int:
    """Return the earliest time of what came to a stream after a message that was read, 0 where that one's time isn't known.

    A stream that was cut off before our position may have grown since: up to its end not all was read. What is younger than this is read again, as repeats.
    """
    return max(0, min(read_unix_ns, time.time_ns()) - CLOCK_SKEW_NS)


class Consumer(Protocol):
    """Reads some topics of one model. One thread. `embedded_consumer` reads the file, `kafka_consumer` asks brokers."""

    def positions(self) -> dict[Position, int]:
        """Return the next offset of each partition."""
        ...

    def streams(self) -> dict[str, str]:
        """Return the identity of the stream that positions of each kind are of; empty where it isn't known (yet)."""
        ...

    def times(self) -> dict[Position, int]:
        """Return when the stream took the message before each position; those that aren't known are left out."""
        ...

    def seek(
        self,
        positions: dict[Position, int],
        streams: Mapping[str, str] | None = None,
        times: Mapping[Position, int] | None = None,
    ) -> None:
        """Read on from these offsets; partitions that are not named stay where they are, at 0 in the beginning.

        streams: what they are of, by kind; where it isn't known, what is there. times: of the messages before them.
        """
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
        """Return the partitions that were found to be of another stream, or cut off, since the last call, where something of what is gone was read."""
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
