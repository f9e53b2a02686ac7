"""The criteria of a trial: what must be certified, what must not be found, and what a ledger line says of each."""

import dataclasses
import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distill_loop.gates.evidence import Counters
from distill_loop.gates.rule import Rule
from distill_loop.gates.slices import MAX_SLICES, SliceShares
from distill_loop.gates.tally import Counts, Tally
from distill_loop.gates.verdict import Decision, Wait, decide
from distill_loop.gates.wealth import Wealth

NO_WAIT = Wait()
RULE = Rule(large_slices=("de",), small_slices=("fr",))
BETTER = Counts(wins=100, losses=50, total=3_000)
EQUAL = Counts(wins=10, losses=10, total=1_500)


def decided(rule: Rule = RULE, wait: Wait = NO_WAIT, **options: object) -> Decision:
    slices = {"de": Counts(60, 10, 0, 3_000), "fr": Counts(8, 4, 0, 400)}
    return decide(rule, Tally(**{"slices": slices, "beside": BETTER, **options}), wait)  # type: ignore[arg-type]


def test_a_candidate_passes_where_all_is_certified_and_nothing_is_found_against_it() -> None:
    decision = decided(labels=Counters(20, 5, 200), brier=(0.01,) * 50)

    assert (decision.verdict, decision.cause) == ("PASS", "certified")
    assert [(one.name, one.kind, one.reached) for one in decision.criteria] == [
        ("overall", "certified", True),
        ("slice 'de'", "certified", True),
        ("slice 'de'", "veto", False),
        ("slice 'fr'", "veto", False),
        ("other slices", "veto", False),
        ("brier", "veto", False),
        ("labels", "veto", False),
    ]
    assert decision.reason.endswith("and on 1 large slices")


def test_a_large_slice_that_is_not_certified_yet_holds_a_promotion_up() -> None:
    decision = decided(slices={"de": Counts(4, 3, 0, 300)})

    assert (decision.verdict, decision.final) == ("INCONCLUSIVE", False)
    assert decision.reason == "too little evidence yet on slice 'de'"


def test_a_large_slice_without_an_answer_counts_its_silence_as_losses() -> None:
    certain = Counts(0, 0, 0, 1_200)

    assert decided(slices={"de": certain}).verdict == "PASS"
    assert decided(slices={"de": certain + Counts(pending=12, total=12)}).verdict == "INCONCLUSIVE"


@pytest.mark.parametrize("slice_", ["de", "fr", "unknown"])
def test_harm_on_any_slice_is_a_veto_however_good_the_rest_is(slice_: str) -> None:
    rows = {"de": BETTER + BETTER, "fr": EQUAL, "unknown": EQUAL, slice_: Counts(2, 40, 0, 500)}
    beside = rows.pop("unknown")

    decision = decided(slices=rows, beside=beside + (BETTER if slice_ == "de" else Counts()))

    assert (decision.verdict, decision.cause, decision.final) == ("FAIL", "veto", True)
    assert ("other slices" if slice_ == "unknown" else slice_) in decision.reason
    assert "worse by more than 0.01" in decision.reason


def test_without_slices_there_are_no_slice_criteria() -> None:
    assert [one.name for one in decide(Rule(), Tally.of(Counters(100, 50, 3_000))).criteria] == ["overall"]


def test_a_worse_brier_score_is_a_veto() -> None:
    decision = decided(brier=(-0.2,) * 100)

    assert (decision.verdict, decision.cause) == ("FAIL", "veto")
    assert "Brier score to the teacher 0.2 worse on 100 rows" in decision.reason


def test_true_labels_that_say_worse_are_a_veto() -> None:
    decision = decided(labels=Counters(1, 30, 200))

    assert (decision.verdict, decision.cause) == ("FAIL", "veto")
    assert decision.reason.startswith("labels: 1 wins, 30 losses in 200 requests; evidence")


def test_while_the_teacher_is_away_nothing_speaks_against_a_candidate_and_nothing_found_against_it_lets_it_pass() -> (
    None
):
    away = Wait(teacher_away=True)

    assert decided(labels=Counters(1, 30, 200), wait=away).verdict == "INCONCLUSIVE"
    futile = Tally.of(Counters(50, 50, 12_000))
    assert decide(Rule(), futile, away).final is False
    assert decide(Rule(), futile).verdict == "FAIL"


def test_harm_and_futility_are_told_apart() -> None:
    assert decide(Rule(), Tally.of(Counters(2, 20, 300))).cause == "harm"
    assert decide(Rule(), Tally.of(Counters(50, 50, 12_000))).cause == "futility"


def test_evidence_of_a_decision_is_plain_values() -> None:
    evidence = decided(labels=Counters(20, 5, 200), brier=(0.01,) * 50).as_evidence()

    again = json.loads(json.dumps(evidence, allow_nan=False))
    assert again["criteria"][0]["numbers"] == {"wins": 168, "losses": 64, "pending": 0, "total": 6_400}
    assert all(one["words"] and math.isfinite(one["log_e"]) for one in again["criteria"])
    assert again["criteria"][0]["lower_bound"] == again["lower_bound"]


counts = st.tuples(*[st.integers(0, 50)] * 4).map(lambda drawn: Counts(*drawn[:3], sum(drawn)))
tallies = st.builds(
    Tally,
    slices=st.dictionaries(st.sampled_from(["de", "fr"]), counts),
    beside=counts,
    labels=st.tuples(*[st.integers(0, 9)] * 3).map(lambda drawn: Counters(drawn[0], drawn[1], sum(drawn))),
    brier=st.lists(st.floats(-1, 1), max_size=9).map(tuple),
)


@given(left=tallies, right=tallies)
def test_tallies_merge_in_any_order(left: Tally, right: Tally) -> None:
    assert decide(RULE, left + right) == decide(RULE, right + left)
    assert (left + right).overall == left.overall + right.overall


@given(scores=st.lists(st.floats(-1, 1), max_size=30), seed=st.integers(0, 99))
def test_wealth_of_scores_has_no_order_and_merges_by_addition(scores: list[float], seed: int) -> None:
    shuffled = np.random.default_rng(seed).permutation(scores).tolist()
    parts = Wealth.of(scores[:9], m=0.01) + Wealth.of(scores[9:], m=0.01)

    assert Wealth.of(scores, m=0.01) == Wealth.of(shuffled, m=0.01)
    assert parts.log_evidence == pytest.approx(Wealth.of(scores, m=0.01).log_evidence, abs=1e-9)
    assert parts.num == len(scores)
    if scores:
        assert Wealth.of(scores, m=0.0).lower_bound(0.05) <= float(np.mean(scores)) + 1e-9


def test_scores_of_wins_losses_and_ties_are_the_counters() -> None:
    scores = [1.0] * 30 + [-1.0] * 10 + [0.0] * 500
    decision = decide(Rule(margin=0.01), Tally.of(Counters(30, 10, 540)))
    wealth = Wealth.of(scores, m=-0.01)

    assert wealth.log_evidence == pytest.approx(decision.log_e)
    assert wealth.lower_bound(0.01) == pytest.approx(decision.lower_bound)
    assert Wealth.of(scores[:40], m=-0.01, num_zero=500).log_evidence == pytest.approx(wealth.log_evidence)


def test_scores_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="is below -1"):
        Wealth.of([-1.5], m=0.0)
    with pytest.raises(ValueError, match="no number"):
        Wealth.of([math.nan], m=0.0)
    with pytest.raises(ValueError, match="less than"):
        Wealth.weighted([1.0], [0.05], num_not_taken=0, m=0.0, least_probability=0.1)
    with pytest.raises(ValueError, match="say nothing about a mean"):
        Wealth.of([], m=-1.0)
    with pytest.raises(ValueError, match="don't add up"):
        Wealth.of([], m=0.0) + Wealth.of([], m=0.1)


def test_slices_are_large_by_the_requests_that_a_trial_expects_of_them() -> None:
    seen = SliceShares()
    for number in range(1_000):
        seen.observe(("de", "de", "de", "fr")[number % 4], 0.1)
        if number % 10 == 0:
            seen.observe("it", 1.0)  # as many of these rows are a tenth of the traffic that the others stand for

    again = SliceShares()
    again.load_state_dict(seen.state_dict())

    assert again.split(20_000, 5_000) == (("de",), ("fr", "it"))
    assert again.split(60_000, 5_000) == (("de", "fr"), ("it",))
    assert seen.shares()["it"] == pytest.approx(100 / 10_100)


def test_one_slice_is_none_and_very_many_are_the_largest() -> None:
    one, many = SliceShares(), SliceShares()
    for number in range(500):
        one.observe("", 0.5)
        many.observe(f"s{number % 100 if number > 100 else 7}", 0.5)

    assert one.split(20_000, 1) == ((), ())
    assert len(many.shares()) == MAX_SLICES
    assert next(iter(many.shares())) == "s7"


def test_a_rule_is_what_its_ledger_line_says() -> None:
    assert Rule.from_dict(json.loads(json.dumps(dataclasses.asdict(RULE)))) == RULE
    with pytest.raises(TypeError):
        Rule.from_dict({"alpha": 0.01, "mood": 1})
