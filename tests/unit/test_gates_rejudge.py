"""Judging a decided trial again from what is kept of it: the same decision, or what doesn't fit."""

import dataclasses
import json
from typing import Any

import pytest

from distill_loop.gates.rejudge import rejudge
from distill_loop.gates.rule import Rule
from distill_loop.gates.trial import Answer, TrialIdentity, TrialState
from distill_loop.gates.verdict import decide
from protos.errors import FormatError

RULE = Rule(large_slices=("de",), small_slices=("fr",), alpha=0.02)


def ident(number: int) -> bytes:
    return number.to_bytes(16, "big")


def played(num_rows: int = 300) -> TrialState:
    """A trial with everything in it: slices, labels, scores, answers that never came; answered in another order than asked."""
    trial = TrialState(TrialIdentity("t-1", "a" * 64, "b" * 64, 0.5, 1_000, RULE))
    for number in range(num_rows):
        agree = number % 3 > 0
        if number % 5:
            trial.add_label(ident(number), 2_000, number % 2)
        slice_ = ("de", "fr", "it")[number % 7 % 3]
        trial.add_row(
            ident(number),
            ident(number),
            2_000,
            agree=agree,
            slice_=slice_,
            probability=0.3,
            incumbent_class=0,
            candidate_class=int(not agree),
        )
    for number in reversed(range(num_rows)):
        if number % 3 == 0 and number % 10:
            score = 0.1 * (number % 4) - 0.1 if number % 2 else None
            trial.add_answer(ident(number), ident(number), 2_000, Answer(0, 1, number % 4 > 0, "", score))
    return trial


def evidence_of(trial: TrialState) -> dict[str, Any]:
    decision = decide(trial.rule, trial.tally(), trial.wait)
    line = {
        **decision.as_evidence(),
        "rule": dataclasses.asdict(trial.rule),
        "wait": dataclasses.asdict(trial.wait),
        "share": 0.5,
    }
    told: dict[str, Any] = json.loads(json.dumps(line))
    return told


def test_kept_rows_and_the_rule_give_the_same_decision_to_the_last_digit() -> None:
    trial = played()

    again = rejudge(trial.rows(), evidence_of(trial))

    assert again.differences == ()
    assert again.num_rows == 300
    assert again.decision == decide(trial.rule, trial.tally(), trial.wait)
    assert len(again.decision.criteria) == 7
    shuffled = b"".join(sorted(trial.rows().splitlines(keepends=True)))
    assert rejudge(shuffled, evidence_of(trial)).differences == ()


def test_a_restart_in_the_middle_changes_no_digit() -> None:
    trial = TrialState.from_state_dict(played().state_dict())

    assert evidence_of(trial) == evidence_of(played())
    assert trial.rows() == played().rows()


def test_what_the_line_says_otherwise_is_named() -> None:
    trial = played()
    evidence = {**evidence_of(trial), "log_e": 9.0, "verdict": "PASS"}

    differences = rejudge(trial.rows(), evidence).differences

    assert [one.split(":")[0] for one in differences] == ["log_e", "verdict"]
    without = rejudge(b"".join(trial.rows().splitlines(keepends=True)[:-1]), evidence_of(trial)).differences
    assert any(one.startswith("criteria") for one in without)


def test_why_a_trial_was_closed_from_outside_is_not_judged_again() -> None:
    trial = played()
    closed = {"closed": "teacher", "verdict": "INCONCLUSIVE", "final": True, "reason": "the teacher changed"}

    assert rejudge(trial.rows(), {**evidence_of(trial), **closed}).differences == ()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda lines: [*lines, lines[0]], "repeats a record"),
        (lambda lines: [*lines, lines[0].replace("0" * 32, "f" * 32, 1)], "an input counts twice"),
        (lambda lines: [lines[0].replace('"pending"', '"win"'), *lines[1:]], "line 1 of the kept rows says 'win'"),
        (lambda lines: ["{", *lines], "is no row of a trial"),
        (lambda lines: ["[]", *lines], "is no row of a trial"),
    ],
)
def test_rows_that_were_changed_are_refused(change: Any, sentence: str) -> None:
    trial = played(30)
    rows = "\n".join(change(trial.rows().decode().splitlines())).encode()

    with pytest.raises(FormatError, match=sentence):
        rejudge(rows, evidence_of(trial))


@pytest.mark.parametrize("rule", [None, {"mood": 1}])
def test_a_line_without_a_rule_cannot_be_judged_again(rule: object) -> None:
    with pytest.raises(FormatError, match="rule"):
        rejudge(b"", {"rule": rule})
