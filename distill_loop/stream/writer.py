"""How the loop writes to its stream: dead letters, and what an operator replays of them. The pairs are the mirror's to write."""

import dataclasses
from collections.abc import Mapping
from typing import Protocol


@dataclasses.dataclass(frozen=True)
class Outgoing:
    """One message: `kind` is the topic's last part."""

    kind: str
    partition: int
    headers: Mapping[str, str]
    value: bytes


class Writer(Protocol):
    """Writes to the topics of one model. One thread. `embedded_writer` writes the file, `kafka_writer` asks brokers."""

    def write(self, messages: list[Outgoing]) -> None:
        """Write messages, in order; returns once the stream has them safe.

        Raises:
            UnavailableError: the stream didn't take them all; some of them may be on it all the same.
        """
        ...

    def close(self) -> None:
        """Let go of file or brokers."""
        ...
