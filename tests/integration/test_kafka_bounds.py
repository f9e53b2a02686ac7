"""How much the loop's consumer reads ahead from Kafka, however much there is."""

import contextlib
import os
from collections.abc import Iterator

import pytest
from kafka.errors import OffsetOutOfRangeError

from distill_loop.stream import kafka_client, kafka_consumer
from distill_loop.stream.kafka_consumer import KafkaConsumer
from protos.errors import UnavailableError
from protos.topics import PAIRS, TRIALS
from serving.shadow.message import Message as Outgoing
from tests.support.either_stream import EitherStream, create_topics, on_kafka, read
from tests.support.waiting import wait_for

SIZE, COUNT, AHEAD = 50_000, 400, 2**20


@pytest.fixture
def stream(kafka_bootstrap: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[EitherStream]:
    monkeypatch.setattr(kafka_consumer, "MAX_WAITING_BYTES", AHEAD)
    monkeypatch.setattr(kafka_client, "FETCH_BYTES", AHEAD)
    monkeypatch.setattr(kafka_client, "PARTITION_FETCH_BYTES", AHEAD // 4)
    settings = on_kafka(kafka_bootstrap)
    create_topics(settings)
    with contextlib.ExitStack() as stack:
        yield EitherStream(settings, stack)


def test_a_long_stream_is_read_ahead_within_bounds_and_no_partition_starves_another(stream: EitherStream) -> None:
    stream.publisher().publish([Outgoing(PAIRS, 0, os.urandom(SIZE)) for _ in range(COUNT)])
    stream.publish(b"row", kind=TRIALS)
    consumer = stream.consumer()
    assert isinstance(consumer, KafkaConsumer)

    wait_for(lambda: {one.kind for one in consumer.poll(1000)} == {PAIRS, TRIALS}, what="messages of both kinds")
    for _ in range(20):
        consumer.poll(1000)

    # One answer of the broker may come on top of what was enough.
    assert consumer.num_bytes_waiting <= 2 * AHEAD
    offsets = [one.offset for one in read(consumer, COUNT + 1) if one.kind == PAIRS]
    assert offsets == list(range(COUNT))
    assert consumer.num_bytes_waiting == 0


def test_a_broker_whose_offsets_do_not_agree_is_not_asked_for_ever(
    stream: EitherStream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kafka_consumer, "ANSWER_S", 0.2)
    consumer = stream.consumer()
    assert isinstance(consumer, KafkaConsumer)

    class Lying:
        def poll(self, **arguments: object) -> None:
            raise OffsetOutOfRangeError

        def highwater(self, place: object) -> None:
            return None

    monkeypatch.setattr(consumer, "_reach", Lying)
    monkeypatch.setattr(consumer, "_find_again", lambda client: True)
    monkeypatch.setattr(consumer, "_follow", lambda client: True)

    with pytest.raises(UnavailableError):
        consumer.poll(10)
