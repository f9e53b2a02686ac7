"""Batches on Kafka that nobody here can read: they are named, passed over, and hold up nothing."""

import contextlib
import os
import pathlib
import struct
from collections.abc import Iterator

import kafka
import kafka.codec
import pytest

from distill_loop.stream.consumer import Consumer, Message
from distill_loop.stream.topics import Brokers, wanted_topics
from protos.errors import UnavailableError
from protos.topics import PAIRS, topic
from serving.shadow.message import Message as Outgoing
from tests.support import kafka as brokers
from tests.support.either_stream import MODEL, EitherStream, create_topics, on_kafka, read
from tests.support.intakes import IntakeUnderTest
from tests.support.waiting import wait_for


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


def read_to(consumer: Consumer, end: int) -> list[Message]:
    """Read partition 0 of the pairs up to an offset."""
    messages: list[Message] = []

    def enough() -> bool:
        with contextlib.suppress(UnavailableError):
            for message in consumer.poll(100):
                consumer.advance(message)
                messages.append(message)
        return consumer.positions()[PAIRS, 0] >= end

    wait_for(enough, what=f"offset {end}", deadline_s=30.0)
    return messages


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


def damage(log: pathlib.Path, offset: int) -> None:
    """Let a batch say that it is shorter than any can be."""
    data = bytearray(log.read_bytes())
    place = 0
    while struct.unpack_from(">q", data, place) != (offset,):
        place += 12 + struct.unpack_from(">i", data, place + 8)[0]
    struct.pack_into(">i", data, place + 8, 1)
    log.write_bytes(data)


@pytest.mark.slow  # a broker of its own
def test_a_log_that_its_broker_can_not_read_is_named_and_read_on_behind(tmp_path: pathlib.Path) -> None:
    count, bad = 30, 10
    with brokers.brokers(tmp_path) as cluster, contextlib.ExitStack() as stack:
        stream = EitherStream(on_kafka(cluster.bootstrap, compression="none"), stack)
        create_topics(stream.settings)
        publisher = stream.publisher()
        for _ in range(count):  # each a batch of its own
            publisher.publish([Outgoing(PAIRS, 0, os.urandom(1500))])
        log = tmp_path / "1/data" / f"{topic(MODEL, PAIRS, stream.settings.prefix)}-0" / f"{0:020}.log"
        damage(log, bad)
        consumer = stream.consumer()
        consumer.seek({(PAIRS, 0): bad + 1})  # the broker looks for it from some batches before
        behind = read_to(consumer, count)
        consumer.seek({(PAIRS, 0): 0})
        whole = read_to(consumer, count)

    for messages, first in ((behind, bad + 1), (whole, 0)):
        covered = [offset for one in messages for offset in range(one.offset, one.end)]
        lost = [offset for one in messages if one.unreadable for offset in range(one.offset, one.end)]
        assert covered == list(range(first, count))
        assert bad - 1 < min(lost, default=bad) <= max(lost, default=bad) < bad + 5
    assert any("CorruptRecordError" in one.unreadable for one in behind)


def test_a_topic_that_brokers_compress_so_that_nobody_here_reads_it_differs(kafka_bootstrap: str) -> None:
    settings = on_kafka(kafka_bootstrap)
    create_topics(settings, configs={"compression.type": "zstd"})

    with Brokers(settings.kafka) as brokers:
        found = brokers.look(wanted_topics(settings, [MODEL]))

    assert all("compression.type zstd, not producer" in map(str, one.differences) for one in found)
