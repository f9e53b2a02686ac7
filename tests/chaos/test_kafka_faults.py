"""Each fault in short, on one rig of real processes and a real broker: afterwards the books close, and no caller noticed.

The whole of it, with latencies and long outages, is `python -m benchmarks.chaos`: the slow tests play its cases as they are.
"""

import contextlib
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest

from benchmarks.chaos import faults
from benchmarks.chaos.books import read_books
from benchmarks.chaos.cases import CASES, small_disk
from benchmarks.chaos.rig import Plan, Rig, rig
from benchmarks.harness import ROOT
from tests.support.kafka import need_kafka

PLAN = Plan(rate=100.0, trial=True, kafka={"acknowledge_timeout_s": 2.0})
SPOOL_BYTES = 2 * 2**20
pytestmark = pytest.mark.timeout(180)


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plan]:
    """What is built: spools on a small disk where one can be mounted, else without it."""
    need_kafka()
    plan = PLAN
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):
            plan = stack.enter_context(small_disk(tmp_path_factory.mktemp("chaos") / "disk", PLAN, SPOOL_BYTES))
        yield plan


@pytest.fixture(scope="module")
def running(plan: Plan, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    with rig(tmp_path_factory.mktemp("rig") / "rig", plan) as running:
        yield running


def assert_nothing_happened(running: Rig) -> None:
    """No request failed, nothing is lost or counted twice: by the callers' ids, the topics and the loop's memory."""
    with running.resting():
        books = read_books(running)
    broken = [check.as_json() for check in books.checks() if not check.holds]
    assert not broken, f"{broken} {books.figures()}"


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(lambda it: faults.kill_loops(it, num_kills=1, most_s=1.0), id="the loop is killed"),
        pytest.param(lambda it: faults.kill_mirrors(it, num_kills=1, most_s=1.0), id="the mirror is killed"),
        pytest.param(lambda it: faults.inject_duplicates(it, most_messages=100), id="messages come twice"),
        pytest.param(lambda it: faults.cut_network(it, seconds=1.0), id="the network is cut"),
        pytest.param(lambda it: faults.silence_broker(it, seconds=3.0), id="the broker falls silent"),
    ],
)
def test_callers_and_books_do_not_notice_that(running: Rig, fault: Callable[[Rig], object]) -> None:
    fault(running)

    assert_nothing_happened(running)


def test_callers_and_books_do_not_notice_that_the_broker_dies_and_the_disk_of_the_spool_is_full(
    plan: Plan, running: Rig
) -> None:
    if plan is PLAN:
        pytest.skip("only where a small disk can be mounted: that needs root and Linux; in CI a skip fails")

    faults.fill_the_disk(running, full_s=0.5)

    assert_nothing_happened(running)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", CASES)
def test_the_whole_case_keeps_what_it_promises(name: str) -> None:
    need_kafka()
    # A process of its own: it takes a core and a priority.
    command = [sys.executable, "-m", "benchmarks.chaos", "--case", name]

    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)

    assert done.returncode == 0, f"{done.stdout}{done.stderr[-2000:]}"
