"""The rule of a trial: everything that its verdict follows from, beside its rows. Fixed when the candidate is frozen, kept in its ledger line.

Decides the error rate of a refresh: the same for each, or regulated over all of them. Pure.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Literal

ErrorRate = Literal["constant", "regulated"]
#: Normalises the weights of e-LOND so that they sum to less than 1 over all refreshes: the sum of 1/(n ln^2 n) from n = 2 is 2.1097.
E_LOND_SUM = 2.13
#: Largest error rate that one refresh may have in regulated mode.
MAX_ALPHA = 0.05


@dataclasses.dataclass(frozen=True)
class Rule:
    """How a trial is decided.

    Args:
        alpha: error rate of this refresh, for ever.
        margin: 0 for superiority; delta > 0 certifies "not worse by delta".
        min_gain, futility_evidence: a superiority trial is futile once E("better by less than min_gain") reaches this; one with a margin once
            E("worse by more than the margin") does.
        max_rows: cap of the trial.
        max_pairs, stalled_pairs: it ends too after so many pairs, or after so many without a row that counts.
        large_slices: on each of them "not worse by slice_margin" is certified too.
        small_slices: the others that were known; what comes beside them is one more. On none of all may it be found worse by more than slice_margin.
        veto_evidence: at which a veto stands; that of a slice at so many times the number of slices.
        brier_tolerance: by how much the Brier score to the teacher may be worse before that is a veto.
    """

    alpha: float = 0.01
    margin: float = 0.0
    min_gain: float = 0.005
    futility_evidence: float = 10.0
    max_rows: int = 20_000
    max_pairs: int = 20_000
    stalled_pairs: int = 512
    slice_margin: float = 0.01
    large_slices: tuple[str, ...] = ()
    small_slices: tuple[str, ...] = ()
    veto_evidence: float = 20.0
    brier_tolerance: float = 0.005

    @classmethod
    def from_dict(cls, body: Mapping[str, Any]) -> "Rule":
        """Return the rule that `dataclasses.asdict` described, JSON in between or not; what it doesn't say is the default.

        Raises:
            TypeError: it says something that no rule has.
        """
        slices = {name: tuple(body.get(name, ())) for name in ("large_slices", "small_slices")}
        return cls(**{**body, **slices})


def alpha_of_refresh(mode: ErrorRate, *, alpha: float, fdr: float, number: int, promotions: int) -> float:
    """Return the error rate of a refresh, fixed when its trial is opened.

    Constant: levels add up, so in 1,000 refreshes at most 1,000 alpha promotions are false, on average. Regulated (e-LOND, Xu and Ramdas 2024): at any
    time at most the share `fdr` of all promotions is false, on average, whatever the refreshes have to do with each other.

    Args:
        number: of this trial among all that were opened, from 1.
        promotions: verdicts PASS among those before.
    """
    if mode == "constant":
        return alpha
    gamma = 1 / (E_LOND_SUM * (number + 1) * math.log(number + 1) ** 2)
    return min(MAX_ALPHA, fdr * gamma * (promotions + 1))
