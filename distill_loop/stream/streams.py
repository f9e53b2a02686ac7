"""Which stream a configuration means: the embedded file, or Kafka where it names brokers. Any thread."""

import os
from collections.abc import Generator

import structlog

from distill_loop.stream.consumer import Consumer
from distill_loop.stream.dead_letter import MAX_KNOWN, Letter, read_letters
from distill_loop.stream.embedded_consumer import EmbeddedConsumer
from distill_loop.stream.embedded_writer import EmbeddedWriter
from distill_loop.stream.kafka_consumer import KafkaConsumer
from distill_loop.stream.kafka_writer import KafkaWriter
from distill_loop.stream.writer import Writer
from protos.errors import UnavailableError
from protos.topics import DEAD, KINDS, LABELS, PAIRS
from registry.kafka_options import Unreachable
from registry.sections import StreamSection


def open_consumer(settings: StreamSection, model: str, partitions: dict[str, int]) -> Consumer:
    """Return a consumer of one model's topics, at the start of each; it connects at its first use.

    Args:
        partitions: number of partitions by kind.
    """
    if settings.kafka.bootstrap:
        return KafkaConsumer(settings, model, partitions)
    return EmbeddedConsumer(settings.path, model, partitions, prefix=settings.prefix)


def open_writer(settings: StreamSection, model: str) -> Writer:
    """Return a writer of one model's topics; it connects at its first use."""
    if settings.kafka.bootstrap:
        return KafkaWriter(settings, model)
    return EmbeddedWriter(settings.path, model, prefix=settings.prefix)


def letters_of(settings: StreamSection, model: str, *, newest: int | None = MAX_KNOWN) -> Generator[Letter, None, None]:
    """Yield the dead letters of a model, oldest first; raises UnavailableError where the stream can't be read."""
    consumer = open_consumer(settings, model, {DEAD: 1})
    try:
        yield from read_letters(consumer, newest)
    finally:
        consumer.close()


def check_stream(settings: StreamSection, model: str) -> None:
    """Open the stream once: one that will never do is said at the start, whereas a stream that goes away later is waited for.

    Raises:
        UnavailableError: it can't be opened or written, brokers refuse us, or a topic is missing.
        ConfigurationError: a certificate's file can't be used.
    """
    many = {PAIRS: settings.partitions, LABELS: settings.partitions}
    consumer = open_consumer(settings, model, {**dict.fromkeys(KINDS, 1), **many})
    try:
        consumer.lag()
    except Unreachable as error:
        structlog.get_logger().warning("the stream is away, it is waited for", error=str(error))
    finally:
        consumer.close()
    if not settings.kafka.bootstrap and not os.access(settings.path, os.W_OK):
        raise UnavailableError(
            f"the stream {settings.path} can't be written", fix="Check stream.path and its permissions"
        )
