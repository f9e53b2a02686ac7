"""A client of kafka-python that reads: how it is made, and what it knows that it doesn't say aloud.

Decides how much one answer of a broker brings, and that no group, no commit and no reset of its own moves a position. Knows what kafka-python keeps
to itself: topics' identities, and where it fetches next. `kafka_consumer` calls it, in its thread and in that of its connection.
"""

import base64
from collections.abc import Mapping
from typing import Any

import kafka
import kafka.errors

from distill_loop.stream.consumer import Message, Position
from distill_loop.stream.kafka_batches import tell_unreadable
from protos.errors import UnavailableError
from registry.kafka_options import CONNECT_TIMEOUT_S, CREATE_FIX, Attempt, check_partitions, options
from registry.sections import KafkaSection

#: Bytes that one answer of a broker brings, in all and of one partition.
FETCH_BYTES = 16 * 2**20
PARTITION_FETCH_BYTES = 4 * 2**20
#: A broker without messages answers after so long; a question waits behind that.
FETCH_MAX_WAIT_MS = 100
#: A broker that doesn't answer a request within this is disconnected.
REQUEST_TIMEOUT_MS = 5000
#: Who leads a partition, and which topic bears a name, is asked at least this often.
METADATA_MAX_AGE_MS = 30_000
#: What a client raises where it doesn't work any more: its own errors, those of a transport or a thread that has ended, and a place that it left out of an answer
#: because nobody leads it.
LOST = (kafka.errors.KafkaError, OSError, RuntimeError, KeyError)


def connect(settings: KafkaSection, client_id: str) -> Any:
    """Return a client that reads without a group, and from nowhere else than it is told.

    Raises:
        UnavailableError: no broker answers, or they refuse us. ConfigurationError: a certificate can't be used.
    """
    with Attempt(settings, kafka.KafkaConsumer.DEFAULT_CONFIG["kafka_client"]) as attempt:
        try:
            client = kafka.KafkaConsumer(
                **options(settings),
                kafka_client=attempt,
                client_id=client_id,
                group_id=None,
                enable_auto_commit=False,
                auto_offset_reset="none",
                fetch_max_bytes=FETCH_BYTES,
                max_partition_fetch_bytes=PARTITION_FETCH_BYTES,
                fetch_max_wait_ms=FETCH_MAX_WAIT_MS,
                enable_incremental_fetch_sessions=False,  # sessions that partitions leave and join all the time
                request_timeout_ms=REQUEST_TIMEOUT_MS,
                metadata_max_age_ms=METADATA_MAX_AGE_MS,
            )
        except (kafka.errors.KafkaError, OSError):
            raise attempt.failed() from None
    tell_unreadable(client)
    return client


def check_topics(client: Any, settings: KafkaSection, partitions: Mapping[str, int]) -> None:
    """Compare the brokers' topics with what is wanted, numbers of partitions by name; raises UnavailableError, or one of `LOST`."""
    found = {name: len(client.partitions_for_topic(name)) for name in client.topics() & set(partitions)}
    missing = [name for name in partitions if name not in found]
    if missing and settings.security != "plaintext":  # brokers don't show what we have no right to
        raise UnavailableError(
            f"Kafka at {settings.bootstrap} shows this user no topic {', '.join(missing)}",
            fix=f"{CREATE_FIX}, or have its operator grant the rights Describe and Read",
        )
    check_partitions(partitions, found)


def message_of(position: Position, record: Any) -> Message:
    """Return what a client brought."""
    headers = {name: (text or b"").decode(errors="replace") for name, text in record.headers}
    return Message(*position, record.offset, headers, bytes(record.value or b""), max(0, record.timestamp) * 1_000_000)


def first_since(client: Any, place: kafka.TopicPartition, since_unix_ns: int, timeout_s: float) -> int | None:
    """Return the first offset of what brokers took since then, None where they have nothing; raises one of `LOST`."""
    found = client.offsets_for_times({place: since_unix_ns // 1_000_000}, timeout_ms=int(timeout_s * 1000)).get(place)
    return None if found is None else int(found.offset)


def put_away(client: Any) -> None:
    """End a client; takes a few seconds at most."""
    client.close(autocommit=False, timeout_ms=int(CONNECT_TIMEOUT_S * 1000))


def identity_of(client: Any, name: str) -> str:
    """Return the identity of a topic, as Kafka's own tools write it: a name that is given anew has another. Empty from brokers before 2.8."""
    found = client._cluster.topic_id(name)
    return base64.urlsafe_b64encode(found.bytes).decode().rstrip("=") if found is not None and found.int else ""


def look_again(client: Any, timeout_s: float) -> None:
    """Ask now which topics there are and who leads them; raises one of `LOST`."""
    client._net.run(client._manager.wait_for, client._cluster.request_update(), int(timeout_s * 1000))


def fetch_position(client: Any, place: kafka.TopicPartition) -> int:
    """Return the offset that is fetched next. It moves past what holds no message (a transaction's marker), as no message tells us."""
    return int(client._subscription.position(place).offset)
