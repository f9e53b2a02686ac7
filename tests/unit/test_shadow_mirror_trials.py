"""The mirror's side of a trial: who is asked, in which order it is told, and what a row counts for."""

from collections.abc import Mapping

import numpy as np
import pytest

from protos.brier import advantage_of
from protos.records import ARM_TRIAL, ARM_UNIFORM
from protos.tensors import Array, from_record
from serving.shadow.trial import OpenTrial
from tests.support.shadow import (
    FakeStudent,
    Shadow,
    ids_of,
    make_sample,
    make_trial_sample,
    missing_rows,
    number_of,
    open_trial,
    uniform,
)

pytestmark = pytest.mark.usefixtures("no_sync")


# Trials


def test_trial_rows_are_published_before_the_pairs_that_settle_them(shadow: Shadow) -> None:
    shadow.mirror.set_trial(open_trial(differs=frozenset({1, 3})))
    shadow.hand_over([make_trial_sample(number) for number in range(5)])

    shadow.settle()

    assert shadow.stream.messages[0].kind == "trials"
    assert [row.agree for row in shadow.stream.trial_rows()] == [True, False, True, False, True]
    assert [from_record(pair.inputs[0])[0, 0] for pair in shadow.stream.pairs()] == shadow.teacher.asked == [1, 3]
    for pair in shadow.stream.pairs():
        assert (pair.trial.trial_id, pair.trial.candidate_version) == ("trial-1", "candidate")
        assert (pair.trial.incumbent_class, pair.trial.candidate_class) == (0, 1)
    assert shadow.ring.teacher_rows == 2


def test_each_input_counts_once_in_a_trial(shadow: Shadow) -> None:
    before = missing_rows()
    shadow.mirror.set_trial(open_trial(differs=frozenset({1})))
    shadow.hand_over([make_trial_sample(number) for number in (0, 1, 0, 1)])
    shadow.settle()
    shadow.hand_over([make_trial_sample(1)])
    shadow.settle()

    assert len(shadow.stream.trial_rows()) == 2
    assert shadow.teacher.asked == [1]
    assert missing_rows() - before == 3


def test_a_trial_row_without_budget_is_not_evaluated_at_all(shadow: Shadow) -> None:
    shadow.restart(budget_burst=1, budget_ratio=0.0)
    trial = open_trial(differs=frozenset({0, 2}))
    shadow.mirror.set_trial(trial)
    shadow.hand_over([make_trial_sample(number) for number in range(4)])

    shadow.settle()

    assert [row.agree for row in shadow.stream.trial_rows()] == [False]
    assert isinstance(trial.candidate, FakeStudent)
    assert trial.candidate.num_runs == 1


def test_trial_rows_have_the_first_call_on_the_budget(shadow: Shadow) -> None:
    shadow.restart(budget_burst=1, budget_ratio=0.0)
    shadow.mirror.set_trial(open_trial(differs=frozenset({5})))
    shadow.hand_over([*uniform(4), make_trial_sample(5)])

    shadow.settle()

    assert shadow.teacher.asked == [5]


def test_which_rows_of_both_arms_a_short_budget_answers_does_not_depend_on_a_disagreement(shadow: Shadow) -> None:
    shadow.restart(budget_burst=2, budget_ratio=0.0)
    shadow.mirror.set_trial(open_trial(differs=frozenset({1, 2})))
    shadow.hand_over([make_sample(number, arms=(ARM_UNIFORM, ARM_TRIAL), trial_id="trial-1") for number in range(3)])

    shadow.settle()

    assert sorted(shadow.teacher.asked) == [0, 1]
    assert shadow.ring.teacher_rows == 2


def test_rows_of_another_trial_are_not_judged(shadow: Shadow) -> None:
    shadow.mirror.set_trial(open_trial())
    shadow.hand_over([make_sample(0, arms=(ARM_TRIAL,), trial_id="trial-0")])
    shadow.settle()
    shadow.mirror.set_trial(None)
    shadow.hand_over([make_trial_sample(1)])
    shadow.settle()

    assert shadow.stream.messages == []


def test_a_row_of_both_arms_is_asked_once_and_counts_for_both(shadow: Shadow) -> None:
    shadow.mirror.set_trial(open_trial(differs=frozenset({1})))
    shadow.hand_over([make_sample(number, arms=(ARM_UNIFORM, ARM_TRIAL), trial_id="trial-1") for number in range(2)])

    shadow.settle()

    assert sorted(shadow.teacher.asked) == [0, 1]
    answers = [pair.trial for pair in sorted(shadow.stream.pairs(), key=number_of)]
    assert [(answer.incumbent_class, answer.candidate_class) for answer in answers] == [(0, 0), (0, 1)]


def test_a_row_of_the_uniform_arm_alone_is_evidence_too(shadow: Shadow) -> None:
    shadow.mirror.set_trial(open_trial(differs=frozenset({1})))
    shadow.hand_over([make_sample(number, trial_id="trial-1") for number in range(2)])

    shadow.settle()

    assert [row.agree for row in shadow.stream.trial_rows()] == [True, False]
    assert sorted(shadow.teacher.asked) == [0, 1]
    assert shadow.ring.teacher_rows == 2


def trial_at_a_quarter(shadow: Shadow) -> None:
    shadow.restart(budget_burst=250, budget_ratio=0.0, budget_reserve=1000)
    shadow.mirror.set_trial(
        OpenTrial("trial-1", FakeStudent("incumbent"), FakeStudent("candidate"), rate=0.2, share=0.5)
    )


def test_the_trial_arm_keeps_to_the_pace_and_says_with_which_probability(shadow: Shadow) -> None:
    before = missing_rows()
    trial_at_a_quarter(shadow)
    shadow.hand_over([make_trial_sample(number) for number in range(400)])
    shadow.settle()

    rows = shadow.stream.trial_rows()
    assert 60 < len(rows) < 140  # a quarter; all agree, so nothing is spent
    assert missing_rows() - before == 400 - len(rows)
    assert {round(row.probability, 6) for row in rows} == {round(1 - 0.8 * (1 - 0.5 * 0.25), 6)}


def test_the_pace_never_touches_the_uniform_arm(shadow: Shadow) -> None:
    trial_at_a_quarter(shadow)
    shadow.hand_over([make_sample(number, trial_id="trial-1") for number in range(20)])
    shadow.hand_over(
        [make_sample(number, arms=(ARM_UNIFORM, ARM_TRIAL), trial_id="trial-1") for number in range(20, 60)]
    )
    shadow.settle()

    assert len(shadow.stream.trial_rows()) == len(shadow.teacher.asked) == 60
    pairs = sorted(shadow.stream.pairs(), key=number_of)
    arms = [{arm.arm: arm.probability for arm in pair.arms} for pair in pairs]
    assert all(one[ARM_UNIFORM] == 0.5 for one in arms)
    taken = [one[ARM_TRIAL] for one in arms if ARM_TRIAL in one]
    assert 2 <= len(taken) <= 25  # of 40: the pace falls from a quarter as the budget is spent
    assert all(0.5 * 0.19 <= probability <= 0.5 * 0.25 for probability in taken)


def test_another_mirror_tosses_the_same_coins(shadow: Shadow) -> None:
    samples = [make_trial_sample(number) for number in range(100)]
    evaluated = []
    for _ in range(2):
        shadow.stream.messages.clear()
        trial_at_a_quarter(shadow)
        shadow.hand_over(samples)
        shadow.settle()
        evaluated.append([row.record_id for row in shadow.stream.trial_rows()])

    assert evaluated[0] == evaluated[1]
    assert 5 < len(evaluated[0]) < 60


def test_a_disagreement_waits_for_the_teacher_and_its_row_does_not(shadow: Shadow) -> None:
    shadow.teacher.away = True
    shadow.mirror.set_trial(open_trial(differs=frozenset({1})))
    shadow.hand_over([make_trial_sample(1)])
    shadow.settle()
    assert len(shadow.stream.trial_rows()) == 1

    shadow.teacher.away = False
    shadow.mirror.set_trial(None)
    shadow.settle()

    assert [pair.trial.trial_id for pair in shadow.stream.pairs()] == ["trial-1"]


def test_the_answer_that_the_caller_got_is_the_incumbents_unless_inputs_were_redacted(shadow: Shadow) -> None:
    for whole, runs in ((True, 0), (False, 1)):
        incumbent = FakeStudent("incumbent")
        shadow.mirror.set_trial(
            OpenTrial("trial-1", incumbent, FakeStudent("candidate"), 0.5, 0.5, inputs_are_whole=whole)
        )
        shadow.hand_over([make_trial_sample(int(whole))])

        shadow.settle()

        assert incumbent.num_runs == runs


def test_brier_scores_are_compared_where_the_teacher_is_asked_whatever_the_students_say(shadow: Shadow) -> None:
    shadow.mirror.set_trial(open_trial(differs=frozenset({1, 2})))
    shadow.hand_over([make_sample(0, trial_id="trial-1"), make_sample(1, trial_id="trial-1"), make_trial_sample(2)])

    shadow.settle()

    answers = {number_of(pair): pair.trial for pair in shadow.stream.pairs()}
    assert {number: bool(answer.brier_slope) for number, answer in answers.items()} == {0: True, 1: True, 2: False}
    teacher_C = np.array([0.0, 1.0, 0.0], np.float32)
    assert advantage_of(answers[0].brier_base, answers[0].brier_slope, teacher_C) == 0.0
    sure, others = np.e / (np.e + 2), 1 / (np.e + 2)  # of logits 1, 0, 0: the candidate says class 1, and that is right
    score = advantage_of(answers[1].brier_base, answers[1].brier_slope, teacher_C)
    assert score == pytest.approx(sure - others, abs=1e-3)


class Failing(FakeStudent):
    """A student whose graph can't be run."""

    def run(self, inputs: Mapping[str, Array]) -> Array:
        """Fail."""
        raise RuntimeError("this graph has no such input")


class NotANumber(FakeStudent):
    """A student that answers, and says nothing."""

    def run(self, inputs: Mapping[str, Array]) -> Array:
        """Return logits of which one is no number."""
        return np.array([[0.0, np.nan, 1.0]], np.float32)


@pytest.mark.parametrize("failing", [Failing, NotANumber])
def test_a_student_that_has_no_answer_to_a_row_does_not_stop_the_mirror(
    failing: type[FakeStudent], shadow: Shadow
) -> None:
    shadow.mirror.set_trial(OpenTrial("trial-1", FakeStudent("incumbent"), failing("candidate"), 0.5, 0.5))
    handed = shadow.hand_over([make_sample(0, arms=(ARM_UNIFORM, ARM_TRIAL), trial_id="trial-1"), *uniform(1, 1)])

    shadow.settle()

    assert sorted(ids_of(shadow)) == sorted(handed)
    (row,) = (
        shadow.stream.trial_rows()
    )  # it stays in the trial: left out, a candidate would be judged on what it can answer only
    assert (row.agree, row.incumbent_class, row.candidate_class) == (False, 0, -1)
    assert shadow.ring.teacher_rows == 2
