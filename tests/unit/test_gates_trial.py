"""One trial, row by row: what counts, what counts once, and what doesn't count."""

import json
import math
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distill_loop.gates.agreement import ProgressiveAgreement, weighted_share, wilson
from distill_loop.gates.evidence import Counters, log_evidence
from distill_loop.gates.rows import row_of, tally_of
from distill_loop.gates.trial import TAKING_UP_NS, Answer, TrialIdentity, TrialState
from distill_loop.gates.verdict import Wait

OPENED_NS = 1_000
AFTER_NS = 2_000


def new_trial() -> TrialState:
    return TrialState(TrialIdentity("t-1", "a" * 64, "b" * 64, 0.5, OPENED_NS))


def ident(number: int) -> bytes:
    return number.to_bytes(16, "big")


def answer(
    trial: TrialState, number: int, *, candidate: int, incumbent: int, teacher: int, key: int | None = None
) -> bool:
    said = Answer(incumbent, candidate, teacher)
    return trial.add_answer(ident(number), ident(number if key is None else key), AFTER_NS, said)


def test_wins_losses_and_ties_are_told_apart() -> None:
    trial = new_trial()

    answer(trial, 1, candidate=7, incumbent=3, teacher=7)
    answer(trial, 2, candidate=7, incumbent=3, teacher=3)
    answer(trial, 3, candidate=7, incumbent=3, teacher=5)
    assert trial.cautious() == Counters(0, 0, 0)  # no row of theirs has come yet
    for number in range(1, 5):
        trial.add_row(ident(number), ident(number), AFTER_NS, agree=number == 4)

    assert trial.certain() == trial.cautious() == Counters(1, 1, 4)
    assert trial.num_answered == 3


def test_answers_that_come_before_their_rows_wait_so_that_silent_rows_beside_them_count_too() -> None:
    """A loop that is behind may read many pairs before the batch of their rows, and the teacher may be silent where it would say no."""
    trial = new_trial()
    for number in range(40):
        assert answer(trial, number, candidate=7, incumbent=3, teacher=7)
    assert trial.cautious() == Counters(0, 0, 0)
    trial = TrialState.from_state_dict(trial.state_dict())

    for number in range(80):
        trial.add_row(ident(number), ident(number), AFTER_NS, agree=False)

    assert trial.cautious() == Counters(40, 40, 80)
    assert trial.certain() == Counters(40, 0, 40)


def test_an_answer_to_a_row_on_which_both_agree_changes_no_counter_and_counts_once() -> None:
    for early in (True, False):
        trial = new_trial()
        if early:
            assert answer(trial, 1, candidate=3, incumbent=3, teacher=7)
        trial.add_row(ident(1), ident(1), AFTER_NS, agree=True, probability=0.25)
        if not early:
            assert answer(trial, 1, candidate=3, incumbent=3, teacher=7)

        assert trial.cautious() == trial.certain() == Counters(0, 0, 1)
        trial = TrialState.from_state_dict(trial.state_dict())
        assert not answer(trial, 1, candidate=3, incumbent=3, teacher=7)  # a repeat that the window forgot
        assert trial.num_answered == 1
        (line,) = trial.rows().decode().splitlines()
        assert json.loads(line)["probability"] == 0.25


def test_what_is_not_the_trials_or_not_new_is_said() -> None:
    trial = new_trial()
    trial.add_row(ident(1), ident(1), AFTER_NS, agree=False)

    assert answer(trial, 1, candidate=7, incumbent=3, teacher=7)
    assert not answer(trial, 1, candidate=7, incumbent=3, teacher=7)
    assert not answer(trial, 2, key=1, candidate=7, incumbent=3, teacher=7)  # a repeat of the input
    assert not trial.add_answer(ident(3), ident(3), OPENED_NS, Answer(1, 2, 2))


def test_a_row_that_waits_for_the_teacher_counts_as_a_loss_for_promotion_only() -> None:
    trial = new_trial()
    trial.add_row(ident(1), ident(1), AFTER_NS, agree=False)

    assert trial.cautious() == Counters(0, 1, 1)
    assert trial.certain() == Counters(0, 0, 0)

    answer(trial, 1, candidate=7, incumbent=3, teacher=7)

    assert trial.cautious() == Counters(1, 0, 1)


def test_a_burst_of_one_input_is_one_piece_of_evidence() -> None:
    trial = new_trial()
    for number in range(20):
        answer(trial, number, key=99, candidate=7, incumbent=3, teacher=7)
        trial.add_row(ident(number), ident(99), AFTER_NS, agree=False)
        trial.add_row(ident(100 + number), ident(98), AFTER_NS, agree=True)

    assert trial.cautious() == Counters(1, 0, 2)


def test_no_record_from_before_the_freeze_counts() -> None:
    trial = new_trial()

    trial.add_row(ident(1), ident(1), OPENED_NS, agree=True)
    trial.add_answer(ident(2), ident(2), OPENED_NS - 1, Answer(1, 2, 2))

    assert trial.cautious() == Counters(0, 0, 0)


def test_pairs_without_a_row_that_counts_are_a_wait_that_a_new_input_ends() -> None:
    trial = new_trial()
    for _ in range(5):
        trial.note_pair(OPENED_NS + TAKING_UP_NS)  # the mirror may not have the candidate yet
        trial.note_pair(OPENED_NS + TAKING_UP_NS + 1)
    trial.note_read()
    assert trial.wait == Wait(5, 5)

    trial.add_row(ident(1), ident(1), AFTER_NS, agree=True)
    trial.note_pair(OPENED_NS + TAKING_UP_NS + 1)  # in one read: it may be older than the row
    trial.note_read()
    assert trial.wait == Wait(6, 0)

    trial.add_row(ident(2), ident(1), AFTER_NS, agree=True)  # a repeat
    trial.note_pair(OPENED_NS + TAKING_UP_NS + 1)
    trial.note_read()
    assert trial.wait == TrialState.from_state_dict(trial.state_dict()).wait == Wait(7, 1)


@given(seed=st.integers(0, 2**32), repeats=st.integers(1, 3))
def test_order_and_repetition_of_the_stream_change_nothing(seed: int, repeats: int) -> None:
    events = [("row", number, number % 3 == 0) for number in range(30)] + [
        ("answer", number, number % 2) for number in range(30) if number % 3
    ]
    shuffled = events * repeats
    random.Random(seed).shuffle(shuffled)

    def play(trial: TrialState, sequence: list[tuple[str, int, int]]) -> TrialState:
        for kind, number, value in sequence:
            if kind == "row":
                trial.add_row(ident(number), ident(number), AFTER_NS, agree=bool(value))
            else:
                answer(trial, number, candidate=7, incumbent=3, teacher=7 if value else 3)
        return trial

    straight, mixed = play(new_trial(), events), play(new_trial(), shuffled)

    assert mixed.cautious() == straight.cautious()
    assert mixed.certain() == straight.certain()


def test_a_restart_goes_on_and_kept_rows_give_the_same_counters() -> None:
    trial = new_trial()
    for number in range(12):
        answer(trial, number, candidate=7, incumbent=3, teacher=(7, 3, 5)[number % 3])
        trial.add_row(ident(number), ident(number), AFTER_NS, agree=False)
    trial.add_row(ident(50), ident(50), AFTER_NS, agree=False)

    again = TrialState.from_state_dict(trial.state_dict())

    assert again.cautious() == trial.cautious()
    assert again.rows() == trial.rows()
    kept = [row_of(line)[1] for line in trial.rows().decode().splitlines()]
    assert tally_of(kept, trial.rule) == trial.tally() == again.tally()
    answer(again, 0, candidate=7, incumbent=3, teacher=3)
    assert again.cautious() == trial.cautious()


def test_agreement_is_unbiased_whatever_the_sampling_probability() -> None:
    """Requests of two kinds, sampled at different rates: the weighted share finds the truth, the plain one doesn't."""
    rng = np.random.default_rng(3)
    truth = rng.random(60_000) < np.where(np.arange(60_000) % 2, 0.9, 0.5)
    probability = np.where(np.arange(60_000) % 2, 0.4, 0.05)
    taken = rng.random(60_000) < probability

    estimate = weighted_share(
        [(bool(agrees), 1 / p) for agrees, p in zip(truth[taken], probability[taken], strict=True)]
    )

    assert estimate is not None
    assert estimate.estimate == pytest.approx(0.7, abs=0.03)
    assert estimate.low < 0.7 < estimate.high
    assert truth[taken].mean() > 0.8


def test_the_interval_covers_as_often_as_it_says() -> None:
    rng = np.random.default_rng(5)
    covered = 0
    for _ in range(1000):
        num = 80
        low, high = wilson(rng.binomial(num, 0.85) / num, num)
        covered += low <= 0.85 <= high

    assert covered >= 930  # 95 % less three standard errors


def test_progressive_agreement_keeps_the_newest_rows() -> None:
    agreement = ProgressiveAgreement(window=10)
    assert agreement.estimate() is None
    for place in range(30):
        agreement.observe(place >= 20, 0.2)

    estimate = agreement.estimate()

    assert estimate is not None
    assert (estimate.estimate, estimate.num) == (1.0, 10)


@pytest.mark.parametrize(
    ("repeats", "missing", "num_streams"),
    [
        (20, 0.0, 120),
        (1, 0.3, 150),
        pytest.param(5, 0.0, 2_000, marks=pytest.mark.slow),
        pytest.param(5, 0.3, 2_000, marks=pytest.mark.slow),
    ],
)
def test_bursts_and_missing_answers_leave_false_promotions_under_alpha(
    repeats: int, missing: float, num_streams: int
) -> None:
    """Streams without a better candidate, a look after every input. Whether an answer is missing depends on what it says:
    the teacher falls silent only where the candidate would lose, which is the worst that can happen."""
    num_inputs, alpha = 150, 0.05
    rng, promoted = np.random.default_rng(11), 0
    for _ in range(num_streams):
        trial, record = new_trial(), 0
        for key, draw in enumerate(rng.random(num_inputs)):
            teacher = 7 if draw < 0.25 else 3 if draw < 0.5 else 5
            answered = teacher != 3 or rng.random() >= missing
            for _ in range(repeats):
                record += 1
                trial.add_row(ident(record), ident(key), AFTER_NS, agree=False)
                if answered:
                    answer(trial, record, key=key, candidate=7, incumbent=3, teacher=teacher)
            if log_evidence(trial.cautious(), 0.0) >= -math.log(alpha):
                promoted += 1
                break

    assert promoted / num_streams <= alpha + 3 * math.sqrt(alpha * (1 - alpha) / num_streams)
