"""The verdict: PASS, FAIL or INCONCLUSIVE from a tally. Too little evidence is INCONCLUSIVE, never PASS.

PASS where everything that must be certified is, at the same look. FAIL where harm is found (a veto, or that it is worse), or where going on is futile: better by
less than `min_gain`, or, in a non-inferiority trial, worse than the margin. While the teacher doesn't answer, what its answers say against a
candidate is no evidence: which of them are missing isn't chance. A trial that gets nowhere ends too: stopping is free. Pure.
"""

import dataclasses
import math
from typing import Any, Literal

from distill_loop.gates.criteria import Criterion, judge, spelled
from distill_loop.gates.evidence import Counters, log_evidence, lower_bound, requests_needed
from distill_loop.gates.rule import Rule
from distill_loop.gates.tally import Tally

Verdict = Literal["PASS", "FAIL", "INCONCLUSIVE"]
#: What a verdict rests on: `evidence` is still open.
Cause = Literal["certified", "veto", "harm", "futility", "rows", "stalled", "pairs", "evidence"]


@dataclasses.dataclass(frozen=True)
class Wait:
    """Pairs that arrived while a trial was open, and how many of them since it last got a row that counts. teacher_away: whether
    what the teacher says is cut short now."""

    pairs: int = 0
    since_row: int = 0
    teacher_away: bool = False


@dataclasses.dataclass(frozen=True)
class Decision:
    """A verdict and why. `final`: the trial is over. log_e, lower_bound and requests_needed speak of all requests together."""

    verdict: Verdict
    final: bool
    cause: Cause
    reason: str
    log_e: float
    lower_bound: float
    requests_needed: int | None
    criteria: tuple[Criterion, ...] = ()

    def as_evidence(self) -> dict[str, Any]:
        """Return it as plain values, for a ledger line."""
        criteria = [criterion.as_evidence() for criterion in self.criteria]
        shown = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {**shown, "criteria": criteria}


def decide(rule: Rule, tally: Tally, wait: Wait = Wait()) -> Decision:
    """Judge a trial.

    Args:
        wait: ends a trial that gets nowhere, and promotes nothing.
    """
    cautious = tally.overall.cautious
    criteria = judge(rule, tally)
    verdict, cause, reason = _outcome(rule, tally, criteria, wait)
    return Decision(
        verdict,
        cause != "evidence",
        cause,
        reason,
        criteria[0].log_e,
        lower_bound(cautious, rule.alpha),
        requests_needed(cautious, -rule.margin, rule.alpha),
        criteria,
    )


def _outcome(rule: Rule, tally: Tally, criteria: tuple[Criterion, ...], wait: Wait) -> tuple[Verdict, Cause, str]:
    against = _against(rule, tally, criteria)
    if against is not None and not wait.teacher_away:
        return "FAIL", *against
    missing = [one for one in criteria if one.kind == "certified" and not one.reached]
    if not missing and not any(one.kind == "veto" and one.reached for one in criteria):
        reached = f"evidence {spelled(criteria[0].log_e)} reached {1 / rule.alpha:.3g}"
        others = sum(one.kind == "certified" for one in criteria) - 1
        return "PASS", "certified", reached + (f", and on {others} large slices" if others else "")
    total = tally.overall.total
    if total >= rule.max_rows:
        return "INCONCLUSIVE", "rows", f"{total} requests didn't decide"
    if wait.since_row >= rule.stalled_pairs:
        return "INCONCLUSIVE", "stalled", f"no new input in the last {wait.since_row} pairs, {total} requests in all"
    if wait.pairs >= rule.max_pairs:
        return "INCONCLUSIVE", "pairs", f"{total} requests in {wait.pairs} pairs didn't decide"
    if not missing:
        return "INCONCLUSIVE", "evidence", "the teacher is away, and what it said speaks against the candidate"
    lagging = "" if missing[0] is criteria[0] else f" on {missing[0].name}"
    return "INCONCLUSIVE", "evidence", f"too little evidence yet{lagging}"


def _against(rule: Rule, tally: Tally, criteria: tuple[Criterion, ...]) -> tuple[Cause, str] | None:
    """Return what speaks against the candidate, where that is enough."""
    for one in criteria:
        if one.kind == "veto" and one.reached:
            return "veto", one.words
    swapped = tally.overall.certain.swapped
    log_needed = math.log(rule.futility_evidence)
    log_against = log_evidence(swapped, rule.margin if rule.margin else -rule.min_gain)
    if criteria[0].reached or log_against < log_needed:
        return None
    if rule.margin:
        return "harm", f"evidence {spelled(log_against)} that it is worse than the margin"
    return _futile(rule, swapped, log_against, log_needed)


def _futile(rule: Rule, swapped: Counters, log_against: float, log_needed: float) -> tuple[Cause, str]:
    log_worse = log_evidence(swapped, 0.0)
    if log_worse >= log_needed:
        return "harm", f"evidence {spelled(log_worse)} that it is worse"
    return "futility", f"evidence {spelled(log_against)} that it is better by less than {rule.min_gain:g}"
