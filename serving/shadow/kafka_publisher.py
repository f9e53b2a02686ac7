"""Kafka as the stream, its writing side: kafka-python's idempotent producer, and what we decide around it.

`publish` hands everything over, waits until the brokers have it safe, and says what they didn't take. What bounds it:

- **Bytes**: at most `max_in_flight_bytes` are with the producer; the library has no such bound of its own.
- **Time**: it waits at most `acknowledge_timeout_s` without an acknowledgement. After that the stream is away, and `publish` fails
  at once, so that the mirror spools at its full rate, until a producer is connected again. That is made in a thread of its own.
- **A broker that answers but takes nothing** (too few replicas) is tried with one message, for a short time that doubles, and then
  left alone five times as long, so that the mirror waits for a sixth of the time at most.

A failed delivery ends its producer: force-closed, never flushed, and buried before another is made. kafka-python would keep trying
what is queued, and a later producer id would let it arrive long after what follows. What was already in a socket may still be
taken by the broker: the stream then has a message twice, and the loop knows repeats by their record ids. One thread publishes.
"""

import contextlib
import time
from typing import Any

import kafka
import kafka.errors

from protos.errors import EverstillError, FormatError, UnavailableError
from protos.topics import DEAD, KINDS, LABELS, PAIRS, topic
from registry.connecting import Connection
from registry.kafka_delivery import Delivery
from registry.kafka_options import (
    CONNECT_TIMEOUT_S,
    OVERHEAD_BYTES,
    Attempt,
    check_partitions,
    forbidden,
    options,
    unreachable,
)
from registry.sections import StreamSection
from serving.shadow.message import Message, StreamUnavailable

#: Nothing lingers: a step waits for its last message. While one batch of a partition is under way, what follows fills the next, up to this.
BATCH_BYTES = 2**20
#: A topic that no broker knows is asked for so long.
TOPIC_WAIT_MS = 1500
#: The first try of a stream that was away waits so long; each one that fails doubles it.
FIRST_TRY_S = 0.5
#: A stream that fails is left alone for a moment; one that is tried again in vain so many times as long, and at most `REST_S`.
FIRST_REST_S = 1.0
REST_FACTOR = 5
REST_S = 30.0

RETRIED = "Nothing is lost: it is tried again"
TOO_LARGE = (kafka.errors.MessageSizeTooLargeError, kafka.errors.RecordListTooLargeError)
TOO_LARGE_FIX = "Raise the topic's max.message.bytes to what `everstill stream topics` asks for"


class KafkaPublisher:
    """Publishes one model's messages. It connects at its first use; one thread."""

    def __init__(self, settings: StreamSection, model: str) -> None:
        self._settings = settings.kafka
        self._model = model
        self._names = {kind: topic(model, kind, settings.prefix) for kind in KINDS}
        self._partitions = {
            name: settings.partitions if kind in (PAIRS, LABELS) else 1
            for kind, name in self._names.items()
            if kind != DEAD
        }
        self._connection = Connection(self._connect, _bury, name=f"kafka-producer-{model}")
        self._failures = 0
        #: Why the stream is away, where no connection failed.
        self._error: EverstillError = UnavailableError(f"Kafka at {self._settings.bootstrap} is away", fix=RETRIED)
        self._rest_until = 0.0
        self._connect_wait_s = self._settings.acknowledge_timeout_s

    def publish(self, messages: list[Message]) -> None:
        """Write messages, those of one partition in their order; returns once the brokers have acknowledged all.

        Raises:
            StreamUnavailable: some were not acknowledged.
            FormatError: one is larger than a message may be; none was sent.
        """
        if not messages:
            return
        self._check_sizes(messages)
        producer = self._producer(messages)
        begin, patience_s = 0, self._settings.acknowledge_timeout_s
        if self._failures:
            begin = 1
            tried_s = min(FIRST_TRY_S * 2 ** (self._failures - 1), patience_s)
            self._deliver(producer, messages[:1], messages[1:], tried_s)
        self._deliver(producer, messages[begin:], [], patience_s)
        self._failures = 0
        self._connect_wait_s = patience_s

    def close(self) -> None:
        """Let go of the brokers. Nothing waits: every `publish` has ended in an acknowledgement or an error."""
        self._connection.close()

    def _check_sizes(self, messages: list[Message]) -> None:
        for message in messages:
            if len(message.value) > self._settings.max_message_bytes:
                raise FormatError(
                    f"a message of {len(message.value)} bytes for {self._names[message.kind]} is larger than"
                    f" stream.kafka.max_message_bytes, {self._settings.max_message_bytes}",
                    fix="Split it, or raise the setting and the topic's max.message.bytes",
                )

    def _producer(self, messages: list[Message]) -> Any:
        """Return the producer, waiting for it only where the stream isn't known to be away."""
        producer = None
        if time.monotonic() >= self._rest_until:
            producer = self._connection.get(self._connect_wait_s)
            self._connect_wait_s = 0.0
        if producer is None:
            error = self._connection.error or self._error
            raise StreamUnavailable(error.message, rest=messages, fix=error.fix)
        return producer

    def _deliver(self, producer: Any, messages: list[Message], after: list[Message], patience_s: float) -> None:
        """Send messages and wait for their acknowledgements; `after` is what isn't sent if that fails."""
        delivery = Delivery(producer, self._settings.max_in_flight_bytes, patience_s)
        began, in_vain = time.monotonic(), self._failures > 0
        try:
            for message in messages:
                headers = [(name, value.encode()) for name, value in message.headers(self._model).items()]
                delivery.send(self._names[message.kind], message, headers)
            delivery.finish()
        except (kafka.errors.KafkaError, ValueError) as error:  # ValueError: the topic lost a partition
            producer._sender.force_close()  # before it is known what arrived: nothing more is sent
            self._connection.give_up()
            self._failures += 1
            ended = time.monotonic()
            self._rest_until = ended + (min(REST_FACTOR * (ended - began), REST_S) if in_vain else FIRST_REST_S)
            self._error = UnavailableError(
                f"Kafka at {self._settings.bootstrap} took {delivery.num_accepted} of {len(messages)} messages: {error}",
                fix=TOO_LARGE_FIX if isinstance(error, TOO_LARGE) else RETRIED,
            )
            rest = delivery.rest(messages) + after
            raise StreamUnavailable(self._error.message, rest=rest, fix=self._error.fix) from None

    def _connect(self) -> Any:
        patience_ms = int(self._settings.acknowledge_timeout_s * 1000)
        compression = self._settings.compression
        with Attempt(self._settings, kafka.KafkaProducer.DEFAULT_CONFIG["kafka_client"]) as attempt:
            try:
                producer = kafka.KafkaProducer(
                    **options(self._settings),
                    kafka_client=attempt,
                    client_id=f"everstill-mirror-{self._model}",
                    acks="all",
                    enable_idempotence=True,
                    compression_type=None if compression == "none" else compression,
                    batch_size=min(BATCH_BYTES, self._settings.max_message_bytes),
                    linger_ms=0,
                    max_request_size=self._settings.max_message_bytes + OVERHEAD_BYTES,
                    max_block_ms=TOPIC_WAIT_MS,
                    # A leader that is silent is asked again, or another one is, while we still wait. We say when it is over.
                    request_timeout_ms=max(patience_ms // 2, 100),
                    delivery_timeout_ms=100 * patience_ms,
                )
            except (kafka.errors.KafkaError, OSError):
                raise attempt.failed() from None
        for name in self._partitions:  # all in one request: kafka-python makes a tenth of a second's pause before each
            producer._sender.add_topic(name)
        try:
            for name, count in self._partitions.items():
                check_partitions({name: count}, {name: self._count(producer, name)})
        except EverstillError:
            _bury(producer)
            raise
        return producer

    def _count(self, producer: Any, name: str) -> int:
        """Return how many partitions a topic has, 0 where there is none."""
        try:
            return len(producer.partitions_for(name))
        except kafka.errors.KafkaTimeoutError:
            return 0
        except kafka.errors.AuthorizationError:
            raise forbidden(self._settings, name, "Describe, and Write") from None
        except kafka.errors.KafkaError as error:
            raise unreachable(self._settings, error) from None


def _bury(producer: Any) -> None:
    """End a producer without sending what it still holds.

    `close` alone would first flush, and raise where that isn't done in time, leaving the sending thread alive: so that is told to
    stop first, and fails what it holds.
    """
    producer._sender.force_close()
    producer._sender.join(2 * CONNECT_TIMEOUT_S)
    with contextlib.suppress(kafka.errors.KafkaError):
        producer.close(timeout=0)
