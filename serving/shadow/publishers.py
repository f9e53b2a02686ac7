"""Which publisher a configuration means: the embedded file, or Kafka where it names brokers. Any thread."""

from registry.sections import StreamSection
from serving.shadow import embedded_publisher
from serving.shadow.embedded_publisher import EmbeddedPublisher
from serving.shadow.message import Publisher


def open_publisher(settings: StreamSection, model: str) -> Publisher:
    """Return one model's publisher; it connects at its first use."""
    return EmbeddedPublisher(settings.path, model, retention_s=settings.retention_s, prefix=settings.prefix)


def check_stream(settings: StreamSection) -> None:
    """Say at the start what can't ever work; a stream that is only away is waited for.

    Raises:
        UnavailableError: the embedded file can't be made, or isn't a stream.
    """
    embedded_publisher.check_stream(settings.path)
