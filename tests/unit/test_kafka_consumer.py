"""The loop's reader of Kafka where brokers and clients do what is hard to have them do: topics made anew under it, partitions gone deaf, damaged logs."""

import contextlib
import re
from collections.abc import Callable, Iterator

import kafka
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kafka.errors import KafkaTimeoutError, LogTruncationError, TopicAuthorizationFailedError, UnknownError

from distill_loop.stream import kafka_consumer, kafka_damage
from distill_loop.stream.consumer import Gap, Message, Replaced
from distill_loop.stream.kafka_batches import Damaged
from distill_loop.stream.kafka_consumer import KafkaConsumer
from distill_loop.stream.kafka_damage import end_of_damage
from distill_loop.stream.kafka_stalls import STALLED_POLLS, STALLED_S, Stalls
from distill_loop.stream.kafka_trouble import trouble
from protos.errors import ConfigurationError, UnavailableError
from protos.topics import PAIRS, TRIALS, topic
from registry.kafka_options import Unreachable
from registry.sections import KafkaSection, StreamSection
from tests.support.kafka_client import FakeBroker
from tests.support.waiting import wait_for

NAMES = {kind: topic("tiny", kind, "t") for kind in (PAIRS, TRIALS)}
PLACE = kafka.TopicPartition(NAMES[PAIRS], 0)


@pytest.fixture
def broker(monkeypatch: pytest.MonkeyPatch) -> FakeBroker:
    broker = FakeBroker(*NAMES.values())
    for module in (kafka_consumer, kafka_damage):
        monkeypatch.setattr(module, "connect", broker.connect)
    return broker


@pytest.fixture
def consumer(broker: FakeBroker) -> Iterator[KafkaConsumer]:
    settings = StreamSection(kafka=KafkaSection(bootstrap="127.0.0.1:9", topic_prefix="t"))
    with contextlib.closing(KafkaConsumer(settings, "tiny", {PAIRS: 1, TRIALS: 1})) as consumer:
        yield consumer


def read(consumer: KafkaConsumer, count: int) -> list[Message]:
    messages: list[Message] = []

    def enough() -> bool:
        with contextlib.suppress(UnavailableError):
            for message in consumer.poll(2):
                consumer.advance(message)
                messages.append(message)
        return len(messages) >= count

    wait_for(enough, what=f"{count} messages", deadline_s=5.0)
    return messages


def values(messages: list[Message]) -> list[bytes]:
    return [message.value for message in messages]


@pytest.mark.parametrize("num_anew", [1, 9])  # fewer than were read of the old one, and more
def test_what_was_read_of_a_topic_comes_before_the_one_that_was_made_anew(
    num_anew: int, broker: FakeBroker, consumer: KafkaConsumer
) -> None:
    broker.values[NAMES[PAIRS]] = [b"0", b"1", b"2", b"3"]
    assert values(consumer.poll(1)) == [b"0"]  # the others are read ahead
    old = consumer.streams()

    broker.make_anew(NAMES[PAIRS], [b"new"] * num_anew)
    consumer._client._learn()  # as metadata are looked at now and then
    assert values(consumer.poll(9)) == [b"0", b"1", b"2", b"3"]
    for message in consumer.poll(9):
        consumer.advance(message)

    assert values(read(consumer, num_anew)) == [b"new"] * num_anew
    new = consumer.streams()
    assert consumer.take_replaced() == [Replaced(PAIRS, 0, 4, old[PAIRS], new[PAIRS])]
    assert (new[TRIALS], new[PAIRS] == old[PAIRS]) == (old[TRIALS], False)
    assert consumer.lag() == 0


def test_a_log_that_ends_before_our_position_and_is_the_same_is_read_again(
    broker: FakeBroker, consumer: KafkaConsumer
) -> None:
    broker.values[NAMES[PAIRS]] = [b"0", b"1", b"2"]
    read(consumer, 3)
    del broker.values[NAMES[PAIRS]][1:]  # brokers that elect a leader that hadn't all of it

    assert values(read(consumer, 1)) == [b"0"]
    (replaced,) = consumer.take_replaced()
    assert (replaced.offset, replaced.stream) == (3, replaced.successor)


@pytest.mark.parametrize("is_known", [True, False])
def test_a_log_that_was_cut_off_and_has_grown_is_read_on_from_what_is_new_and_no_gap_is_told(
    is_known: bool, broker: FakeBroker, consumer: KafkaConsumer
) -> None:
    name = NAMES[PAIRS]
    broker.times_ms[name] = [30_000 * number for number in range(20)]
    broker.values[name] = [b"%d" % number for number in range(10)]
    read(consumer, 10)
    position, streams, times = consumer.positions(), consumer.streams(), consumer.times()
    assert times == {(PAIRS, 0): 270 * 10**9}
    broker.begins[name] = 2
    broker.values[name][4:] = [b"new 4", b"new 5", b"new 6"]
    broker.times_ms[name][4:] = [30_000 * number for number in range(10, 26)]

    consumer.seek(position, streams, times if is_known else None)

    repeats = [] if is_known else [b"2", b"3"]
    assert values(read(consumer, 3 + len(repeats))) == [*repeats, b"new 4", b"new 5", b"new 6"]
    stream = streams[PAIRS]
    assert consumer.take_replaced() == [Replaced(PAIRS, 0, 10, stream, stream, 7, 4 if is_known else 2)]
    assert (consumer.take_gaps(), consumer.lag()) == ([], 0)


def test_another_log_of_which_retention_took_the_start_is_a_gap_whoever_says_so(
    broker: FakeBroker, consumer: KafkaConsumer
) -> None:
    name = NAMES[PAIRS]
    broker.values[name] = [b"0", b"1", b"2"]
    read(consumer, 3)
    old = consumer.streams()[PAIRS]
    broker.make_anew(name, [b"gone", b"new"])
    broker.begins[name] = 1

    assert values(read(consumer, 1)) == [b"new"]
    new = consumer.streams()[PAIRS]
    consumer.seek({(PAIRS, 0): 9})  # nobody knows of which
    assert values(read(consumer, 1)) == [b"new"]

    assert consumer.take_gaps() == [Gap(PAIRS, 0, 0, 1, new)] * 2
    assert consumer.take_replaced() == [Replaced(PAIRS, 0, 3, old, new), Replaced(PAIRS, 0, 9, "", new)]


def test_a_topic_that_may_be_looked_at_and_not_read_is_said_to_be_by_the_same_client(
    broker: FakeBroker, consumer: KafkaConsumer
) -> None:
    broker.values[NAMES[PAIRS]] = [b"0"]
    broker.forbidden = {NAMES[PAIRS]}
    assert consumer.lag() == 1
    for _ in range(2):
        with pytest.raises(
            UnavailableError, match=r"let us at topic t\.tiny\.pairs, which needs the right Read\. Its operator"
        ):
            consumer.poll(1)

    broker.forbidden = set()

    assert values(read(consumer, 1)) == [b"0"]
    assert broker.num_clients == 1


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (KafkaTimeoutError("late"), "doesn't answer: .*late. Check that a broker runs there"),
        (OSError("bad file descriptor"), "doesn't answer: bad file descriptor"),
        (UnknownError(), "answers, but with an error: .*UnknownError.* see the brokers' logs"),
        (LogTruncationError({PLACE: None}), "has cut off a log that was read, and doesn't say where"),
        (Damaged(PLACE, 3, "why"), r"t\.tiny\.pairs/0 can't be read at offset 3: why; another client can read there"),
        (KeyError(PLACE), r"nobody leads t\.tiny\.pairs/0 of Kafka at b:1. A partition has a leader as soon as"),
        (TopicAuthorizationFailedError("one"), "let us at topic one, which needs the right Read"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_went_wrong_is_said_with_its_own_fix(error: Exception, sentence: str) -> None:
    told = str(trouble(KafkaSection(bootstrap="b:1"), error))

    assert re.search(sentence, told)
    assert ("doesn't answer" in told) == isinstance(error, KafkaTimeoutError | OSError)


def test_a_certificate_that_can_not_be_read_ends_only_a_consumer_that_never_had_a_client(
    broker: FakeBroker, consumer: KafkaConsumer, monkeypatch: pytest.MonkeyPatch
) -> None:
    unusable = ConfigurationError("stream.kafka.ca: it can't be used", fix="It has to be a PEM file")

    def refuse(*_: object) -> None:
        raise unusable

    broker.values[NAMES[PAIRS]] = [b"0", b"1"]
    assert values(read(consumer, 2)) == [b"0", b"1"]
    for module in (kafka_consumer, kafka_damage):
        monkeypatch.setattr(module, "connect", refuse)
    settings = StreamSection(kafka=KafkaSection(bootstrap="127.0.0.1:9"))
    with contextlib.closing(KafkaConsumer(settings, "other", {PAIRS: 1})) as other, pytest.raises(ConfigurationError):
        other.poll(1)

    broker.values[NAMES[PAIRS]].append(b"damaged")
    broker.damaged = {2}
    with pytest.raises(Unreachable, match=r"it can't be used\. It has to be a PEM file"):
        consumer.poll(1)

    consumer._give_up()

    def is_told() -> bool:
        with pytest.raises(Unreachable) as told:
            consumer.poll(1)
        return str(told.value) == str(unusable)

    wait_for(is_told, what="why there is no client")


def test_a_partition_that_has_messages_and_brings_none_is_asked_by_another_client(
    broker: FakeBroker, consumer: KafkaConsumer
) -> None:
    now = 0.0
    consumer._stalls = Stalls(lambda: now)
    broker.values = {NAMES[PAIRS]: [b"unheard"], NAMES[TRIALS]: [b"heard"]}
    broker.deaf = {NAMES[PAIRS]}
    assert values(read(consumer, 1)) == [b"heard"]
    assert consumer.lag() == 1
    for _ in range(STALLED_POLLS):
        assert consumer.poll(1) == []
    assert consumer.lag() == 1

    now += STALLED_S + 1
    with pytest.raises(
        UnavailableError, match=r"has t\.tiny\.pairs/0 up to offset 1, and for 11 s brought nothing from 0 on"
    ):
        consumer.lag()

    broker.deaf.clear()
    assert values(read(consumer, 1)) == [b"unheard"]
    assert (broker.num_clients, consumer.lag()) == (2, 0)


def test_a_partition_that_nobody_leads_is_a_reason_to_wait(broker: FakeBroker, consumer: KafkaConsumer) -> None:
    broker.leaderless = {NAMES[PAIRS]}

    with pytest.raises(UnavailableError, match=r"nobody leads .*t\.tiny\.pairs"):
        consumer.lag()


@pytest.mark.parametrize("error", [RuntimeError("Transport closed for writes"), OSError("bad file descriptor")])
def test_a_client_that_broke_is_made_anew(
    error: Exception, broker: FakeBroker, consumer: KafkaConsumer, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker.values[NAMES[PAIRS]] = [b"0"]
    consumer.lag()

    def broken(**_: object) -> None:
        raise error

    monkeypatch.setattr(consumer._client, "poll", broken)
    with pytest.raises(UnavailableError, match=str(error)):
        consumer.poll(1)

    assert values(read(consumer, 1)) == [b"0"]


def test_offsets_that_were_given_anew_are_read_again(
    broker: FakeBroker, consumer: KafkaConsumer, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = NAMES[PAIRS]
    broker.values[name] = [b"0", b"1", b"2", b"3"]
    read(consumer, 4)
    broker.values[name] = [b"0", b"1", b"another 2", b"another 3", b"4"]
    whole = consumer._client.poll

    def cut_off(**_: object) -> None:
        monkeypatch.setattr(consumer._client, "poll", whole)
        raise LogTruncationError({kafka.TopicPartition(name, 0): kafka.structs.OffsetAndMetadata(2, "", 1)})

    monkeypatch.setattr(consumer._client, "poll", cut_off)

    assert values(read(consumer, 3)) == [b"another 2", b"another 3", b"4"]
    stream = consumer.streams()[PAIRS]
    assert consumer.take_replaced() == [Replaced(PAIRS, 0, 4, stream, stream, 2, 2)]


def test_what_a_broker_can_not_read_of_its_log_is_named_and_passed_over(
    broker: FakeBroker, consumer: KafkaConsumer
) -> None:
    broker.values[NAMES[PAIRS]] = [b"%d" % number for number in range(20)]
    broker.damaged = set(range(4, 11))

    messages = read(consumer, 14)

    assert [(one.offset, one.num_offsets) for one in messages if one.unreadable] == [(4, 7)]
    assert [one.offset for one in messages if not one.unreadable] == [*range(4), *range(11, 20)]
    assert "offsets 4 to 10 can't be read: CorruptRecordError" in messages[4].unreadable
    assert (consumer.lag(), consumer.take_gaps()) == (0, [])


def test_what_another_leader_can_read_is_read(
    broker: FakeBroker, consumer: KafkaConsumer, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker.values[NAMES[PAIRS]] = [b"0", b"1"]
    broker.damaged = {1}

    def mended(*_: object) -> object:
        broker.damaged = set()
        return broker.connect()

    monkeypatch.setattr(kafka_damage, "connect", mended)

    assert values(read(consumer, 2)) == [b"0", b"1"]


@given(damage=st.integers(1, 5_000), rest=st.integers(0, 5_000), first=st.integers(0, 3))
def test_the_end_of_a_damage_is_found_in_few_questions(damage: int, rest: int, first: int) -> None:
    asked = []

    def readable(offset: int) -> bool:
        asked.append(offset)
        assert first < offset < first + damage + rest
        return offset >= first + damage

    assert end_of_damage(readable, first, first + damage + rest) == first + damage
    assert len(asked) <= 2 * damage.bit_length() + 2


@pytest.mark.parametrize("pause", ["no polls", "no time", "it moves", "it is read"])
def test_a_partition_is_not_stalled_while_nobody_asks_or_it_moves(pause: str) -> None:
    now, position = 0.0, 5
    clock: Callable[[], float] = lambda: now  # noqa: E731
    stalls: Stalls[str] = Stalls(clock)
    for _ in range(5):
        assert stalls.look({"p": position}, {"p": 9 if pause != "it is read" else position}) == {}
        now += STALLED_S + 1 if pause != "no time" else 0.0
        position += pause == "it moves"
        for _ in range(0 if pause == "no polls" else STALLED_POLLS):
            stalls.note_empty_poll()
