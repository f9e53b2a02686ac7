"""What the publisher decides around kafka-python's producer: bytes on their way, and which messages arrived."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kafka.errors import KafkaTimeoutError, NotEnoughReplicasError

from registry.kafka_delivery import Delivery
from serving.shadow.message import Message


class Future:
    """Arrives when it is waited for, or fails as it is told to."""

    def __init__(self, arrived: Callable[[], None], error: Exception | None) -> None:
        self._arrived = arrived
        self._error = error
        self._done = False

    def get(self, timeout: float) -> None:
        if self._error:
            raise self._error
        if not self._done:
            self._done = True
            self._arrived()

    def succeeded(self) -> bool:
        return self._done


class Producer:
    """Counts the bytes that are on their way."""

    def __init__(self, fails: dict[int, Exception] | None = None) -> None:
        self.num_bytes = self.most_bytes = self.num_sent = 0
        self._fails = fails or {}

    def send(self, name: str, value: bytes, *, headers: list[tuple[str, bytes]], partition: int) -> Future:
        self.num_bytes += len(value)
        self.most_bytes = max(self.most_bytes, self.num_bytes)
        self.num_sent += 1

        def arrived() -> None:
            self.num_bytes -= len(value)

        return Future(arrived, self._fails.get(self.num_sent - 1))


def deliver(producer: Producer, messages: list[Message], max_bytes: int) -> Delivery:
    delivery = Delivery(producer, max_bytes, patience_s=1.0)
    for message in messages:
        delivery.send("t", message, [])
    delivery.finish()
    return delivery


@given(st.lists(st.integers(0, 3000), max_size=40), st.integers(1000, 5000))
def test_no_more_bytes_are_on_their_way_than_are_allowed_or_one_message_has(sizes: list[int], max_bytes: int) -> None:
    producer = Producer()
    messages = [Message("pairs", 0, bytes(size)) for size in sizes]

    delivery = deliver(producer, messages, max_bytes)

    assert producer.most_bytes <= max(max_bytes, *sizes, 0)
    assert producer.num_bytes == 0
    assert delivery.num_accepted == len(messages)
    assert delivery.rest(messages) == []


@pytest.mark.parametrize("error", [KafkaTimeoutError("late"), NotEnoughReplicasError()])
def test_the_rest_is_what_did_not_arrive_in_its_order(error: Exception) -> None:
    messages = [Message("pairs", 0, b"%d" % number) for number in range(6)]
    delivery = Delivery(Producer({2: error}), max_bytes=6, patience_s=1.0)
    for message in messages:
        delivery.send("t", message, [])

    with pytest.raises(type(error)):
        delivery.finish()

    assert delivery.num_accepted == 2
    assert delivery.rest(messages) == messages[2:]
