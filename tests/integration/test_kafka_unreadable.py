"""Batches on Kafka that nobody here can read: they are named, passed over, and hold up nothing."""

import contextlib
import pathlib
from collections.abc import Iterator

import kafka
import kafka.codec
import pytest

from distill_loop.stream.topics import Brokers, wanted_topics
from protos.topics import PAIRS, topic
from tests.support.either_stream import MODEL, EitherStream, create_topics, on_kafka, read
from tests.support.intakes import IntakeUnderTest


class Rude(str):
    """A header's name that is no UTF-8."""

    def encode(self, encoding: str = "utf-8", errors: str = "strict") -> bytes:
        return b"\xff"


@pytest.fixture
def stream(kafka_bootstrap: str) -> Iterator[EitherStream]:
    settings = on_kafka(kafka_bootstrap)
    create_topics(settings)
    with contextlib.ExitStack() as stack:
        yield EitherStream(settings, stack)


def publish_rudely(stream: EitherStream) -> None:
    """Publish a batch of three messages, of which the second and so the third can't be read."""
    with contextlib.closing(
        kafka.KafkaProducer(bootstrap_servers=stream.settings.kafka.bootstrap, linger_ms=500)
    ) as producer:
        for headers in ([], [(Rude("x"), b"")], []):
            producer.send(topic(MODEL, PAIRS, stream.settings.prefix), b"theirs", headers=headers, partition=0)
        producer.flush()


def test_a_batch_that_can_not_be_read_is_named_and_passed_over(stream: EitherStream) -> None:
    stream.publish(b"before")
    publish_rudely(stream)
    stream.publish(b"after")
    consumer = stream.consumer()

    messages = read(consumer, 4)

    assert [(one.offset, one.end, one.value) for one in messages] == [
        (0, 1, b"before"),
        (1, 2, b"theirs"),
        (2, 4, b""),
        (4, 5, b"after"),
    ]
    assert "offsets 2 to 3 can't be read: CorruptRecordError" in messages[2].unreadable
    assert consumer.positions()[PAIRS, 0] == 5
    assert consumer.take_gaps() == []
    assert consumer.lag() == 0


def test_a_codec_that_is_not_here_takes_its_own_batches_only(
    stream: EitherStream, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream.publish(b"?")  # too short to be compressed
    stream.publish(bytes(10_000))
    stream.publish(b"!")
    monkeypatch.setattr(kafka.codec, "has_lz4", lambda: False)

    messages = read(stream.consumer(), 3)

    assert [one.value for one in messages] == [b"?", b"", b"!"]
    assert "UnsupportedCodecError" in messages[1].unreadable


def test_what_can_not_be_read_is_a_dead_letter_and_counts_by_offsets(
    stream: EitherStream, tmp_path: pathlib.Path
) -> None:
    publish_rudely(stream)
    room = IntakeUnderTest(tmp_path / "stream.sqlite", stream.consumer())
    try:
        while room.progress.read < 3:
            room.read()
        first, batch = room.dead_letters()
    finally:
        room.close()

    assert (first.reason, batch.reason, batch.source.offset) == ("wrong_schema", "undecodable_batch", 1)
    assert (batch.whole, room.progress.dead) == (False, 3)


def test_a_topic_that_brokers_compress_so_that_nobody_here_reads_it_differs(kafka_bootstrap: str) -> None:
    settings = on_kafka(kafka_bootstrap)
    create_topics(settings, configs={"compression.type": "zstd"})

    with Brokers(settings.kafka) as brokers:
        found = brokers.look(wanted_topics(settings, [MODEL]))

    assert all("compression.type zstd, not producer" in map(str, one.differences) for one in found)
