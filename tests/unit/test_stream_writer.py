"""The loop's writer on Kafka around a producer of this test: bytes on their way, time for each message, and what didn't arrive."""

import types
from collections.abc import Callable, Iterator

import pytest
import structlog.testing
from kafka.errors import KafkaTimeoutError, MessageSizeTooLargeError

from distill_loop.stream import dead_app
from distill_loop.stream.consumer import Message
from distill_loop.stream.dead_letter import TELL_S, TRY_AGAIN_S, DeadLetters, Letter
from distill_loop.stream.kafka_writer import KEPT_S, KafkaWriter
from distill_loop.stream.writer import NotWritten, Outgoing
from protos.errors import ConfigurationError, UnavailableError
from protos.topics import DEAD, PAIRS
from registry import kafka_delivery
from registry.sections import KafkaSection, StreamSection

BOUND, PATIENCE_S = 2**16, 1.0
SETTINGS = StreamSection(
    kafka=KafkaSection(bootstrap="127.0.0.1:9", max_in_flight_bytes=BOUND, acknowledge_timeout_s=PATIENCE_S)
)


class Producer:
    """Each message takes most of the time that there is, on a clock of its own; some fail."""

    def __init__(self, fails: dict[int, Exception]) -> None:
        self._fails = fails
        self.now = 0.0
        self.num_bytes = self.most_bytes = self.num_sent = 0
        self._sender = types.SimpleNamespace(force_close=lambda: None, join=lambda timeout: None, wakeup=lambda: None)

    def close(self, timeout: float) -> None:
        """Nothing is open."""

    def send(self, name: str, value: bytes, *, partition: int, headers: list[tuple[str, bytes]]) -> object:
        number, done = self.num_sent, []
        self.num_sent += 1
        self.num_bytes += len(value)
        self.most_bytes = max(self.most_bytes, self.num_bytes)

        def get(timeout: float) -> None:
            if number in self._fails:
                raise self._fails[number]
            if timeout < 0.8 * PATIENCE_S:
                raise KafkaTimeoutError("late")
            self.now += 0.8 * PATIENCE_S
            self.num_bytes -= len(value)
            done.append(True)

        return types.SimpleNamespace(get=get, succeeded=lambda: bool(done))


@pytest.fixture
def writer_of(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[KafkaWriter, Producer]]:
    def make(fails: dict[int, Exception] | None = None) -> tuple[KafkaWriter, Producer]:
        producer = Producer(fails or {})
        monkeypatch.setattr(KafkaWriter, "_connect", lambda self: producer)
        monkeypatch.setattr(kafka_delivery.time, "monotonic", lambda: producer.now)
        return KafkaWriter(SETTINGS, "tiny"), producer

    return make


def outgoing(count: int, size: int) -> list[Outgoing]:
    return [Outgoing(DEAD, 0, {"offset": str(number)}, bytes(size)) for number in range(count)]


def test_many_messages_arrive_within_bounds_though_all_take_longer_than_one_may(
    writer_of: Callable[..., tuple[KafkaWriter, Producer]],
) -> None:
    writer, producer = writer_of()

    writer.write(outgoing(40, BOUND // 4))

    assert (producer.num_sent, producer.num_bytes) == (40, 0)
    assert producer.most_bytes <= BOUND


def test_what_did_not_arrive_is_told(writer_of: Callable[..., tuple[KafkaWriter, Producer]]) -> None:
    messages = outgoing(6, 10)
    for error, too_large in ((KafkaTimeoutError("late"), False), (MessageSizeTooLargeError(), True)):
        writer, _ = writer_of({2: error})
        with pytest.raises(NotWritten) as caught:
            writer.write(messages)
        assert (caught.value.rest, caught.value.too_large) == (messages[2:], too_large)


class Sleeper(Producer):
    """Sends in a thread that sleeps until it is woken, in a time that stands still; takes nothing of more than 500 bytes."""

    def __init__(self) -> None:
        super().__init__({})
        self.now = 1.0
        self._sender.wakeup = self._send_all
        self._waiting: list[list[bool]] = []

    def _send_all(self) -> None:
        for done in self._waiting:
            done.append(True)
        self._waiting.clear()

    def send(self, name: str, value: bytes, *, partition: int, headers: list[tuple[str, bytes]]) -> object:
        if len(value) > 500:
            raise MessageSizeTooLargeError
        done: list[bool] = []
        self._waiting.append(done)
        self._sender.wakeup()

        def get(timeout: float) -> None:
            if not done:
                raise KafkaTimeoutError("nobody woke it")

        return types.SimpleNamespace(get=get, succeeded=lambda: bool(done))


@pytest.mark.parametrize(("sizes", "num_arrived"), [((400,) * 4, 4), ((200, 200, 600), 2)])
def test_a_producer_that_sleeps_is_woken_before_it_is_waited_for(
    sizes: tuple[int, ...], num_arrived: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    producer = Sleeper()
    monkeypatch.setattr(KafkaWriter, "_connect", lambda self: producer)
    monkeypatch.setattr(kafka_delivery.time, "monotonic", lambda: producer.now)
    kafka = SETTINGS.kafka.model_copy(update={"max_in_flight_bytes": 1_000})
    messages = [Outgoing(DEAD, 0, {}, bytes(size)) for size in sizes]
    told: list[tuple[list[Outgoing], bool]] = []

    try:
        KafkaWriter(SETTINGS.model_copy(update={"kafka": kafka}), "tiny").write(messages)
    except NotWritten as error:
        told.append((error.rest, error.too_large))

    assert told == ([(messages[num_arrived:], True)] if num_arrived < len(sizes) else [])


def test_a_producer_serves_calls_that_follow_soon_and_none_behind_a_failure(
    writer_of: Callable[..., tuple[KafkaWriter, Producer]], monkeypatch: pytest.MonkeyPatch
) -> None:
    writer, producer = writer_of({3: KafkaTimeoutError("late")})
    made = []
    monkeypatch.setattr(KafkaWriter, "_connect", lambda self: made.append(producer.num_sent) or producer)

    for _ in range(3):
        writer.write(outgoing(1, 10))
    with pytest.raises(NotWritten):
        writer.write(outgoing(1, 10))
    writer.write(outgoing(1, 10))
    producer.now += KEPT_S + 1
    writer.write(outgoing(1, 10))

    assert made == [0, 4, 5]


class Half:
    """Takes one letter of each call, until it is told to take all."""

    def __init__(self, takes: int = 1) -> None:
        self.taken: list[Outgoing] = []
        self.takes = takes

    def write(self, messages: list[Outgoing]) -> None:
        self.taken += messages[: self.takes]
        if len(messages) > self.takes:
            raise NotWritten("the stream is away: a fault of this test", rest=messages[self.takes :])

    def close(self) -> None:
        """Nothing is open."""


def test_a_letter_that_arrived_in_a_write_that_failed_is_not_written_again() -> None:
    writer = Half()
    dead = DeadLetters(writer, list)
    for offset in range(3):
        dead.put(Message(PAIRS, 0, offset, {}, b"rubbish"), "undecodable", "it is rubbish")

    with pytest.raises(UnavailableError):
        dead.flush()
    writer.takes = 10
    dead.flush()

    assert [one.headers["offset"] for one in writer.taken] == ["0", "1", "2"]


class Small(Half):
    """A stream whose limit an operator raises."""

    most_bytes = 2_000

    def write(self, messages: list[Outgoing]) -> None:
        for place, one in enumerate(messages):
            if len(one.value) > self.most_bytes:
                raise NotWritten("it is too large", rest=messages[place:], too_large=True)
            self.taken.append(one)


def test_a_topic_that_took_no_large_letter_is_tried_again_after_a_while() -> None:
    writer, now = Small(), 0.0
    dead = DeadLetters(writer, list, max_bytes=10_000, clock=lambda: now)

    def sizes(offset: int, size: int) -> list[int]:
        writer.taken.clear()
        dead.put(Message(PAIRS, 0, offset, {}, bytes(size)), "undecodable", "it is rubbish")
        dead.flush()
        return [len(one.value) for one in writer.taken]

    assert 0 < sizes(0, 3_000)[0] < 2_000
    writer.most_bytes = 5_000
    assert sizes(1, 3_000)[0] < 2_000  # it isn't asked again and again
    now += TRY_AGAIN_S
    assert sizes(2, 3_000) == [3_000]
    assert sizes(3, 8_000)[0] < 5_000


def test_a_flood_is_told_of_in_few_lines() -> None:
    now = 0.0
    dead = DeadLetters(Half(takes=10), list, clock=lambda: now)

    with structlog.testing.capture_logs() as lines:
        for offset in range(100):
            dead.put(Message(PAIRS, 0, offset, {}, b"rubbish"), "undecodable", "it is rubbish")
            dead.flush()
            now += TELL_S / 16
        dead.close()

    assert [line["num"] for line in lines] == [1, 15, 16, 16, 16, 16, 16, 4]
    assert [line["first"]["offset"] for line in lines[:3]] == ["0", "1", "16"]


def test_letters_are_sent_again_in_lots_as_they_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    read, lots = [], []

    def letters() -> Iterator[Letter]:
        for number in range(6):
            read.append(number)
            yield Letter(number, Message(PAIRS, 0, number, {}, bytes(10)), "undecodable", "", "", None)

    class Noting(Half):
        def write(self, messages: list[Outgoing]) -> None:
            lots.append((len(read), len(messages)))

    monkeypatch.setattr(dead_app, "open_writer", lambda settings, model: Noting())
    monkeypatch.setattr(dead_app, "REPLAYED_BYTES_AT_ONCE", 20)

    assert dead_app.replay(SETTINGS, "tiny", letters()) == 6
    assert lots == [(2, 2), (4, 2), (6, 2)]


def test_both_ends_of_a_stream_have_one_limit() -> None:
    assert SETTINGS.max_message_bytes == SETTINGS.kafka.max_message_bytes
    assert StreamSection().max_message_bytes == 64 * 2**20


def test_a_certificate_that_can_not_be_read_lets_letters_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> list[Letter]:
        raise ConfigurationError("stream.kafka.ca: it can't be used", fix="It has to be a PEM file")

    monkeypatch.setattr(KafkaWriter, "_connect", refuse)
    for known in (refuse, list):  # what is there is read with a client of its own
        letters = DeadLetters(KafkaWriter(SETTINGS, "tiny"), known)
        letters.put(Message(PAIRS, 0, 7, {}, b"rubbish"), "undecodable", "it is rubbish")
        with pytest.raises(UnavailableError, match=r"it can't be used\. It has to be a PEM file"):
            letters.flush()
