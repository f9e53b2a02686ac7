"""Writes the loop's messages to Kafka: dead letters, and what is replayed of them. Rare and few, so that each call has a producer of its own.

Decides that nothing is left half sent behind a failed call: its producer is ended, never flushed. One thread.
"""

import contextlib
import time
from typing import Any

import kafka
import kafka.errors

from distill_loop.stream.writer import Outgoing
from protos.errors import UnavailableError
from protos.topics import topic
from registry.kafka_options import CONNECT_TIMEOUT_S, OVERHEAD_BYTES, Attempt, options
from registry.sections import StreamSection


class KafkaWriter:
    """Writes to the topics of one model."""

    def __init__(self, settings: StreamSection, model: str) -> None:
        self._settings = settings.kafka
        self._prefix = settings.prefix
        self._model = model

    def write(self, messages: list[Outgoing]) -> None:
        """Write messages, those of one partition in their order; returns once the brokers have acknowledged all.

        Raises:
            UnavailableError: they didn't; some of the messages may be on the stream all the same.
        """
        producer = self._connect()
        try:
            futures = [
                producer.send(
                    topic(self._model, message.kind, self._prefix),
                    message.value,
                    partition=message.partition,
                    headers=[(name, value.encode()) for name, value in message.headers.items()],
                )
                for message in messages
            ]
            end = time.monotonic() + self._settings.acknowledge_timeout_s
            for future in futures:
                future.get(max(0.0, end - time.monotonic()))
        except (kafka.errors.KafkaError, ValueError) as error:  # ValueError: no such partition
            raise UnavailableError(
                f"Kafka at {self._settings.bootstrap} didn't take {len(messages)} messages: {error}",
                fix="Check its brokers, and that the topics are there: `everstill stream topics`",
            ) from None
        finally:
            _end(producer)

    def close(self) -> None:
        """Nothing is held between calls."""

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
                    compression_type=None if compression == "none" else compression,
                    max_request_size=self._settings.max_message_bytes + OVERHEAD_BYTES,
                    max_block_ms=int(CONNECT_TIMEOUT_S * 1000),
                )
            except (kafka.errors.KafkaError, OSError):
                raise attempt.failed() from None


def _end(producer: Any) -> None:
    """End a producer without sending what it still holds."""
    producer._sender.force_close()
    producer._sender.join(2 * CONNECT_TIMEOUT_S)
    with contextlib.suppress(kafka.errors.KafkaError):
        producer.close(timeout=0)
