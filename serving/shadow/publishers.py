"""Which publisher a configuration means: the embedded file, or Kafka where it names brokers. Any thread."""

from registry.kafka_options import options
from registry.sections import StreamSection
from serving.shadow import embedded_publisher
from serving.shadow.embedded_publisher import EmbeddedPublisher
from serving.shadow.kafka_publisher import KafkaPublisher
from serving.shadow.message import Publisher


def open_publisher(settings: StreamSection, model: str) -> Publisher:
    """Return one model's publisher; it connects at its first use."""
    if settings.kafka.bootstrap:
        return KafkaPublisher(settings, model)
    return EmbeddedPublisher(
        settings.path,
        model,
        retention_s=settings.retention_s,
        retention_bytes=settings.retention_bytes,
        prefix=settings.prefix,
    )


def check_stream(settings: StreamSection) -> None:
    """Say at the start what can't ever work; a stream that is only away is waited for. Brokers aren't asked: traffic needs none.

    Raises:
        UnavailableError: the embedded file can't be made, or isn't a stream.
        ConfigurationError: a certificate's file can't be used.
    """
    if settings.kafka.bootstrap:
        options(settings.kafka)
    else:
        embedded_publisher.check_stream(settings.path)
