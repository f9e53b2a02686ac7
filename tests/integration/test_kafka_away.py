"""A broker that falls silent, is killed, or takes nothing: writers fail fast, readers say so, and both go on by themselves."""

import contextlib
import itertools
import os
import time
from collections.abc import Callable, Iterator

import pytest
from kafka import KafkaAdminClient

from distill_loop.stream.consumer import Consumer
from protos.errors import FormatError, UnavailableError
from protos.topics import PAIRS, TRIALS, topic
from registry.kafka_options import Unreachable
from serving.shadow.message import Message as Outgoing
from serving.shadow.message import Publisher, StreamUnavailable
from tests.support import kafka, processes
from tests.support.either_stream import MODEL, EitherStream, create_topics, on_kafka, read
from tests.support.waiting import wait_for

TIMEOUT_S = 1.0
#: What a publish that knows that the stream is away may take on a busy machine.
AT_ONCE_S = 0.5


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[kafka.Cluster]:
    """Return a broker that this module's tests may stop and kill."""
    soon = "broker.session.timeout.ms=3000\nbroker.heartbeat.interval.ms=500"
    with kafka.brokers(tmp_path_factory.mktemp("kafka"), extra=soon) as cluster, processes.shared(cluster.pid()):
        yield cluster


@pytest.fixture
def stream(cluster: kafka.Cluster) -> Iterator[EitherStream]:
    settings = on_kafka(cluster.bootstrap, acknowledge_timeout_s=TIMEOUT_S)
    create_topics(settings)
    with contextlib.ExitStack() as stack:
        yield EitherStream(settings, stack)


class Mirror:
    """A writer as the mirror is one: keeps what wasn't taken, and tries it before anything new."""

    def __init__(self, publisher: Publisher) -> None:
        self.publisher = publisher
        self.kept: list[Outgoing] = []
        self.longest_s = 0.0
        self._numbers = itertools.count()

    def step(self) -> bool:
        """Publish the next two messages after those that were kept; return whether all were taken."""
        self.kept += [Outgoing(PAIRS, 0, b"%d" % next(self._numbers)) for _ in range(2)]
        began = time.monotonic()
        try:
            self.publisher.publish(self.kept)
        except StreamUnavailable as error:
            self.kept = error.rest
            return False
        finally:
            self.longest_s = max(self.longest_s, time.monotonic() - began)
        self.kept = []
        return True

    @property
    def num_taken(self) -> int:
        """Messages that the stream has safe."""
        return int(next(self._numbers)) - len(self.kept)


def unavailable(consumer: Consumer) -> bool:
    try:
        consumer.poll(10)
    except UnavailableError:
        return True
    return False


def numbers_in_order_of_first_arrival(consumer: Consumer, count: int) -> list[int]:
    """Read until so many different numbers came."""
    numbers: dict[int, None] = {}

    def enough() -> bool:
        with contextlib.suppress(UnavailableError):
            for message in consumer.poll(100):
                consumer.advance(message)
                numbers[int(message.value)] = None
        return len(numbers) >= count

    wait_for(enough, deadline_s=20.0, what=f"{count} messages")
    return list(numbers)


def fall_silent(cluster: kafka.Cluster) -> contextlib.AbstractContextManager[None]:
    return cluster.silent()


@contextlib.contextmanager
def die(cluster: kafka.Cluster) -> Iterator[None]:
    cluster.kill()
    try:
        yield
    finally:
        cluster.start()
        processes.shared(cluster.pid()).__enter__()  # a new process, ended with its cluster


@pytest.mark.parametrize("fault", [fall_silent, pytest.param(die, marks=pytest.mark.slow)])
def test_a_stream_that_was_away_is_written_and_read_on_in_order(
    cluster: kafka.Cluster,
    stream: EitherStream,
    fault: Callable[[kafka.Cluster], contextlib.AbstractContextManager[None]],
) -> None:
    mirror, consumer = Mirror(stream.publisher()), stream.consumer()
    assert mirror.step()
    assert mirror.step()
    read(consumer, 4)

    with fault(cluster):
        assert not mirror.step()
        assert mirror.longest_s < TIMEOUT_S + AT_ONCE_S
        mirror.longest_s = 0.0
        assert not any(mirror.step() for _ in range(100))
        assert mirror.longest_s < AT_ONCE_S
        wait_for(lambda: unavailable(consumer), what="the reader to notice")
        began = time.monotonic()
        assert unavailable(consumer)
        assert time.monotonic() - began < AT_ONCE_S

    wait_for(mirror.step, deadline_s=30.0, what="the stream to take messages again")
    count = mirror.num_taken - 4
    assert numbers_in_order_of_first_arrival(consumer, count) == list(range(4, 4 + count))
    assert consumer.take_gaps() == []


def test_a_message_that_is_too_large_is_an_error_of_its_writer(stream: EitherStream) -> None:
    large = Outgoing(PAIRS, 0, bytes(stream.settings.kafka.max_message_bytes + 1))

    with pytest.raises(FormatError, match=r"8388609 bytes .* larger than stream\.kafka\.max_message_bytes"):
        stream.publisher().publish([Outgoing(PAIRS, 0, b"small"), large])

    stream.publish(b"next")
    assert [one.value for one in read(stream.consumer(), 1)] == [b"next"]


def test_a_topic_that_refuses_a_message_is_said(cluster: kafka.Cluster) -> None:
    settings = on_kafka(cluster.bootstrap, acknowledge_timeout_s=TIMEOUT_S)
    create_topics(settings, configs={"max.message.bytes": "1000"})
    with contextlib.ExitStack() as stack:
        publisher = EitherStream(settings, stack).publisher()
        with pytest.raises(StreamUnavailable, match="took 0 of 1") as caught:
            publisher.publish([Outgoing(PAIRS, 0, os.urandom(5000))])
    assert len(caught.value.rest) == 1
    assert "max.message.bytes" in caught.value.fix


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"topic_prefix": "nobody-made-these"}, r"no topic .*nobody-made-these\.tiny\.pairs"),
        ({}, "2 partitions, and has to have 3"),
    ],
)
def test_topics_that_are_missing_or_too_few_are_named_and_never_made(
    stream: EitherStream, change: dict[str, str], words: str
) -> None:
    wrong = stream.settings.model_copy(
        update={
            "partitions": 3,
            "kafka": stream.settings.kafka.model_copy(update={"acknowledge_timeout_s": 10.0, **change}),
        }
    )
    either = EitherStream(wrong, stream.stack)

    with pytest.raises(StreamUnavailable, match=words):
        either.publisher().publish([Outgoing(PAIRS, 0, b"x")])
    with pytest.raises(UnavailableError, match=words):
        either.consumer().poll(1)
    with contextlib.closing(KafkaAdminClient(bootstrap_servers=wrong.kafka.bootstrap)) as admin:
        assert topic(MODEL, TRIALS, "nobody-made-these") not in admin.list_topics()


def test_where_no_broker_is_every_call_after_the_first_fails_at_once() -> None:
    settings = on_kafka(f"127.0.0.1:{kafka.free_base_port(1)}", acknowledge_timeout_s=TIMEOUT_S)
    with contextlib.ExitStack() as stack:
        either = EitherStream(settings, stack)
        mirror, consumer = Mirror(either.publisher()), either.consumer()

        assert not mirror.step()
        mirror.longest_s = 0.0
        assert not any(mirror.step() for _ in range(100))
        assert mirror.longest_s < AT_ONCE_S
        with pytest.raises(Unreachable):
            consumer.poll(1)
