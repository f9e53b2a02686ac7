"""One message for the stream, before it has an offset; what every publisher takes and the spool keeps. Pure, any thread."""

import dataclasses
from typing import Protocol

from protos.errors import UnavailableError
from protos.records import MODEL_HEADER, RECORDS_HEADER, SCHEMA_HEADER, SCHEMA_VERSION
from protos.topics import REPORTS


@dataclasses.dataclass(frozen=True)
class Message:
    """One message for the stream: `kind` is the topic's last part, `value` a batch of `num_records` records."""

    kind: str
    partition: int
    value: bytes
    num_records: int = 1

    def to_spool(self) -> bytes:
        """Return the bytes that the spool keeps: kind, partition and number of records, a newline after each, then the value."""
        return f"{self.kind}\n{self.partition}\n{self.num_records}\n".encode() + self.value

    @classmethod
    def from_spool(cls, payload: bytes) -> "Message":
        """Return the message that `to_spool` wrote; older spools name the whole topic."""
        name, partition, num_records, value = payload.split(b"\n", 3)
        return cls(name.decode().rpartition(".")[2], int(partition), value, int(num_records))

    @property
    def num_rows(self) -> int:
        """Sampled rows that are lost with it; a report holds none."""
        return 0 if self.kind == REPORTS else self.num_records

    def headers(self, model: str) -> dict[str, str]:
        """Return what travels beside the value."""
        return {SCHEMA_HEADER: str(SCHEMA_VERSION), MODEL_HEADER: model, RECORDS_HEADER: str(self.num_records)}


class StreamUnavailable(UnavailableError):
    """The stream didn't take everything: locked, away, or its disk is full.

    Args:
        rest: the messages that were not accepted, in order; keep them and try again. One of them may be on the stream all the same.
    """

    def __init__(self, message: str, *, rest: list[Message], fix: str = "") -> None:
        super().__init__(message, fix=fix)
        self.rest = rest


class Publisher(Protocol):
    """How the mirror publishes: `embedded_publisher` writes the file, `kafka_publisher` asks brokers. One thread."""

    def publish(self, messages: list[Message]) -> None:
        """Write messages, those of one partition in their order; returns once the stream has them safe.

        Raises:
            StreamUnavailable: some were not accepted.
        """
        ...

    def close(self) -> None:
        """Let go of file or brokers."""
        ...
