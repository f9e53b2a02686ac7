"""The verdict: PASS, FAIL or INCONCLUSIVE from counters. Too little evidence is INCONCLUSIVE, never PASS.

PASS where the evidence against "no better" (or, with a margin, "worse by the margin") reaches 1/alpha. FAIL where the evidence
says that going on is futile: better by less than `min_gain`, or, in a non-inferiority trial, worse than the margin. A trial that
gets nowhere ends too: stopping is free. Pure.
"""

import dataclasses
import math
from typing import Literal

from distill_loop.gates.evidence import Counters, log_evidence, lower_bound, requests_needed

Verdict = Literal["PASS", "FAIL", "INCONCLUSIVE"]


@dataclasses.dataclass(frozen=True)
class Rule:
    """How a trial is decided.

    Args:
        alpha: error rate of this refresh, for ever.
        margin: 0 for superiority; delta > 0 certifies "not worse by delta".
        min_gain, futility_evidence: a superiority trial is futile once E("better by less than min_gain") reaches this.
        max_rows: cap of the trial.
        max_pairs, stalled_pairs: it ends too after so many pairs, or after so many without a row that counts.
    """

    alpha: float = 0.01
    margin: float = 0.0
    min_gain: float = 0.005
    futility_evidence: float = 10.0
    max_rows: int = 20_000
    max_pairs: int = 20_000
    stalled_pairs: int = 512


@dataclasses.dataclass(frozen=True)
class Wait:
    """Pairs that arrived while a trial was open, and how many of them since it last got a row that counts."""

    pairs: int = 0
    since_row: int = 0


@dataclasses.dataclass(frozen=True)
class Decision:
    """A verdict and why. `final`: the trial is over."""

    verdict: Verdict
    final: bool
    reason: str
    log_e: float
    lower_bound: float
    requests_needed: int | None


def decide(rule: Rule, certain: Counters, cautious: Counters, wait: Wait = Wait()) -> Decision:
    """Judge a trial.

    Args:
        certain: the rows whose outcome is known: what futility and harm are judged on.
        cautious: every row, those without a teacher answer (missing or pending) counted as losses: what promotion is judged on.
        wait: ends a trial that gets nowhere, and promotes nothing.
    """
    log_e = log_evidence(cautious, -rule.margin)
    verdict, final, reason = _outcome(rule, certain, cautious, wait, log_e)
    return Decision(
        verdict,
        final,
        reason,
        log_e,
        lower_bound(cautious, rule.alpha),
        requests_needed(cautious, -rule.margin, rule.alpha),
    )


def _outcome(rule: Rule, certain: Counters, cautious: Counters, wait: Wait, log_e: float) -> tuple[Verdict, bool, str]:
    if log_e >= -math.log(rule.alpha):
        return "PASS", True, f"evidence {math.exp(min(log_e, 700)):.3g} reached {1 / rule.alpha:.3g}"
    against = rule.margin if rule.margin else -rule.min_gain
    log_futility = log_evidence(certain.swapped, against)
    if log_futility >= math.log(rule.futility_evidence):
        what = "worse than the margin" if rule.margin else f"better by less than {rule.min_gain:g}"
        return "FAIL", True, f"evidence {math.exp(min(log_futility, 700)):.3g} that it is {what}"
    if cautious.total >= rule.max_rows:
        return "INCONCLUSIVE", True, f"{cautious.total} requests didn't decide"
    if wait.since_row >= rule.stalled_pairs:
        return (
            "INCONCLUSIVE",
            True,
            f"no new input in the last {wait.since_row} pairs, {cautious.total} requests in all",
        )
    if wait.pairs >= rule.max_pairs:
        return "INCONCLUSIVE", True, f"{cautious.total} requests in {wait.pairs} pairs didn't decide"
    return "INCONCLUSIVE", False, "too little evidence yet"
