"""How the loop writes to its stream: dead letters, and what an operator replays of them. The pairs are the mirror's to write."""

import dataclasses
from collections.abc import Mapping
from typing import Protocol

from protos.errors import UnavailableError


@dataclasses.dataclass(frozen=True)
class Outgoing:
    """One message: `kind` is the topic's last part."""

    kind: str
    partition: int
    headers: Mapping[str, str]
    value: bytes


class NotWritten(UnavailableError):
    """Some messages are not known to be on the stream: `rest`, in their order. Where `too_large`, its first will never be taken as it is."""

    def __init__(self, message: str, *, rest: list[Outgoing], too_large: bool = False, fix: str = "") -> None:
        super().__init__(message, fix=fix)
        self.rest = rest
        self.too_large = too_large


class Writer(Protocol):
    """Writes to the topics of one model. One thread. `embedded_writer` writes the file, `kafka_writer` asks brokers."""

    def write(self, messages: list[Outgoing]) -> None:
        """Write messages, in order; returns once the stream has them safe.

        Raises:
            UnavailableError: the stream took none. NotWritten: it didn't take them all; of the rest some may be on it all the same.
        """
        ...

    def close(self) -> None:
        """Let go of file or brokers."""
        ...
