"""The label join: what becomes of a label, that reading order and restarts change nothing, and what the estimates are worth."""

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distill_loop.labels import OUTCOMES, Labels
from protos import records_pb2 as records
from protos.records import ARM_TRIAL, ARM_UNIFORM, mint_record_id, minted_unix_ns

WINDOW_S = 60.0
IDS = [mint_record_id() for _ in range(8)]
SECOND = 1_000_000_000


def labels(**changed: Any) -> Labels:
    return Labels(**{"num_classes": 3, "window_s": WINDOW_S, "max_records": 100, "rows": 500, **changed})


def pair(record_id: bytes, probability: float = 0.5, arm: str = ARM_UNIFORM) -> records.LogitPair:
    return records.LogitPair(record_id=record_id, arms=[records.ArmTaken(arm=arm, probability=probability)])


def label(record_id: bytes, label_class: int = 1, *, after_s: float = 1.0) -> records.Label:
    time_unix_ns = minted_unix_ns(record_id) + int(after_s * SECOND)
    return records.Label(record_id=record_id, label_class=label_class, known=True, time_unix_ns=time_unix_ns)


def counts(join: Labels) -> dict[str, int]:
    return {outcome: number for outcome, number in join.counts.items() if number}


def accuracy(join: Labels, who: str) -> Any:
    body = join.status()
    assert body is not None
    return body[who]


@pytest.mark.parametrize("label_first", [False, True])
def test_a_label_and_its_row_are_joined_whichever_comes_first(label_first: bool) -> None:
    join = labels()

    if label_first:
        join.observe_label(label(IDS[0], 1))
    join.observe_pair(pair(IDS[0]), teacher_class=1, student_class=2)
    if not label_first:
        join.observe_label(label(IDS[0], 1))

    assert counts(join) == {"joined": 1}
    assert (accuracy(join, "student")["estimate"], accuracy(join, "teacher")["estimate"]) == (0.0, 1.0)


@pytest.mark.parametrize(("after_s", "outcome"), [(WINDOW_S, "joined"), (WINDOW_S + 0.001, "late"), (-5.0, "joined")])
def test_the_window_is_told_by_the_gateways_clocks_whenever_the_loop_reads(after_s: float, outcome: str) -> None:
    join = labels()
    join.observe_pair(pair(IDS[0]), 1, 1)

    join.observe_label(label(IDS[0], after_s=after_s))

    assert counts(join) == {outcome: 1}


def test_the_first_label_of_a_row_counts_and_others_are_repeats() -> None:
    join = labels()
    join.observe_pair(pair(IDS[0]), 1, 1)

    for record_id in (IDS[0], IDS[1]):
        join.observe_label(label(record_id, 1))
        join.observe_label(label(record_id, 2))
    join.observe_pair(pair(IDS[1]), 1, 1)
    join.observe_label(label(IDS[1], 2))

    assert counts(join) == {"joined": 2, "repeated": 3}
    assert accuracy(join, "student")["estimate"] == 1.0


@pytest.mark.parametrize(
    "wrong",
    [
        records.Label(record_id=IDS[0], label_class=1),
        records.Label(record_id=IDS[0], label_class=3, known=True),
        records.Label(record_id=IDS[0], label_class=-1, known=True),
        records.Label(record_id=IDS[0][:8], label_class=1, known=True),
    ],
)
def test_a_label_that_says_nothing_of_this_model_is_unusable(wrong: records.Label) -> None:
    join = labels()
    join.observe_pair(pair(IDS[0]), 1, 1)

    join.observe_label(wrong)

    assert counts(join) == {"unusable": 1}


@pytest.mark.parametrize("label_first", [False, True])
def test_no_estimate_rests_on_a_row_that_only_a_trial_took_or_that_the_teacher_answered(label_first: bool) -> None:
    join = labels()

    for labels_now in (label_first, not label_first):
        for record_id, arm in ((IDS[0], ARM_TRIAL), (IDS[1], ARM_UNIFORM)):
            if labels_now:
                join.observe_label(label(record_id))
            else:
                join.observe_pair(pair(record_id, arm=arm), 1, None)

    assert counts(join) == {"no_estimate": 2}
    assert [(join.status() or {})[what] for what in ("waiting", "student", "teacher")] == [0, None, None]


def test_what_waits_is_bounded_and_the_oldest_goes_first() -> None:
    join = labels(max_records=2)

    for record_id in IDS[:4]:
        join.observe_label(label(record_id))
    for record_id in IDS[4:]:
        join.observe_pair(pair(record_id), 1, 1)
    join.observe_label(label(IDS[4]))  # its row is forgotten, so it waits; the oldest label gives way
    join.observe_label(label(IDS[7]))

    assert counts(join) == {"joined": 1, "unmatched": 3}
    assert (join.status() or {})["waiting"] == 2


def test_without_labels_there_is_nothing_to_say() -> None:
    join = labels()
    join.observe_pair(pair(IDS[0]), 1, 1)

    assert join.status() is None


STEPS = st.lists(st.tuples(st.sampled_from(["pair", "label", "restart"]), st.sampled_from(IDS)), max_size=40)


@settings(max_examples=150, deadline=None)
@given(STEPS)
def test_each_label_has_one_outcome_and_order_and_restarts_change_no_join(steps: list[tuple[str, bytes]]) -> None:
    join, told, seen = labels(), [], set()

    for what, record_id in steps:
        if what == "pair" and record_id not in seen:
            seen.add(record_id)
            join.observe_pair(pair(record_id), 1, 2)
        elif what == "label":
            told.append(record_id)
            join.observe_label(label(record_id))
        else:
            state = join.state_dict()
            join = labels()
            join.load_state_dict(state)
            assert join.state_dict() == state

    waiting = (join.status() or {"waiting": 0})["waiting"]
    assert join.counts["joined"] == len(seen & set(told))
    assert waiting == len(set(told) - seen)
    assert sum(join.counts[outcome] for outcome in OUTCOMES) + waiting == len(told)


def test_rows_are_weighted_by_one_over_their_probability() -> None:
    join = labels()
    join.observe_pair(pair(IDS[0], 1.0), teacher_class=1, student_class=1)
    join.observe_pair(pair(IDS[1], 0.25), teacher_class=1, student_class=2)
    for record_id in IDS[:2]:
        join.observe_label(label(record_id, 1))

    assert accuracy(join, "student")["estimate"] == pytest.approx(1 / 5)
    assert (accuracy(join, "teacher")["estimate"], accuracy(join, "teacher")["num"]) == (1.0, 2)


def test_the_interval_covers_the_truth_and_the_weights_undo_the_sampling() -> None:
    """200 seeded runs of 400 rows; the student is right on 90% of the rows that are sampled often, on 60% of the others: 0.75 of traffic.

    Covered in at least 90% of runs: 95% nominal, less 3 standard errors (0.046) of 200 runs. The mean is within 0.01.
    """
    chance = random.Random(7)
    estimates = []
    for _ in range(200):
        join, traffic = labels(max_records=1000, rows=1000), 0
        while join.counts["joined"] < 400:
            often = traffic % 2 == 0
            traffic += 1
            if chance.random() < (0.8 if often else 0.2):
                record_id = mint_record_id()
                right = chance.random() < (0.9 if often else 0.6)
                join.observe_pair(pair(record_id, 0.8 if often else 0.2), 1, 1 if right else 2)
                join.observe_label(label(record_id, 1))
        estimates.append(accuracy(join, "student"))

    covered = sum(one["low"] <= 0.75 <= one["high"] for one in estimates) / 200
    assert covered >= 0.90
    assert sum(one["estimate"] for one in estimates) / 200 == pytest.approx(0.75, abs=0.01)
