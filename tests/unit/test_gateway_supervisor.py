"""The gateway's parent: which dead child is started again, and how often a refused version is tried again."""

import io
import pathlib
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest

from serving.config import GatewaySection, ServingSettings
from serving.supervisor import FORGIVEN_S, MAX_RESTART_S, MAX_RETRY_S, RESTART_S, RETRY_S, Child, Supervisor


class Ended:
    """A process that has ended, or has not."""

    def __init__(self, code: int | None) -> None:
        self.pid = 0
        self.stdin = io.StringIO()
        self._code = code

    def poll(self) -> int | None:
        return self._code


@pytest.fixture
def supervisor(tmp_path: pathlib.Path) -> Iterator[Supervisor]:
    settings = ServingSettings(
        registry={"url": str(tmp_path / "registry")}, gateway=GatewaySection(port=0, metrics_port=0)
    )
    made = Supervisor(settings, None)
    yield made
    made._metrics_dir.rmdir()


def child_with(code: int | None, **options: Any) -> Child:
    return Child("mirror", process=Ended(code), **options)  # type: ignore[arg-type]


def test_a_child_that_runs_is_left_alone(supervisor: Supervisor) -> None:
    child = child_with(None)

    assert supervisor._keep_alive(child) is None
    assert child.deaths == 0


@pytest.mark.parametrize("code", [2, 3, 4])
def test_a_child_that_told_why_it_cannot_start_ends_the_gateway(supervisor: Supervisor, code: int) -> None:
    assert supervisor._keep_alive(child_with(code)) == code


@pytest.mark.parametrize(("code", "ever_started"), [(4, True), (1, False), (-9, False)])
def test_any_other_death_is_followed_by_another_start(supervisor: Supervisor, code: int, ever_started: bool) -> None:
    child = child_with(code, ever_started=ever_started, start_after=1e12)

    assert supervisor._keep_alive(child) is None
    assert child.deaths == 1
    assert child.process is None


def test_the_pause_between_deaths_doubles_up_to_a_bound(supervisor: Supervisor) -> None:
    child, pauses = Child("mirror"), []
    for _ in range(10):
        child.process, child.started_at = Ended(1), time.monotonic()  # type: ignore[assignment]
        supervisor._keep_alive(child)
        pauses.append(child.start_after - time.monotonic())

    assert pauses[:3] == pytest.approx([RESTART_S, 2 * RESTART_S, 4 * RESTART_S], abs=0.4)
    assert pauses[-1] == pytest.approx(MAX_RESTART_S, abs=1.0)


def test_a_child_that_lived_long_is_forgiven(supervisor: Supervisor) -> None:
    child = child_with(1, deaths=7, ever_started=True, started_at=time.monotonic() - FORGIVEN_S - 1)

    supervisor._keep_alive(child)

    assert child.deaths == 1


def test_a_refused_version_is_told_again_ever_more_rarely() -> None:
    child = child_with(None)
    child.tell("wish")
    pauses = []

    for _ in range(8):
        child.refused()
        assert child.retry_at is not None
        pauses.append(child.retry_at)
        child.tell("wish")  # not yet
    written = child.process.stdin  # type: ignore[union-attr]

    assert isinstance(written, io.StringIO)
    assert written.getvalue() == "wish\n"
    assert pauses[0] - RETRY_S == pytest.approx(pauses[-1] - MAX_RETRY_S, abs=5)
    child.retry_at = 0.0
    child.tell("wish")
    assert written.getvalue() == "wish\nwish\n"
    assert child.retry_at is None


def test_another_wish_is_told_at_once_and_forgets_refusals() -> None:
    child = child_with(None)
    child.tell("one")
    child.refused()
    child.tell("two")

    assert (child.refusals, child.retry_at, child.told) == (0, None, "two")


def test_what_a_child_prints_by_accident_is_not_worth_a_gateway(supervisor: Supervisor) -> None:
    program = "print('hello'); print('[]'); print('{}'); print('{\"event\": \"serving\", \"version\": \"v1\"}')"
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as process:
        child = Child("worker", process=process)

        supervisor._listen(child, process)

    assert child.version == "v1"


def test_a_version_refused_again_for_the_same_reason_is_listed_once(supervisor: Supervisor) -> None:
    child = Child("worker")
    for reason in ("torn", "torn", "full", "torn"):
        supervisor._note(child, {"event": "refused", "digest": "a" * 64, "reason": reason})

    assert [one["reason"] for one in supervisor._refused] == ["torn", "full", "torn"]
