"""The gate's statistic: its formula, its guarantee on enumerated and simulated streams, and what bounds and forecasts say."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distill_loop.gates.evidence import (
    BETS,
    PSI,
    Counters,
    log_evidence,
    log_moment_evidence,
    lower_bound,
    requests_needed,
)

ALPHA = 0.01
counters = st.tuples(st.integers(0, 400), st.integers(0, 400), st.integers(0, 5000)).map(
    lambda drawn: Counters(drawn[0], drawn[1], sum(drawn))
)


def plain_log_evidence(wins: int, losses: int, total: int, m: float) -> float:
    """The formula as written, term by term."""
    ties = total - wins - losses
    terms = [
        (1 + lam * (1 - m) / (1 + m)) ** wins * (1 - lam) ** losses * (1 - lam * m / (1 + m)) ** ties / 8
        for lam in np.geomspace(0.03, 0.6, 8)
    ]
    return math.log(sum(terms))


@pytest.mark.parametrize("m", [0.0, -0.01, 0.02, -0.005])
def test_evidence_is_the_formula(m: float) -> None:
    for wins, losses, total in [(0, 0, 0), (60, 30, 3000), (5, 0, 5), (0, 40, 900), (17, 12, 29)]:
        expected = plain_log_evidence(wins, losses, total, m)

        assert log_evidence(Counters(wins, losses, total), m) == pytest.approx(expected, rel=1e-12, abs=1e-12)


def test_known_figures_of_the_published_table() -> None:
    assert requests_needed(Counters(0, 0, 1000), -0.01, ALPHA) == 1084  # all ties, margin one point
    assert log_evidence(Counters(0, 0, 1084), -0.01) >= math.log(100) > log_evidence(Counters(0, 0, 1083), -0.01)


def test_one_request_multiplies_evidence_by_at_most_its_bound_in_expectation() -> None:
    """Exact enumeration: E[factor] exp(-lam (mu - m) / (1 + m)) <= 1 for every trinomial, bet and m."""
    grid = np.linspace(0, 1, 11)
    for win, loss in itertools.product(grid, grid):
        if win + loss > 1:
            continue
        mean = win - loss
        for lam, m in itertools.product(BETS, (-0.1, -0.01, 0.0, 0.01, 0.1)):
            factors = (1 + lam * (1 - m) / (1 + m), 1 - lam, 1 - lam * m / (1 + m))
            expected = win * factors[0] + loss * factors[1] + (1 - win - loss) * factors[2]

            assert expected * math.exp(-lam * (mean - m) / (1 + m)) <= 1 + 1e-12


@given(left=counters, right=counters)
def test_counters_merge_by_addition(left: Counters, right: Counters) -> None:
    merged = left + right

    assert (merged.wins, merged.losses, merged.total) == (
        left.wins + right.wins,
        left.losses + right.losses,
        left.total + right.total,
    )
    assert merged.swapped.swapped == merged


@given(counted=counters)
def test_the_moment_form_is_never_above_the_counter_form_at_zero(counted: Counters) -> None:
    assert log_moment_evidence(counted, 0.0) <= log_evidence(counted, 0.0) + 1e-9


@given(counted=counters)
@settings(max_examples=50)
def test_the_lower_bound_is_where_the_moment_form_crosses(counted: Counters) -> None:
    bound = lower_bound(counted, ALPHA)

    assert -1 <= bound <= 1
    if bound > -1:
        assert log_moment_evidence(counted, bound) >= -math.log(ALPHA) - 1e-6
        assert log_moment_evidence(counted, min(1.0, bound + 1e-6)) <= -math.log(ALPHA) + 1e-3
    if counted.total:
        assert bound <= (counted.wins - counted.losses) / counted.total


@given(counted=counters.filter(lambda one: one.total > 0))
@settings(max_examples=100)
def test_the_forecast_is_the_first_total_that_reaches(counted: Counters) -> None:
    needed = requests_needed(counted, 0.0, ALPHA)

    def at(total: float) -> float:
        rates = np.array([counted.wins, counted.losses]) / counted.total * total
        walls = rates[0] * np.log1p(BETS) + rates[1] * np.log1p(-BETS)
        return float(np.log(np.exp(walls - walls.max()).mean()) + walls.max())

    if needed is None:
        assert counted.wins <= counted.losses * 1.05
    else:
        assert at(needed) >= -math.log(ALPHA) - 1e-9
        assert at(needed - 1) < -math.log(ALPHA) + 1e-9


def test_nothing_is_forecast_from_nothing() -> None:
    assert requests_needed(Counters(0, 0, 0), 0.0, ALPHA) is None
    assert lower_bound(Counters(0, 0, 0), ALPHA) == -1.0
    assert np.all(PSI > 0)


@pytest.mark.parametrize("wrong", [(-1, 0, 5), (3, 3, 5), (0, 0, -1)])
def test_impossible_counters_are_refused(wrong: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match=r"negative|more than"):
        Counters(*wrong)


def test_requests_needed_go_on_from_what_was_counted() -> None:
    counted, rates = Counters(10, 2, 400), Counters(6, 1, 100)
    needed = requests_needed(rates, 0.0, ALPHA, since=counted)

    assert needed is not None
    more = (needed - counted.total) / rates.total
    reached = Counters(counted.wins + math.ceil(6 * more), counted.losses + math.floor(more), needed)
    assert log_evidence(reached, 0.0) >= -math.log(ALPHA) - 0.2
    assert requests_needed(Counters(0, 0, 100), 0.0, ALPHA, since=counted) is None
    assert requests_needed(rates, 0.0, ALPHA, since=Counters(0, 0, 0)) == requests_needed(rates, 0.0, ALPHA)
