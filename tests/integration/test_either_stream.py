"""What both streams promise, the embedded file and Kafka: one suite, so that neither is a fake of the other."""

import contextlib
import os
import threading

import pytest

from distill_loop.stream import embedded_consumer, kafka_client, kafka_consumer
from distill_loop.stream.consumer import Gap, Replaced
from protos.records import MODEL_HEADER, RECORDS_HEADER, SCHEMA_HEADER
from protos.topics import PAIRS, TRIALS
from serving.shadow.message import Message as Outgoing
from tests.support.either_stream import MODEL, PARTITIONS, EitherStream, read
from tests.support.waiting import wait_for


def test_messages_of_a_partition_come_in_their_order_with_headers_and_time(stream: EitherStream) -> None:
    stream.publish(*(b"%d" % number for number in range(20)), partition=1)
    stream.publish(b"row", kind=TRIALS)

    messages = read(stream.consumer(), 21)

    pairs = [one for one in messages if one.kind == PAIRS]
    assert [(one.partition, one.offset, one.value) for one in pairs] == [(1, n, b"%d" % n) for n in range(20)]
    assert pairs[0].headers == {SCHEMA_HEADER: "1", MODEL_HEADER: MODEL, RECORDS_HEADER: "1"}
    assert all(one.time_unix_ns > 1.7e18 for one in messages)


def test_a_message_that_was_not_dealt_with_comes_again_and_counts_as_lag(stream: EitherStream) -> None:
    consumer = stream.consumer()
    stream.publish(b"first", b"second")

    wait_for(lambda: len(consumer.poll(10)) == 2, what="two messages")
    again = consumer.poll(10)
    assert [one.value for one in again] == [b"first", b"second"]
    assert consumer.lag() == 2
    assert consumer.oldest_waiting_unix_ns() == again[0].time_unix_ns

    consumer.advance(again[0])
    assert [one.value for one in consumer.poll(10)] == [b"second"]
    assert consumer.lag() == 1
    consumer.advance(again[1])
    assert consumer.lag() == 0
    assert consumer.oldest_waiting_unix_ns() is None


def test_only_pairs_say_since_when_something_waits(stream: EitherStream) -> None:
    consumer = stream.consumer()
    stream.publish(b"row", kind=TRIALS)
    wait_for(lambda: len(consumer.poll(10)) == 1, what="the row")
    assert consumer.oldest_waiting_unix_ns() is None

    stream.publish(b"pair")
    wait_for(lambda: len(consumer.poll(10)) == 2, what="the pair")
    (pair,) = [one for one in consumer.poll(10) if one.kind == PAIRS]
    assert consumer.oldest_waiting_unix_ns() == pair.time_unix_ns


def test_at_most_so_many_messages_of_a_partition_come_at_once(stream: EitherStream) -> None:
    stream.publish(*(b"%d" % number for number in range(10)))
    stream.publish(b"other", partition=1)
    consumer = stream.consumer()

    wait_for(lambda: len(consumer.poll(3)) == 4, what="three messages and the other")


def test_what_one_poll_brings_is_bounded_in_bytes_and_no_partition_starves(
    stream: EitherStream, monkeypatch: pytest.MonkeyPatch
) -> None:
    bound, size = 2**20, 2**16
    monkeypatch.setattr(embedded_consumer, "MAX_POLL_BYTES", bound)
    monkeypatch.setattr(kafka_consumer, "MAX_WAITING_BYTES", bound)
    monkeypatch.setattr(kafka_client, "FETCH_BYTES", bound)
    for partition in range(PARTITIONS):
        stream.publish(*([os.urandom(size)] * 50), partition=partition)
    stream.publish(b"row", kind=TRIALS)
    consumer = stream.consumer()
    seen: set[tuple[str, int]] = set()
    num = 0

    def all_read() -> bool:
        nonlocal num
        messages = consumer.poll(1000)
        assert sum(len(one.value) for one in messages) <= 2 * bound + size  # Kafka: one answer more
        num += len(messages)
        seen.update((one.kind, one.partition) for one in messages)
        assert num < 50 or len(seen) == PARTITIONS + 1
        for message in messages:
            consumer.advance(message)
        return num == 50 * PARTITIONS + 1

    wait_for(all_read, what="all messages", deadline_s=20.0)


def test_another_reader_goes_on_from_positions(stream: EitherStream) -> None:
    stream.publish(b"old")
    first = stream.consumer()
    read(first, 1)
    stream.publish(b"new")

    other = stream.consumer()
    other.seek(first.positions())

    assert [one.value for one in read(other, 1)] == [b"new"]


def test_the_stream_is_replayed_from_any_offset(stream: EitherStream) -> None:
    stream.publish(*(b"%d" % number for number in range(8)))
    consumer = stream.consumer()
    read(consumer, 8)

    for begin in (3, 0, 7):
        consumer.seek({(PAIRS, 0): begin})
        assert [one.value for one in read(consumer, 8 - begin)] == [b"%d" % number for number in range(begin, 8)]


def test_messages_that_retention_took_before_they_were_read_are_a_gap(stream: EitherStream) -> None:
    stream.publish(*(b"%d" % number for number in range(6)))
    consumer = stream.consumer()
    consumer.seek({(PAIRS, 0): 1})
    stream.forget_before(4)

    assert [one.value for one in read(consumer, 2)] == [b"4", b"5"]
    assert consumer.take_gaps() == [Gap(PAIRS, 0, 1, 4, consumer.streams()[PAIRS])]
    assert consumer.take_gaps() == []
    assert consumer.lag() == 0


def test_a_stream_of_which_retention_left_nothing_is_a_gap_too(stream: EitherStream) -> None:
    stream.publish(*(b"%d" % number for number in range(6)))
    consumer = stream.consumer()
    stream.forget_before(6)

    def gaps() -> list[Gap]:
        assert consumer.poll(10) == []
        return consumer.take_gaps()

    assert wait_for(gaps, what="the gap") == [Gap(PAIRS, 0, 0, 6, consumer.streams()[PAIRS])]
    assert consumer.lag() == 0
    stream.publish(b"next")
    assert [one.value for one in read(consumer, 1)] == [b"next"]
    assert consumer.take_gaps() == []


def test_a_stream_that_was_replaced_is_read_from_its_start(stream: EitherStream) -> None:
    stream.publish(b"0", b"1", b"2")
    before = stream.consumer()
    read(before, 3)
    positions, streams = before.positions(), before.streams()
    before.close()
    stream.replace()
    anew = [b"anew %d" % number for number in range(5)]
    stream.publish(*anew)  # past our position: only its identity tells

    consumer = stream.consumer()
    consumer.seek(positions, streams)
    assert [one.value for one in read(consumer, 5)] == anew
    assert consumer.streams()[PAIRS] != streams[PAIRS]
    assert consumer.take_replaced() == [Replaced(PAIRS, 0, 3, streams[PAIRS], consumer.streams()[PAIRS])]
    assert (consumer.take_replaced(), consumer.take_gaps(), consumer.lag()) == ([], [], 0)

    consumer.seek({(PAIRS, 0): 3})  # as a checkpoint of a version before says it
    assert [one.value for one in read(consumer, 2)] == anew[3:]
    consumer.seek({(PAIRS, 0): 9})  # beyond what was ever there
    assert [one.value for one in read(consumer, 5)] == anew
    assert [(one.offset, one.successor) for one in consumer.take_replaced()] == [(9, consumer.streams()[PAIRS])]
    consumer.seek(
        {(PAIRS, 0): 9}, consumer.streams(), consumer.times()
    )  # of the same one, of which brokers lost the end
    assert [one.value for one in read(consumer, 5)] == anew
    stream_id = consumer.streams()[PAIRS]
    assert consumer.take_replaced() == [Replaced(PAIRS, 0, 9, stream_id, stream_id, 5, 0)]


@pytest.mark.parametrize("value", [b"", b"\x00\xff" * 40_000, b'{"not": "ours"}'])
def test_any_bytes_travel(stream: EitherStream, value: bytes) -> None:
    stream.publish(value, b"after")

    assert [one.value for one in read(stream.consumer(), 2)] == [value, b"after"]


def test_what_others_may_have_written_comes_without_our_schema_and_holds_up_nothing(stream: EitherStream) -> None:
    for headers in ([], [(SCHEMA_HEADER, b"")], [(SCHEMA_HEADER, b"\xff")], [("\u00e9" * 100, b"1")]):
        stream.publish_rudely(b"theirs", headers)
    stream.publish_rudely(None, [])
    stream.publish(b"after")
    consumer = stream.consumer()

    *poison, after = read(consumer, 6)

    assert [one.value for one in poison] == [*[b"theirs"] * 4, b""]
    assert not any(one.headers.get(SCHEMA_HEADER) == "1" for one in poison)
    assert (after.value, after.headers[SCHEMA_HEADER]) == (b"after", "1")
    assert (consumer.lag(), consumer.take_gaps()) == (0, [])


def test_concurrent_producers_lose_nothing_and_each_keeps_its_order(stream: EitherStream) -> None:
    def write(name: int) -> None:
        with contextlib.closing(stream.publisher()) as publisher:
            for number in range(0, 60, 3):
                publisher.publish([Outgoing(PAIRS, 0, b"%d %d" % (name, number + place)) for place in range(3)])

    threads = [threading.Thread(target=write, args=(name,)) for name in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    messages = read(stream.consumer(), 180)
    assert [one.offset for one in messages] == list(range(180))
    for name in range(3):
        own = [int(one.value.split()[1]) for one in messages if one.value.startswith(b"%d " % name)]
        assert own == list(range(60))


def test_a_reader_that_does_not_advance_holds_back_the_rest(stream: EitherStream) -> None:
    stream.publish(*(bytes(50_000) + b"%d" % number for number in range(200)))
    consumer = stream.consumer()
    wait_for(lambda: len(consumer.poll(5)) == 5, what="five messages")

    for _ in range(20):
        assert len(consumer.poll(5)) == 5

    assert [one.offset for one in read(consumer, 200)] == list(range(200))
