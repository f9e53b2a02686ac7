"""The budget: two caps that hold at every moment, across restarts too."""

import pathlib

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serving.config import TeacherSection
from serving.shadow.budget import Budget
from serving.shadow.ring import Ring, create


@pytest.fixture
def ring(tmp_path: pathlib.Path) -> Ring:
    create(tmp_path / "ring", 2**16)
    return Ring(tmp_path / "ring")


class Clock:
    """A clock that the test moves."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def settings_of(**values: float) -> TeacherSection:
    return TeacherSection.model_validate(values)


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    ratio=st.floats(0, 1),
    burst=st.integers(1, 20),
    rate=st.floats(0.1, 50),
    steps=st.lists(st.tuples(st.integers(0, 30), st.integers(1, 12), st.floats(0, 2), st.booleans()), max_size=40),
)
def test_neither_cap_is_ever_exceeded(
    ring: Ring, ratio: float, burst: int, rate: float, steps: list[tuple[int, int, float, bool]]
) -> None:
    clock = Clock()
    values = settings_of(budget_ratio=ratio, budget_burst=burst, max_calls_per_s=rate, max_batch=8)
    budget = Budget(values, ring, clock)
    ring.teacher_rows = 0
    seen_before, spent = ring.rows_seen, 0

    for num_seen, rows, seconds, give_back in steps:
        ring.count_seen(num_seen)
        clock.now += seconds
        if budget.reserve(rows):
            spent += rows
            if give_back:
                budget.refund(rows)
                spent -= rows

        assert ring.teacher_rows == spent
        assert spent <= burst + ratio * ring.rows_seen
        assert spent <= max(rate, 8) + rate * clock.now + 1e-6
    assert ring.rows_seen == seen_before + sum(step[0] for step in steps)


def test_a_restarted_mirror_goes_on_where_it_was(ring: Ring) -> None:
    values = settings_of(budget_ratio=0, budget_burst=5)
    assert Budget(values, ring).reserve(4)

    again = Budget(values, ring)

    assert not again.reserve(2)
    assert again.reserve(1)


def test_rows_seen_open_the_budget_again(ring: Ring) -> None:
    budget = Budget(settings_of(budget_ratio=0.25, budget_burst=1), ring)
    assert budget.reserve(1)
    assert not budget.reserve(1)

    ring.count_seen(4)

    assert budget.reserve(1)
    assert not budget.reserve(1)


@pytest.mark.parametrize("rate", [0.5, 3.0])
def test_a_slow_rate_saves_up_for_a_whole_lot(ring: Ring, rate: float) -> None:
    clock = Clock()
    budget = Budget(settings_of(max_calls_per_s=rate, max_batch=8), ring, clock)
    assert budget.reserve(8)
    assert not budget.reserve(1)

    clock.now = 8 / rate

    assert budget.reserve(8)


def test_what_is_given_back_can_be_reserved_again(ring: Ring) -> None:
    budget = Budget(settings_of(budget_ratio=0, budget_burst=1), ring)
    assert budget.reserve(1)

    budget.refund(1)

    assert budget.reserve(1)
    assert ring.teacher_rows == 1


@pytest.mark.parametrize(
    ("seen", "spent", "pace"), [(0, 0, 0.1), (180, 0, 1.0), (1000, 0, 1.0), (180, 50, 0.5), (0, 10, 0.0)]
)
def test_the_pace_is_what_is_saved_of_the_reserve(ring: Ring, seen: int, spent: int, pace: float) -> None:
    budget = Budget(settings_of(budget_ratio=0.5, budget_burst=10, budget_reserve=100), ring)
    ring.count_seen(seen)
    ring.teacher_rows = spent

    assert budget.pace() == pytest.approx(pace)
