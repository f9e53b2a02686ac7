"""Either stream, the embedded file or Kafka, behind one face, so that one suite runs on both."""

import contextlib
import dataclasses
import time
import uuid
from collections.abc import Iterator, Sequence

import kafka

from distill_loop.stream.consumer import Consumer, Message
from distill_loop.stream.streams import open_consumer
from protos.embedded_stream import connect
from protos.topics import KINDS, LABELS, PAIRS, TRIALS, topic
from registry.sections import KafkaSection, StreamSection
from serving.shadow.message import Message as Outgoing
from serving.shadow.message import Publisher
from serving.shadow.publishers import open_publisher
from tests.support.waiting import wait_for

MODEL = "tiny"
PARTITIONS = 2


@dataclasses.dataclass
class EitherStream:
    """One model's topics on one of the two streams."""

    settings: StreamSection
    stack: contextlib.ExitStack

    @property
    def is_kafka(self) -> bool:
        """Whether brokers hold it."""
        return bool(self.settings.kafka.bootstrap)

    def publisher(self) -> Publisher:
        """Return a publisher, closed at the end."""
        publisher = open_publisher(self.settings, MODEL)
        self.stack.callback(publisher.close)
        return publisher

    def consumer(self) -> Consumer:
        """Return a consumer of pairs and trials, closed at the end."""
        consumer = open_consumer(self.settings, MODEL, {PAIRS: self.settings.partitions, TRIALS: 1})
        self.stack.callback(consumer.close)
        return consumer

    def publish(self, *values: bytes, kind: str = PAIRS, partition: int = 0) -> None:
        """Publish values in one go, from a publisher of their own."""
        with contextlib.closing(open_publisher(self.settings, MODEL)) as publisher:
            publisher.publish([Outgoing(kind, partition, value) for value in values])

    def publish_rudely(self, value: bytes | None, headers: Sequence[tuple[str, bytes]]) -> None:
        """Publish what no publisher of ours would, to partition 0 of the pairs; a file has an empty text for no value."""
        name = topic(MODEL, PAIRS, self.settings.prefix)
        if self.is_kafka:
            with contextlib.closing(kafka.KafkaProducer(bootstrap_servers=self.settings.kafka.bootstrap)) as producer:
                producer.send(name, value, b"key", headers=list(headers), partition=0)
                producer.flush()
            return
        told = b", ".join(b'"%s": "%s"' % (key.encode(), text) for key, text in headers)
        with contextlib.closing(connect(self.settings.path)) as connection:
            (offset,) = connection.execute(
                "INSERT INTO next_offset VALUES (?, 0, 1) ON CONFLICT DO UPDATE SET offset = offset + 1 RETURNING offset - 1",
                (name,),
            ).fetchone()
            connection.execute(
                "INSERT INTO message VALUES (?, 0, ?, ?, CAST(? AS TEXT), ?)",
                (name, offset, time.time_ns(), b"{%s}" % told, "" if value is None else value),
            )

    def forget_before(self, offset: int, *, kind: str = PAIRS, partition: int = 0) -> None:
        """Remove the oldest messages, as retention does."""
        name = topic(MODEL, kind, self.settings.prefix)
        if self.is_kafka:
            with contextlib.closing(kafka.KafkaAdminClient(bootstrap_servers=self.settings.kafka.bootstrap)) as admin:
                admin.delete_records({kafka.TopicPartition(name, partition): offset})
        else:
            with contextlib.closing(connect(self.settings.path)) as connection:
                connection.execute(
                    "DELETE FROM message WHERE topic = ? AND partition = ? AND offset < ?", (name, partition, offset)
                )

    def replace(self) -> None:
        """Throw the stream away and begin an empty one under the same name. No consumer or publisher may be open."""
        if self.is_kafka:
            delete_topics(self.settings)
            create_topics(self.settings)
        else:
            for file in self.settings.path.parent.glob("stream.sqlite*"):
                file.unlink()


def read(consumer: Consumer, count: int, *, deadline_s: float = 20.0) -> list[Message]:
    """Read until so many messages came, and advance past them."""
    messages: list[Message] = []

    def enough() -> bool:
        for message in consumer.poll(100):
            consumer.advance(message)
            messages.append(message)
        return len(messages) >= count

    wait_for(enough, deadline_s=deadline_s, what=f"{count} messages")
    return messages


def on_kafka(bootstrap: str, **options: object) -> StreamSection:
    """Return settings of fresh topics on a broker; they have to be created."""
    section = {"bootstrap": bootstrap, "topic_prefix": f"t-{uuid.uuid4().hex[:12]}", **options}
    return StreamSection(partitions=PARTITIONS, kafka=KafkaSection.model_validate(section))


def create_topics(settings: StreamSection, *, configs: dict[str, str] | None = None, **options: object) -> None:
    """Make the topics of the settings."""
    wanted = {
        topic(MODEL, kind, settings.prefix): {
            "num_partitions": settings.partitions if kind in (PAIRS, LABELS) else 1,
            "replication_factor": settings.kafka.replication,
            "configs": {"min.insync.replicas": str(settings.kafka.min_insync), **(configs or {})},
        }
        for kind in KINDS
    }
    with _admin(settings, options) as admin:
        admin.create_topics(wanted, wait_for_metadata=True)


def delete_topics(settings: StreamSection, **options: object) -> None:
    """Remove the topics of the settings, and wait until they are gone."""
    names = {topic(MODEL, kind, settings.prefix) for kind in KINDS}
    with _admin(settings, options) as admin:
        admin.delete_topics(list(names))
        wait_for(lambda: not names & set(admin.list_topics()), what="the topics to go")


@contextlib.contextmanager
def _admin(settings: StreamSection, options: dict[str, object]) -> Iterator[kafka.KafkaAdminClient]:
    admin = kafka.KafkaAdminClient(bootstrap_servers=settings.kafka.bootstrap.split(","), **options)
    try:
        yield admin
    finally:
        admin.close()
