"""The batcher: nobody waits for company, everybody sees only their own rows, and one bad request spoils only itself."""

import threading
from collections.abc import Callable, Mapping
from concurrent import futures

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protos.tensors import Array
from serving.served import StudentAnswer
from serving.student.batcher import RECENT_SHAPES, Batcher, DeadlinePassed
from serving.student.session import StudentError
from serving.student.slot import NoVersion, Slot
from tests.support.callers import FakeSession, Gate
from tests.support.waiting import wait_for


def rows(*first: int, width: int = 4) -> dict[str, Array]:
    return {"bytes": np.repeat(np.array(first)[:, None], width, 1).astype(np.int32)}


def batcher_of(session: FakeSession | None, *, max_batch: int = 16) -> Batcher:
    slot = Slot()
    if session:
        slot.swap(session, drain_deadline_s=1.0)
    return Batcher(slot, max_batch=max_batch)


class Company:
    """Requests that arrive, in order, while a first one is being run."""

    def __init__(self, batcher: Batcher, gate: Gate) -> None:
        self._batcher = batcher
        self._gate = gate
        self._pool = futures.ThreadPoolExecutor(32)
        self.first = self._pool.submit(batcher.run, rows(0))
        assert gate.entered.acquire(timeout=10)
        self._num_waiting = 0

    def add(
        self, inputs: Mapping[str, Array], deadline: float | None = None, extra: tuple[str, ...] = ()
    ) -> "futures.Future[StudentAnswer]":
        """Let one request wait behind those before."""
        future = self._pool.submit(self._batcher.run, inputs, extra=extra, deadline=deadline)
        self._num_waiting += 1
        wait_for(lambda: len(self._batcher._queue) == self._num_waiting, what="the request to wait")
        return future

    def go(self) -> None:
        """Let the first run end."""
        self._gate.open()
        self._pool.shutdown()


def held(
    *, then: Callable[[Mapping[str, Array]], None] = lambda inputs: None, **options: int
) -> tuple[FakeSession, Company]:
    gate = Gate()

    def wait(inputs: Mapping[str, Array]) -> None:
        gate.wait(inputs)
        then(inputs)

    session = FakeSession(then=wait)
    return session, Company(batcher_of(session, **options), gate)


def test_a_request_that_finds_the_student_idle_runs_at_once_and_alone() -> None:
    session = FakeSession("v1")

    answer = batcher_of(session).run(rows(7, 8))

    assert (answer.logits_BC[:, 0].tolist(), answer.version, answer.extra) == ([7.0, 8.0], "v1", {})
    assert session.batches == [2]


def test_requests_that_wait_together_run_together_and_see_their_own_rows() -> None:
    session, company = held()
    waiting = [company.add(rows(10 * one, 10 * one + 1)) for one in range(1, 4)]

    company.go()

    assert [future.result()[0][:, 0].tolist() for future in waiting] == [[10, 11], [20, 21], [30, 31]]
    assert session.batches == [1, 6]


def test_requests_that_want_different_outputs_run_together_and_get_what_they_want() -> None:
    session, company = held()
    plain, both = company.add(rows(1)), company.add(rows(2, 3), extra=("double", "text"))
    double = company.add(rows(4), extra=("double",))

    company.go()

    assert plain.result().extra == {}
    assert {name: array.tolist() for name, array in both.result().extra.items()} == {
        "double": [4, 6],
        "text": [b"2", b"3"],
    }
    assert double.result().extra["double"].tolist() == [8]
    assert session.batches == [1, 4]


def test_requests_of_other_shapes_are_not_joined() -> None:
    session, company = held()
    narrow, wide = company.add(rows(1)), company.add(rows(2, width=6))
    also_narrow = company.add(rows(3))

    company.go()

    assert [one.result()[0][0, 0] for one in (narrow, wide, also_narrow)] == [1, 2, 3]
    assert session.batches == [1, 2, 1]


def test_no_run_has_more_rows_than_allowed_but_a_large_request_runs_alone() -> None:
    session, company = held(max_batch=4)
    waiting = [company.add(rows(1, 2, 3)), company.add(rows(4, 5)), company.add(rows(*range(9))), company.add(rows(6))]

    company.go()

    assert [len(future.result()[0]) for future in waiting] == [3, 2, 9, 1]
    assert session.batches == [1, 4, 2, 9]


def test_a_request_whose_deadline_has_passed_is_not_run() -> None:
    session, company = held()
    late, good = company.add(rows(1), deadline=0.0), company.add(rows(2))

    company.go()

    with pytest.raises(DeadlinePassed, match="before the student ran"):
        late.result()
    assert good.result()[0][0, 0] == 2
    assert session.batches == [1, 1]


def test_a_request_that_spoils_a_run_is_told_and_its_company_is_answered() -> None:
    def spoil(inputs: Mapping[str, Array]) -> None:
        if (inputs["bytes"] == 13).any():
            raise StudentError("unlucky", "run_failed")

    _, company = held(then=spoil)
    before, spoilt, after = company.add(rows(1)), company.add(rows(13)), company.add(rows(2))

    company.go()

    assert (before.result()[0][0, 0], after.result()[0][0, 0]) == (1, 2)
    with pytest.raises(StudentError, match="unlucky"):
        spoilt.result()


def test_an_unforeseen_error_reaches_its_caller_and_the_batcher_goes_on() -> None:
    def spoil(inputs: Mapping[str, Array]) -> None:
        if (inputs["bytes"] == 13).any():
            raise MemoryError("too much")

    batcher = batcher_of(FakeSession(then=spoil))

    with pytest.raises(MemoryError):
        batcher.run(rows(13))
    assert batcher.run(rows(1))[0][0, 0] == 1


def test_without_a_version_everybody_who_waits_is_told() -> None:
    with pytest.raises(NoVersion, match="no student version yet"):
        batcher_of(None).run(rows(1))


def test_the_newest_shapes_are_remembered_for_warming_up() -> None:
    batcher = batcher_of(FakeSession())

    for num_rows in range(1, RECENT_SHAPES + 3):
        batcher.run(rows(*range(num_rows)))

    shapes = batcher.recent_shapes()
    assert len(shapes) == RECENT_SHAPES
    assert {"bytes": (RECENT_SHAPES + 2, 4)} in shapes


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 5), st.sampled_from([2, 3])), min_size=1, max_size=40), st.integers(1, 8))
def test_whatever_comes_at_once_each_caller_gets_its_own_rows(sizes: list[tuple[int, int]], max_batch: int) -> None:
    batcher = batcher_of(FakeSession(), max_batch=max_batch)
    barrier = threading.Barrier(min(len(sizes), 8))

    def ask(place: int) -> bool:
        num_rows, width = sizes[place]
        if place < barrier.parties:
            barrier.wait(10)
        wanted = [100 * place + row for row in range(num_rows)]
        return bool(batcher.run(rows(*wanted, width=width))[0][:, 0].tolist() == wanted)

    with futures.ThreadPoolExecutor(8) as pool:
        assert all(pool.map(ask, range(len(sizes))))
