"""One message for the stream, before it has an offset; what every publisher takes and the spool keeps. Pure, any thread."""

import dataclasses
from typing import Protocol

from protos.errors import UnavailableError
from protos.records import MODEL_HEADER, RECORDS_HEADER, SCHEMA_HEADER, SCHEMA_VERSION
from protos.topics import PAIRS, TRIALS
from serving.shadow.strata import SERVED


@dataclasses.dataclass(frozen=True)
class Message:
    """One message for the stream: `kind` is the topic's last part, `value` a batch of `num_records` records.

    `rows` says of how many handed-over rows of each stratum this message is the fate: a pair is that of its row, a row of a trial only where no pair
    follows it. Labels count as a stratum of their own here, `labels`.
    """

    kind: str
    partition: int
    value: bytes
    num_records: int = 1
    rows: tuple[tuple[str, int], ...] = ()

    def to_spool(self) -> bytes:
        """Return the bytes that spool and journal keep: kind, partition and records with the rows of each stratum, each on a line, then the value."""
        rows = "".join(f" {stratum}={num}" for stratum, num in self.rows)
        return f"{self.kind}\n{self.partition}\n{self.num_records}{rows}\n".encode() + self.value

    @classmethod
    def from_spool(cls, payload: bytes) -> "Message":
        """Return the message that `to_spool` wrote; older spools name the whole topic, and no strata."""
        name, partition, records, value = payload.split(b"\n", 3)
        num_records, *told = records.decode().split(" ")
        kind = name.decode().rpartition(".")[2]
        rows = tuple((stratum, int(num)) for stratum, _, num in (one.rpartition("=") for one in told))
        if not told and kind in (PAIRS, TRIALS) and len(name) > len(kind):
            rows = ((SERVED, int(num_records)),)
        return cls(kind, int(partition), value, int(num_records), rows)

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
