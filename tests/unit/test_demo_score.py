"""The demo's score: shares with intervals, the stretches that the report names, rolling means."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from everstill.demo.score import TEACHER_VERSION, Scores, Sent, agreement, latencies, phases, rolling, wilson


def sent(num: int, agreeing: set[int], *, version: str = "v1", failed: set[int] | None = None) -> list[Sent]:
    """Return requests whose top class is 1 where they agree with a teacher that always says 1, else 0."""
    return [
        Sent(
            index, index / 10, version, int(index in agreeing), 0.002, "UNAVAILABLE" if index in (failed or ()) else ""
        )
        for index in range(num)
    ]


def scores(num: int, *, frozen_from: int = 0, frozen_agrees: bool = False) -> Scores:
    frozen = [-1 if index < frozen_from else int(frozen_agrees) for index in range(num)]
    return Scores([1] * num, frozen, [0.01] * num)


def test_the_interval_is_wilson_s() -> None:
    share = wilson(81, 263)  # Newcombe 1998, table I

    assert share["low"] == pytest.approx(0.2553, abs=5e-5)
    assert share["high"] == pytest.approx(0.3662, abs=5e-5)


def test_nothing_to_count_has_no_estimate() -> None:
    assert wilson(0, 0) == {"estimate": None, "low": None, "high": None, "num": 0}


@given(st.integers(1, 2000).flatmap(lambda num: st.tuples(st.integers(0, num), st.just(num))))
def test_the_interval_holds_the_share_and_stays_within_zero_and_one(counts: tuple[int, int]) -> None:
    agreeing, num = counts

    share = wilson(agreeing, num)

    assert share["low"] is not None
    assert share["high"] is not None
    assert 0 <= share["low"] <= agreeing / num + 1e-12
    assert agreeing / num - 1e-12 <= share["high"] <= 1


def test_each_stretch_counts_the_requests_that_its_name_says() -> None:
    parts = agreement(sent(1000, set()), scores(1000, frozen_from=500), drift=500, first_student=100)

    assert {name: part["num"] for name, part in parts.items()} == {
        "start": 90,
        "before_drift": 250,
        "after_drift": 200,
        "after": 500,
        "frozen_after": 500,
        "end": 250,
        "frozen_end": 250,
    }


@pytest.mark.parametrize(
    ("name", "indices"),
    [
        ("start", range(100, 190)),
        ("before_drift", range(250, 500)),
        ("after_drift", range(500, 700)),
        ("after", range(500, 1000)),
        ("end", range(750, 1000)),
    ],
)
def test_a_stretch_agrees_wholly_when_just_its_requests_agree(name: str, indices: range) -> None:
    parts = agreement(sent(1000, set(indices)), scores(1000, frozen_from=500), drift=500, first_student=100)

    assert parts[name]["estimate"] == 1.0


def test_the_frozen_student_is_scored_on_the_last_quarter_by_its_own_answers() -> None:
    answers = sent(400, set())

    parts = agreement(answers, scores(400, frozen_from=200, frozen_agrees=True), drift=200, first_student=10)

    assert (parts["end"]["estimate"], parts["frozen_end"]["estimate"]) == (0.0, 1.0)


def test_each_stretch_between_two_drifts_is_shown_with_both_students() -> None:
    shown = phases(sent(900, set(range(450, 600))), scores(900, frozen_from=300, frozen_agrees=True), [300, 600])

    assert [(one["from"], one["to"]) for one in shown] == [(0, 300), (300, 600), (600, 900)]
    assert [one["served"]["estimate"] for one in shown] == [0.0, 0.5, 0.0]
    assert [one["served_second_half"]["estimate"] for one in shown] == [0.0, 1.0, 0.0]
    assert [one["frozen"]["num"] for one in shown] == [0, 300, 300]


def test_failed_requests_count_neither_for_nor_against() -> None:
    parts = agreement(sent(400, set(range(400)), failed={390, 391}), scores(400), drift=200, first_student=0)

    assert (parts["end"]["num"], parts["end"]["estimate"]) == (98, 1.0)


def test_the_teacher_s_own_answers_are_not_the_student_s_agreement() -> None:
    parts = agreement(sent(400, set(range(400)), version=TEACHER_VERSION), scores(400), drift=200, first_student=400)

    assert all(parts[name]["estimate"] is None for name in ("start", "before_drift", "after_drift", "end"))


def test_latency_is_the_student_s_as_callers_saw_it_and_the_teacher_s_apart() -> None:
    slow_teacher = [Sent(0, 0.0, TEACHER_VERSION, 1, 9.0)]

    percentiles = latencies([*slow_teacher, *sent(100, set())], scores(101))

    assert percentiles["student_p99"] == pytest.approx(2.0)
    assert percentiles["teacher_p50"] == pytest.approx(10.0)


def test_no_student_has_no_latency() -> None:
    assert latencies([], Scores([], [], []))["student_p50"] is None


@given(st.lists(st.one_of(st.sampled_from([0.0, 1.0]), st.just(math.nan)), min_size=1, max_size=60), st.integers(1, 20))
def test_a_rolling_mean_is_the_mean_of_the_newest_known_values(values: list[float], window: int) -> None:
    means = rolling(values, window)

    for place, mean in enumerate(means):
        known = [value for value in values[max(0, place - window + 1) : place + 1] if not math.isnan(value)]
        assert (np.isnan(mean) and not known) or mean == pytest.approx(sum(known) / len(known))


def test_a_rolling_mean_of_too_few_values_is_left_out() -> None:
    assert np.isnan(rolling([1.0, 1.0, math.nan, 1.0], 4, fewest=3)).tolist() == [True, True, True, False]
