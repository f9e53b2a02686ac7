"""The local stack: processes start, are waited for, and none outlives it, whatever ends it."""

import os
import pathlib
import signal

import pytest

from everstill import stack as local
from everstill.stack import Stack
from protos.errors import UnavailableError
from tests.support.waiting import wait_for

ENVIRONMENT = {"PYTHONPATH": str(pathlib.Path(__file__).parents[2])}


def start(stack: Stack, name: str, *ways: str) -> local.Process:
    return stack.start(name, ["tests.support.child", *ways], ENVIRONMENT)


def test_all_processes_have_ended_when_the_stack_has(tmp_path: pathlib.Path) -> None:
    with Stack(tmp_path) as stack:
        children = [start(stack, name) for name in ("teacher", "gateway")]
        events = [stack.started_event(child) for child in children]

    assert [event["address"] for event in events] == ["127.0.0.1:1"] * 2
    assert [child.popen.poll() for child in children] == [0, 0]
    assert [local.last_line(child.log) for child in children] == ["ended well"] * 2


def test_an_error_inside_stops_the_processes_too(tmp_path: pathlib.Path) -> None:
    children = []

    def fail() -> None:
        with Stack(tmp_path) as stack:
            children.append(start(stack, "teacher"))
            stack.started_event(children[0])
            raise ValueError("inside")

    with pytest.raises(ValueError, match="inside"):
        fail()
    assert children[0].popen.poll() == 0


def test_one_process_can_be_stopped_before_the_others(tmp_path: pathlib.Path) -> None:
    with Stack(tmp_path) as stack:
        first, second = start(stack, "gateway"), start(stack, "loop")
        stack.started_event(first)
        stack.started_event(second)

        stack.stop("gateway")

        assert (first.popen.poll(), second.popen.poll()) == (0, None)
        stack.check()


def test_a_process_that_will_not_stop_is_killed(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "STOP_S", 0.2)

    with Stack(tmp_path) as stack:
        child = start(stack, "gateway", "deaf")
        stack.started_event(child)

    assert child.popen.poll() == -signal.SIGKILL


def test_a_process_that_ends_before_it_was_ready_is_named_with_its_last_words(tmp_path: pathlib.Path) -> None:
    with Stack(tmp_path) as stack:
        child = start(stack, "teacher", "dies")

        with pytest.raises(
            UnavailableError, match=r"teacher ended before .*port 1 is taken\. Its log is .*teacher\.log"
        ):
            stack.started_event(child)


def test_a_process_that_ends_later_is_noticed(tmp_path: pathlib.Path) -> None:
    with Stack(tmp_path) as stack:
        child = start(stack, "loop")
        stack.started_event(child)
        stack.check()

        child.popen.kill()
        child.popen.wait()

        with pytest.raises(UnavailableError, match="loop ended with -9"):
            stack.check()


def test_waiting_has_an_end(tmp_path: pathlib.Path) -> None:
    with Stack(tmp_path) as stack:
        child = start(stack, "loop", "silent")

        with pytest.raises(UnavailableError, match=r"loop took more than 0 s until it was ready"):
            stack.wait_for(child, lambda: False, "it was ready", 0.2)


def test_ctrl_c_during_a_stop_comes_after_it(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "STOP_S", 1.0)
    stack = Stack(tmp_path)
    deaf, other = start(stack, "gateway"), start(stack, "loop", "deaf")
    for child in (deaf, other):
        stack.started_event(child)
    # The stop waits a second for the deaf one; a process of its own presses Ctrl-C meanwhile.
    stack.start("finger", ["tests.support.finger", str(os.getpid())], ENVIRONMENT)
    wait_for(lambda: (tmp_path / "logs/finger.out").read_text() == "ready\n", what="the finger")

    with pytest.raises(KeyboardInterrupt):
        stack.stop()

    assert (deaf.popen.poll(), other.popen.poll()) == (0, -signal.SIGKILL)


def test_a_child_does_not_get_the_terminal_s_ctrl_c(tmp_path: pathlib.Path) -> None:
    with Stack(tmp_path) as stack:
        child = start(stack, "loop")

        assert os.getpgid(child.popen.pid) != os.getpgid(0)
