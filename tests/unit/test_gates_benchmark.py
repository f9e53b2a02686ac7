"""The comparison of gates: that its rule is the product's, that rules are told apart, and that the page shows the result."""

import numpy as np
import pytest

from benchmarks.gate_rules import RULES, gate, mcnemar_once
from benchmarks.gates import checks_of, draw_trials, regulated, simulate
from distill_loop.gates.evidence import Counters
from distill_loop.gates.rule import Rule
from distill_loop.gates.tally import Tally
from distill_loop.gates.verdict import Decision, decide
from scripts import document_gates


@pytest.mark.parametrize("rule", [Rule(), Rule(margin=0.01, max_rows=3_000), Rule(alpha=0.2, max_rows=700)])
def test_the_rule_that_is_compared_is_the_products(rule: Rule) -> None:
    drawn = draw_trials(np.random.default_rng(3), np.array([0.02, -0.02, 0.0]))[:, :4_000]

    ends = gate(rule)(drawn)

    def decided(trial: np.ndarray, end: int) -> Decision:
        return decide(rule, Tally.of(Counters(int((trial[:end] > 0).sum()), int((trial[:end] < 0).sum()), end)))

    for trial, request, promoted in zip(drawn, ends.requests.tolist(), ends.promoted, strict=True):
        assert not decided(trial, request - 1).final
        last = decided(trial, request)
        assert (last.verdict == "PASS") == promoted
        assert last.final or request == len(trial)


def test_every_rule_ends_and_promotes_what_is_much_better() -> None:
    better = np.where(np.arange(5_000) % 5 == 0, 1, 0)[None]

    for name, decides in RULES.items():
        ends = decides(better)
        assert ends.promoted[0], name
        assert 1 <= ends.requests[0] <= 3_090
    assert mcnemar_once(-better).promoted.tolist() == [False]


def test_a_short_comparison_has_the_shape_of_a_whole_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.gates.LENGTH", 4_000)
    figures = {"simulated": {**simulate(1, 250), "everstill_regulated": regulated(1, 100)}}

    checks = checks_of(figures)

    assert {check.name for check in checks} >= {"false_per_1000", "power", "regulated_false_share"}
    assert figures["simulated"]["better_on_last_1000"]["false_per_1000"] > 300


def test_the_page_shows_the_result() -> None:
    assert document_gates.main(["--check"]) == 0
