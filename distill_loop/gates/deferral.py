"""The deferral certificate: above which confidence a student may answer alone, so that all the while at most a share eps of requests is answered wrong.

"Wrong" is: answered by the student, and not as the teacher would. For each threshold, from strict to loose, an e-process against "more than eps" is a mixture of
likelihood ratios; a threshold may be used once it and all stricter ones have reached 1/alpha (Learn then Test, made anytime: Xu et al., 2024). So with probability
1 - alpha no threshold that is ever used has a risk above eps. Rows are the uniform arm's. A promotion, another teacher or an alarm begins it anew. Pure
numbers, no requests: others use the threshold. One thread; all of it is in `state_dict`.
"""

import dataclasses
import math
from typing import Any

import numpy as np

from distill_loop.gates.evidence import Floats

#: Risks that the mixture bets on, in shares of eps.
RISKS = np.array([0.2, 0.4, 0.6, 0.75, 0.85, 0.93])
#: Thresholds, strict to loose: dense near 1, where confidences crowd, then in steps that cost a point of deferral at most.
THRESHOLDS = (0.999, 0.998, 0.996, 0.994, 0.992, 0.99, *(round(1 - step / 50, 2) for step in range(1, 49)))


def log_risk_evidence(losses: Any, totals: Any, eps: float) -> Floats:
    """Return the logarithm of the evidence against a risk above eps, from losses among totals: arrays that broadcast, or numbers."""
    risks = RISKS * eps
    losses, totals = (np.asarray(counts, np.float64)[..., None] for counts in (losses, totals))
    logs = losses * np.log(risks / eps) + (totals - losses) * np.log((1 - risks) / (1 - eps))
    top = logs.max(axis=-1)
    mixed: Floats = top + np.log(np.exp(logs - top[..., None]).mean(axis=-1))
    return mixed


@dataclasses.dataclass(frozen=True)
class DeferralRule:
    """What is certified: eps, the share of all requests that may be answered alone and wrong; alpha, the error rate of that; and
    the thresholds that are tried, strict to loose."""

    eps: float = 0.05
    alpha: float = 0.05
    thresholds: tuple[float, ...] = THRESHOLDS

    def __post_init__(self) -> None:
        if not (0 < self.eps < 1 and 0 < self.alpha < 1):
            raise ValueError("eps and alpha lie between 0 and 1")
        if list(self.thresholds) != sorted(self.thresholds, reverse=True):
            raise ValueError("thresholds go from strict to loose")


class DeferralCertificate:
    """Counts losses at every threshold, and says which is the loosest that may be used."""

    def __init__(self, rule: DeferralRule = DeferralRule()) -> None:
        self._begin(rule)

    def _begin(self, rule: DeferralRule) -> None:
        self.rule = rule
        self.num = 0
        self._losses = np.zeros(len(rule.thresholds), np.int64)
        self._tops = np.full(len(rule.thresholds), -math.inf)
        self._thresholds = np.array(rule.thresholds)

    def begin(self) -> None:
        """Begin anew: what was certified is no longer."""
        self._begin(self.rule)

    def observe(self, confidence: float, right: bool) -> None:
        """Take in a row of the uniform arm: the student's confidence, and whether it said what the teacher says."""
        self.observe_rows(np.array([confidence]), np.array([right]))

    def observe_rows(self, confidences: Floats, right: "np.ndarray[tuple[int, ...], np.dtype[np.bool_]]") -> None:
        """Take in rows at once, with one look after them."""
        wrong = np.asarray(confidences)[~np.asarray(right, bool)]
        self._losses += (wrong[:, None] >= self._thresholds).sum(axis=0)
        self.num += len(confidences)
        # Reached once is reached for good: the claim is of all times at once.
        self._tops = np.maximum(self._tops, log_risk_evidence(self._losses, self.num, self.rule.eps))

    @property
    def num_certified(self) -> int:
        """How many thresholds, from the strictest on, may be used."""
        reached = self._tops >= -math.log(self.rule.alpha)
        return int(np.argmin(reached)) if not reached.all() else len(reached)

    @property
    def threshold(self) -> float | None:
        """The confidence from which on the student may answer alone; None while none is certified."""
        num = self.num_certified
        return self.rule.thresholds[num - 1] if num else None

    def as_evidence(self) -> dict[str, Any]:
        """Return its numbers, for a certificate: the threshold, its losses and its evidence."""
        num = self.num_certified
        losses, log_e = (int(self._losses[num - 1]), float(self._tops[num - 1])) if num else (None, None)
        return {
            "eps": self.rule.eps,
            "alpha": self.rule.alpha,
            "threshold": self.threshold,
            "rows": self.num,
            "losses": losses,
            "log_e": log_e,
        }

    def state_dict(self) -> dict[str, Any]:
        """Return everything as plain values."""
        tops = self._tops.tolist() if self.num else []
        return {
            "rule": dataclasses.asdict(self.rule),
            "num": self.num,
            "losses": self._losses.tolist(),
            "tops": tops,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Become what `state_dict` described."""
        self._begin(DeferralRule(**{**state["rule"], "thresholds": tuple(state["rule"]["thresholds"])}))
        self.num = state["num"]
        if self.num:
            self._losses = np.array(state["losses"], np.int64)
            self._tops = np.array(state["tops"], np.float64)
