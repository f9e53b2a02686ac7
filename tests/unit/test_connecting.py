"""A connection that is made in its own thread: who waits, who is told why not, and what becomes of what was given up."""

import threading
import time

import pytest

from protos.errors import UnavailableError
from registry.connecting import Connection
from tests.support.waiting import wait_for


class Service:
    """Makes numbered connections; refuses while `up` isn't set, and takes its time while `slow` isn't."""

    def __init__(self) -> None:
        self.up, self.slow, self.asked = threading.Event(), threading.Event(), threading.Event()
        self.up.set()
        self.slow.set()
        self.story: list[str] = []
        self.broken = False

    def make(self) -> int:
        self.asked.set()
        self.slow.wait(10)
        if self.broken:
            raise RuntimeError("a bug")
        if not self.up.is_set():
            raise UnavailableError("nobody there")
        number = sum(line.startswith("made") for line in self.story)
        self.story.append(f"made {number}")
        return number

    def put_away(self, number: int) -> None:
        self.story.append(f"put away {number}")


@pytest.fixture
def service() -> Service:
    return Service()


@pytest.fixture
def connection(service: Service) -> Connection[int]:
    return Connection(service.make, service.put_away, name="tests")


def test_the_first_get_waits_and_later_ones_return_the_same(service: Service, connection: Connection[int]) -> None:
    assert connection.get(5.0) == 0
    assert connection.get(0.0) == 0
    connection.close()
    assert service.story == ["made 0", "put away 0"]


def test_who_does_not_wait_gets_nothing_yet(service: Service, connection: Connection[int]) -> None:
    service.slow.clear()
    assert connection.get(0.0) is None
    assert connection.error is None

    service.slow.set()
    assert wait_for(lambda: connection.get(0.0) is not None, what="the connection")
    connection.close()


def test_a_refusal_ends_the_wait_and_it_is_tried_again_by_itself(service: Service, connection: Connection[int]) -> None:
    service.up.clear()
    began = time.monotonic()
    assert connection.get(30.0) is None
    assert time.monotonic() - began < 10.0
    assert "nobody there" in str(connection.error)

    service.up.set()
    wait_for(lambda: connection.get(0.0) is not None, what="the connection")
    assert connection.error is None
    connection.close()


def test_what_nobody_foresaw_is_told_and_tried_again_too(service: Service, connection: Connection[int]) -> None:
    service.broken = True
    assert connection.get(30.0) is None
    assert "RuntimeError: a bug" in str(connection.error)

    service.broken = False
    wait_for(lambda: connection.get(0.0) is not None, what="the connection")
    connection.close()


def test_what_was_given_up_is_put_away_before_the_next_is_made(service: Service, connection: Connection[int]) -> None:
    connection.get(5.0)
    with connection._changed:  # what is given up twice is put away once, also where its thread comes late
        connection.give_up()
        connection.give_up()

    wait_for(lambda: connection.get(0.0) == 1, what="the second connection")
    connection.close()

    assert service.story == ["made 0", "put away 0", "made 1", "put away 1"]


def test_a_connection_that_comes_after_the_close_is_put_away(service: Service, connection: Connection[int]) -> None:
    service.slow.clear()
    connection.get(0.0)
    service.asked.wait(10)
    connection.close()
    service.slow.set()

    wait_for(lambda: service.story == ["made 0", "put away 0"], what="the late connection to be put away")
    assert connection.get(0.0) is None
