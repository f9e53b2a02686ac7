"""The criteria of a trial, each with its evidence in numbers and in words: what must be certified, and what must not be found.

Certified: overall (better, or not worse by the margin) and every large slice (not worse by the slices' margin); each must reach 1/alpha, so a
candidate that fails one of them passes with probability alpha at most (an intersection of tests needs no correction). Vetoes can only stop: any slice
worse by more than its margin, the Brier score to the teacher worse by more than its tolerance, more often wrong by true labels. Pure.
"""

import dataclasses
import functools
import math
from typing import Any, Literal

from distill_loop.gates.evidence import Counters, log_evidence, lower_bound_of_moments
from distill_loop.gates.rule import Rule
from distill_loop.gates.tally import Counts, Tally
from distill_loop.gates.wealth import Wealth

#: Of a slice that isn't one of those known when the candidate was frozen, all of them together.
OTHERS = "other slices"
#: Beyond this an exponent is no number any more.
MAX_EXPONENT = 700.0


@dataclasses.dataclass(frozen=True)
class Criterion:
    """One criterion's evidence.

    margin: certified, what is claimed is an advantage of more than -margin; a veto stands where a disadvantage of more than margin is found.
    reached: certified, or the veto stands. moments: sum, sum of squares and number of the scores that speak for the advantage, or for a veto's disadvantage.
    numbers: wins, losses, pending and total, or what the scores say.
    """

    name: str
    kind: Literal["certified", "veto"]
    margin: float
    log_e: float
    log_needed: float
    reached: bool
    moments: tuple[float, float, int]
    numbers: dict[str, float]
    words: str

    @functools.cached_property
    def lower_bound(self) -> float:
        """The lower bound, at the criterion's own level; it describes, and costs more than all else here."""
        return lower_bound_of_moments(*self.moments, math.exp(-self.log_needed))

    def as_evidence(self) -> dict[str, Any]:
        """Return it as plain values, for a ledger line."""
        shown = {field.name: getattr(self, field.name) for field in dataclasses.fields(self) if field.name != "moments"}
        return {**shown, "lower_bound": self.lower_bound}


def judge(rule: Rule, tally: Tally) -> tuple[Criterion, ...]:
    """Return every criterion of a trial, what must be certified first."""
    needed = -math.log(rule.alpha)
    certified = [_certified("overall", tally.overall, rule.margin, needed)]
    certified += [_certified(_named(name), tally.slice(name), rule.slice_margin, needed) for name in rule.large_slices]
    return (*certified, *_slice_vetoes(rule, tally), *_brier_veto(rule, tally), *_label_veto(rule, tally))


def _slice_vetoes(rule: Rule, tally: Tally) -> list[Criterion]:
    """Return the slices' vetoes; none where every request is of one slice, which is then all there is."""
    known = (*rule.large_slices, *rule.small_slices)
    if not known:
        return []
    log_needed = math.log(rule.veto_evidence * (len(known) + 1))
    slices = [*((_named(name), tally.slice(name)) for name in known), (OTHERS, tally.beside)]
    return [_harmed(name, counts.certain, rule.slice_margin, log_needed) for name, counts in slices if counts.total]


def _brier_veto(rule: Rule, tally: Tally) -> list[Criterion]:
    if not tally.brier:
        return []
    worse = Wealth.of([-score for score in tally.brier], m=rule.brier_tolerance)
    log_e, log_needed = worse.log_evidence, math.log(rule.veto_evidence)
    mean = worse.mean or 0.0
    words = f"Brier score to the teacher {_signed(-mean)} on {worse.num} rows of the uniform arm; {_told(log_e, log_needed)} that it is worse by more than {rule.brier_tolerance:g}"
    numbers = {"total": worse.num, "mean": -mean}
    moments = (worse.s1, worse.s2, worse.num)
    return [
        Criterion(
            "brier", "veto", rule.brier_tolerance, log_e, log_needed, log_e >= log_needed, moments, numbers, words
        )
    ]


def _label_veto(rule: Rule, tally: Tally) -> list[Criterion]:
    if not tally.labels.total:
        return []
    return [_harmed("labels", tally.labels, rule.slice_margin, math.log(rule.veto_evidence))]


def _certified(name: str, counts: Counts, margin: float, log_needed: float) -> Criterion:
    cautious = counts.cautious
    log_e = log_evidence(cautious, -margin)
    claim = f"not worse by {margin:g}" if margin else "better"
    words = f"{name}: {_counted(counts)}; {_told(log_e, log_needed)} that it is {claim}"
    return Criterion(
        name,
        "certified",
        margin,
        log_e,
        log_needed,
        log_e >= log_needed,
        cautious.moments,
        dataclasses.asdict(counts),
        words,
    )


def _harmed(name: str, certain: Counters, margin: float, log_needed: float) -> Criterion:
    log_e = log_evidence(certain.swapped, margin)
    words = f"{name}: {_counted(Counts(certain.wins, certain.losses, 0, certain.total))}; {_told(log_e, log_needed)} that it is worse by more than {margin:g}"
    return Criterion(
        name,
        "veto",
        margin,
        log_e,
        log_needed,
        log_e >= log_needed,
        certain.swapped.moments,
        dataclasses.asdict(certain),
        words,
    )


def _named(slice_: str) -> str:
    return f"slice {slice_!r}"


def _counted(counts: Counts) -> str:
    pending = f", {counts.pending} without an answer" if counts.pending else ""
    return f"{counts.wins} wins, {counts.losses} losses{pending} in {counts.total} requests"


def _told(log_e: float, log_needed: float) -> str:
    return f"evidence {spelled(log_e)} of {spelled(log_needed)}"


def spelled(log_e: float) -> str:
    """Return evidence as a person reads it."""
    return f"{math.exp(min(log_e, MAX_EXPONENT)):.3g}"


def _signed(value: float) -> str:
    return f"{abs(value):.4g} {'better' if value >= 0 else 'worse'}"
