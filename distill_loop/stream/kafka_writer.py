"""Writes the loop's messages to Kafka: dead letters, and what is replayed of them. Rare as a rule, and a flood at times.

Decides that a message that is too large is said to be, that as many bytes are on their way as the settings allow, and that nothing is left half sent behind a failed call: its producer is ended, never flushed. One
that a call left in order serves the next ones, as long as they come soon. Letters share batches: without them kafka-python would send each alone, for five times the time. One thread.
"""

import contextlib
import time
from collections.abc import Iterator
from typing import Any

import kafka
import kafka.errors

from distill_loop.stream.writer import NotWritten, Outgoing
from protos.errors import ConfigurationError
from protos.topics import topic
from registry.kafka_delivery import Delivery
from registry.kafka_options import CONNECT_TIMEOUT_S, OVERHEAD_BYTES, Attempt, away, options
from registry.sections import StreamSection

#: A producer that nobody used for so long is ended, and another one made.
KEPT_S = 60.0
#: Wait for a batch to fill, and its bytes.
LINGER_MS, BATCH_BYTES = 5, 2**18
#: Time between two times that a producer's thread is woken while messages are handed over.
WAKE_S = 0.002
TOO_LARGE = (kafka.errors.MessageSizeTooLargeError, kafka.errors.RecordListTooLargeError)
TOO_LARGE_FIX = "Raise the topic's max.message.bytes to what `everstill stream topics` asks for"
TOPICS_FIX = "Check its brokers, and that the topics are there: `everstill stream topics`"


class KafkaWriter:
    """Writes to the topics of one model."""

    def __init__(self, settings: StreamSection, model: str) -> None:
        self._settings = settings.kafka
        self._prefix = settings.prefix
        self._model = model
        self._producer: Any = None
        self._used_at = 0.0

    def write(self, messages: list[Outgoing]) -> None:
        """Write messages, those of one partition in their order; returns once the brokers have acknowledged all.

        Raises:
            UnavailableError: none answers. NotWritten: they didn't; of the rest some may be on the stream all the same.
        """
        producer, self._producer = self._reach(), None
        sender = producer._sender
        delivery = Delivery(
            producer,
            self._settings.max_in_flight_bytes,
            self._settings.acknowledge_timeout_s,
            wake=sender.wakeup,
        )
        try:
            with _woken_seldom(sender):
                for message in messages:
                    headers = [(name, value.encode(errors="replace")) for name, value in message.headers.items()]
                    try:
                        delivery.send(topic(self._model, message.kind, self._prefix), message, headers)
                    except TOO_LARGE:
                        delivery.finish()  # what was before it isn't in its way
                        raise
            delivery.finish()
            self._producer, self._used_at = producer, time.monotonic()
        except (kafka.errors.KafkaError, ValueError) as error:  # ValueError: no such partition
            sender.force_close()  # before it is known what arrived: nothing more is sent
            rest, too_large = delivery.rest(messages), isinstance(error, TOO_LARGE)
            raise NotWritten(
                f"Kafka at {self._settings.bootstrap} didn't take {len(rest)} of {len(messages)} messages: {error}",
                rest=rest,
                too_large=too_large,
                fix=TOO_LARGE_FIX if too_large else TOPICS_FIX,
            ) from None
        finally:
            if self._producer is None:
                _end(producer)

    def close(self) -> None:
        """Let go of the brokers. Nothing waits: every call has ended in acknowledgements or an error."""
        if self._producer is not None:
            _end(self._producer)
            self._producer = None

    def _reach(self) -> Any:
        """Return the last call's producer, or a new one."""
        if time.monotonic() - self._used_at > KEPT_S:
            self.close()
        if self._producer is None:
            try:
                self._producer = self._connect()
            except ConfigurationError as error:  # letters wait, and positions with them
                raise away(error) from None
        return self._producer

    def _connect(self) -> Any:
        compression = self._settings.compression
        with Attempt(self._settings, kafka.KafkaProducer.DEFAULT_CONFIG["kafka_client"]) as attempt:
            try:
                return kafka.KafkaProducer(
                    **options(self._settings),
                    kafka_client=attempt,
                    client_id=f"everstill-loop-{self._model}",
                    acks="all",
                    enable_idempotence=True,
                    linger_ms=LINGER_MS,
                    batch_size=min(BATCH_BYTES, self._settings.max_message_bytes),
                    compression_type=None if compression == "none" else compression,
                    max_request_size=self._settings.max_message_bytes + OVERHEAD_BYTES,
                    max_block_ms=int(CONNECT_TIMEOUT_S * 1000),
                )
            except (kafka.errors.KafkaError, OSError):
                raise attempt.failed() from None


@contextlib.contextmanager
def _woken_seldom(sender: Any) -> Iterator[None]:
    """Let a producer's thread be woken now and then only: kafka-python would do it at every message while a full batch waits, a system call and
    a switch of threads each. One that finds nothing to send sleeps until it is woken: who then waits for a message has to wake it."""
    wake, woken_at = sender.wakeup, 0.0

    def wake_seldom() -> None:
        nonlocal woken_at
        if (now := time.monotonic()) - woken_at >= WAKE_S:
            woken_at = now
            wake()

    sender.wakeup = wake_seldom
    try:
        yield
    finally:
        sender.wakeup = wake


def _end(producer: Any) -> None:
    """End a producer without sending what it still holds."""
    producer._sender.force_close()
    producer._sender.join(2 * CONNECT_TIMEOUT_S)
    with contextlib.suppress(kafka.errors.KafkaError):
        producer.close(timeout=0)
