"""Dead letters that Kafka wouldn't take as they are: they are cut, say so, and hold up nothing."""

import contextlib
import os

import pytest

from distill_loop.stream.consumer import Message
from distill_loop.stream.dead_letter import DeadLetters, letter_of
from distill_loop.stream.streams import check_stream, letters_of, open_consumer, open_writer
from distill_loop.stream.topics import Brokers
from protos.errors import UnavailableError
from protos.topics import DEAD, PAIRS, topic
from registry.kafka_options import OVERHEAD_BYTES
from registry.sections import StreamSection
from tests.support.either_stream import MODEL, create_topics, on_kafka, read
from tests.support.waiting import wait_for

LIMIT = 2**16


def letters_on(settings: StreamSection) -> DeadLetters:
    return DeadLetters(
        open_writer(settings, MODEL), lambda: letters_of(settings, MODEL), max_bytes=LIMIT + OVERHEAD_BYTES
    )


def test_a_message_of_full_size_is_kept_whole_and_rude_headers_are_not(kafka_bootstrap: str) -> None:
    settings = on_kafka(kafka_bootstrap, max_message_bytes=LIMIT)
    create_topics(settings)
    dead = letters_on(settings)
    value, rude = os.urandom(LIMIT), (b"\xff" * 60_000).decode(errors="replace")

    dead.put(Message(PAIRS, 0, 0, {"schema": "1"}, value), "undecodable", "rubbish")
    dead.put(Message(PAIRS, 0, 1, {"schema": "1", "rude": rude}, value), "undecodable", "rubbish")
    dead.put(Message(PAIRS, 0, 2, {}, value * 3), "oversized", "rubbish")
    dead.flush()
    dead.close()

    first, second, third = letters_of(settings, MODEL)
    assert (first.source.value, first.source.headers, first.whole) == (value, {"schema": "1"}, True)
    assert (second.source.value, second.source.headers, second.whole) == (value, {"schema": "1"}, False)
    assert second.cut_headers > 180_000
    assert (third.cut_from, third.whole) == (3 * LIMIT, False)
    assert LIMIT < len(third.source.value) < LIMIT + OVERHEAD_BYTES


def test_a_topic_that_takes_less_than_it_should_gets_shorter_letters(kafka_bootstrap: str) -> None:
    settings = on_kafka(kafka_bootstrap, max_message_bytes=LIMIT)
    create_topics(settings, configs={"max.message.bytes": "20000"})
    dead = letters_on(settings)

    for offset, size in enumerate((10, LIMIT, 10)):
        dead.put(Message(PAIRS, 0, offset, {}, os.urandom(size)), "undecodable", "rubbish")
    dead.flush()
    dead.close()

    assert [(one.source.offset, one.cut_from) for one in letters_of(settings, MODEL)] == [
        (0, None),
        (1, LIMIT),
        (2, None),
    ]


def test_small_letters_whose_batches_a_topic_does_not_take_arrive_once_in_order_and_whole_around_a_large_one(
    kafka_bootstrap: str,
) -> None:
    settings = on_kafka(kafka_bootstrap, max_message_bytes=LIMIT)
    create_topics(settings, configs={"max.message.bytes": "20000"})
    dead = letters_on(settings)

    for offset in range(500):
        dead.put(Message(PAIRS, 0, offset, {}, os.urandom(LIMIT if offset == 250 else 300)), "undecodable", "rubbish")
    dead.flush()
    dead.close()

    with contextlib.closing(open_consumer(settings, MODEL, {DEAD: 1})) as consumer:
        letters = [letter_of(message) for message in read(consumer, 500)]
        assert consumer.lag() == 0
    assert [letter.source.offset for letter in letters] == list(range(500))
    assert [number for number, letter in enumerate(letters) if not letter.whole] == [250]


def test_a_loop_is_told_at_its_start_that_a_topic_is_missing(kafka_bootstrap: str) -> None:
    settings = on_kafka(kafka_bootstrap)
    create_topics(settings)
    check_stream(settings, MODEL)
    dead = topic(MODEL, DEAD, settings.prefix)
    with Brokers(settings.kafka) as brokers:
        brokers.delete([dead])
        wait_for(lambda: dead not in brokers.names(settings.prefix), what="the topic to go")

    with pytest.raises(UnavailableError, match=dead):
        check_stream(settings, MODEL)
