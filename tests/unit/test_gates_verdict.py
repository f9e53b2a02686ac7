"""Verdicts from counters, and what `everstill gate` prints."""

import json
import math

import pytest

from distill_loop.gates import app
from distill_loop.gates.evidence import Counters
from distill_loop.gates.rule import Rule
from distill_loop.gates.tally import Tally
from distill_loop.gates.verdict import Wait, decide


def judge(wins: int, losses: int, total: int, **options: float) -> str:
    counted = Counters(wins, losses, total)
    return decide(Rule(**options), Tally.of(counted)).verdict  # type: ignore[arg-type]


def test_enough_evidence_passes() -> None:
    assert judge(100, 50, 3000) == "PASS"


def test_thin_evidence_is_inconclusive_and_not_final() -> None:
    counted = Counters(60, 30, 3000)

    decision = decide(Rule(), Tally.of(counted))

    assert (decision.verdict, decision.final) == ("INCONCLUSIVE", False)


def test_nothing_at_all_is_inconclusive() -> None:
    assert judge(0, 0, 0) == "INCONCLUSIVE"


def test_a_candidate_that_is_no_better_fails_as_futile() -> None:
    assert judge(50, 50, 12_000) == "FAIL"


def test_a_harmful_candidate_fails() -> None:
    assert judge(2, 20, 300) == "FAIL"


def test_an_equal_candidate_passes_a_non_inferiority_trial_that_futility_would_have_failed() -> None:
    assert judge(30, 30, 6000, margin=0.01) == "PASS"


def test_a_non_inferiority_trial_fails_only_past_its_margin() -> None:
    assert judge(10, 60, 2000, margin=0.01) == "FAIL"
    assert judge(10, 14, 900, margin=0.01) == "INCONCLUSIVE"


def test_the_cap_ends_a_trial_without_a_promotion() -> None:
    counted = Counters(9, 5, 300)

    decision = decide(Rule(max_rows=300), Tally.of(counted))

    assert (decision.verdict, decision.final) == ("INCONCLUSIVE", True)


@pytest.mark.parametrize(
    ("wait", "final"),
    [(Wait(99, 9), False), (Wait(99, 10), True), (Wait(100, 0), True)],
)
def test_a_trial_that_gets_nowhere_ends_without_a_promotion(wait: Wait, final: bool) -> None:
    rule = Rule(stalled_pairs=10, max_pairs=100)

    for counted in (Counters(0, 0, 0), Counters(6, 0, 400)):
        decision = decide(rule, Tally.of(counted), wait)
        assert (decision.verdict, decision.final) == ("INCONCLUSIVE", final)
    promoted = Counters(100, 50, 3000)
    assert decide(rule, Tally.of(promoted), wait).verdict == "PASS"


def test_missing_answers_count_against_promotion_and_not_for_futility() -> None:
    certain = Counters(30, 0, 400)

    assert decide(Rule(), Tally.of(certain, pending=40)).verdict == "INCONCLUSIVE"
    assert decide(Rule(), Tally.of(certain)).verdict == "PASS"


def test_the_command_prints_what_a_script_needs(capsys: pytest.CaptureFixture[str]) -> None:
    assert app.main(["--wins", "100", "--losses", "50", "--total", "3000", "--json"]) == 0

    body = json.loads(capsys.readouterr().out)

    assert body["verdict"] == "PASS"
    assert body["log_e"] == pytest.approx(math.log(911.5), abs=1e-3)
    assert body["alpha"] == 0.01
    assert body["requests_needed"] == 2150
    assert 0 < body["lower_bound"] < 50 / 3000


def test_the_command_says_null_where_it_is_never(capsys: pytest.CaptureFixture[str]) -> None:
    app.main(["--wins", "1", "--losses", "9", "--total", "100", "--json"])

    assert json.loads(capsys.readouterr().out)["requests_needed"] is None


@pytest.mark.parametrize(
    "wrong",
    [
        ["--wins", "5", "--losses", "5", "--total", "9"],
        ["--wins", "-1", "--losses", "5", "--total", "9"],
        ["--wins", "1", "--losses", "1", "--total", "9", "--alpha", "1"],
        ["--wins", "1", "--losses", "1", "--total", "9", "--margin", "-0.1"],
        ["--wins", "1", "--losses", "1", "--total", "9", "--margin", "nan"],
    ],
)
def test_impossible_arguments_end_with_one_line(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert app.main(wrong) == 2

    assert len(capsys.readouterr().err.splitlines()) == 1
