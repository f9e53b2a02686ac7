"""The pipe between the gateway's parent and a child: the newest wish, a stop, and a parent that is gone."""

import io
import json
import os
import threading
from collections.abc import Iterator
from typing import Any, TextIO

import pytest
from structlog.testing import capture_logs

from serving.control_channel import ControlChannel
from tests.support.waiting import wait_for


class Pipe:
    """A channel and the parent's end of its input."""

    def __init__(self, source: TextIO, parent: TextIO) -> None:
        self.parent = parent
        self.sink = io.StringIO()
        self.followed: list[Any] = []
        self.stopped = threading.Event()
        self.follow = threading.Event()
        self.follow.set()
        self.channel = ControlChannel(self._take, self.stopped.set, source=source, sink=self.sink)
        self.channel.start()

    def say(self, text: str) -> None:
        """Write to the child."""
        self.parent.write(text)
        self.parent.flush()

    def wish(self, live: str | None) -> None:
        """Tell the child what is desired."""
        self.say(json.dumps({"desired": {"live": live, "trial": None}}) + "\n")

    def _take(self, wish: dict[str, Any]) -> None:
        self.followed.append(wish["live"])
        assert self.follow.wait(10)
        if wish["live"] == "bad":
            raise RuntimeError("can't")


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    reading, writing = os.pipe()
    with os.fdopen(reading) as source, os.fdopen(writing, "w") as parent:
        made = Pipe(source, parent)
        yield made
        if not parent.closed:
            parent.close()
        assert made.stopped.wait(10)


def test_a_wish_is_followed(pipe: Pipe) -> None:
    pipe.wish("one")

    wait_for(lambda: pipe.followed == ["one"], what="the wish")


def test_only_the_newest_of_the_wishes_that_wait_is_followed(pipe: Pipe) -> None:
    pipe.follow.clear()
    pipe.wish("one")
    wait_for(lambda: pipe.followed == ["one"], what="the first wish")
    for live in ("two", "three", "four"):
        pipe.wish(live)
    wait_for(lambda: pipe.channel._wish == {"live": "four", "trial": None}, what="the last wish to arrive")

    pipe.follow.set()

    wait_for(lambda: pipe.followed == ["one", "four"], what="the newest wish")


def test_a_wish_that_cannot_be_followed_is_logged_and_the_next_one_is(pipe: Pipe) -> None:
    with capture_logs() as logs:
        pipe.wish("bad")
        wait_for(lambda: logs, what="a log line")
        pipe.wish("good")
        wait_for(lambda: pipe.followed == ["bad", "good"], what="the next wish")

    assert logs[0]["desired"] == {"live": "bad", "trial": None}


def test_a_word_to_stop_stops(pipe: Pipe) -> None:
    pipe.say('{"stop": true}\n')

    assert pipe.stopped.wait(10)


def test_a_parent_that_is_gone_stops_the_child(pipe: Pipe) -> None:
    pipe.parent.close()

    assert pipe.stopped.wait(10)


def test_a_parent_that_was_killed_in_the_middle_of_a_line_stops_the_child(pipe: Pipe) -> None:
    pipe.say('{"desired": {"li')
    pipe.parent.close()

    assert pipe.stopped.wait(10)
    assert not pipe.followed


def test_an_event_is_one_line_of_json(pipe: Pipe) -> None:
    pipe.channel.emit("serving", version="abc")

    assert json.loads(pipe.sink.getvalue()) == {"event": "serving", "version": "abc"}
    assert pipe.sink.getvalue().endswith("\n")


def test_telling_a_parent_that_is_gone_is_no_error() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    sink = os.fdopen(writing, "w", buffering=1)
    channel = ControlChannel(print, print, source=io.StringIO(), sink=sink)

    channel.emit("stopped")

    with pytest.raises(BrokenPipeError):
        sink.close()
