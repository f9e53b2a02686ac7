"""Evidence from real-valued scores, and from rows that were not all equally likely to be taken: the eight log-wealths of the bets.

For scores Z >= -B and the claim "the mean of Z is at most m" each bet's wealth is the product of 1 + lam (Z - m)/(B + m), and their mean is an e-process as
the counters' is (gates/evidence.py is the case Z in {-1, 0, 1}, B = 1). Log-wealths of two sets of rows add up. Each sum is rounded once, so
the order of the rows changes no bit: who judges kept rows again finds the same numbers. Pure; numpy only.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from distill_loop.gates.evidence import BETS, Floats, log_mixture, lower_bound_of_moments

#: Room for the rounding of what is at most `bound` by its definition.
TOLERANCE = 1e-6


@dataclasses.dataclass(frozen=True)
class Wealth:
    """What scores have made of the bets. num: scores; s1, s2: their sum, and the sum of their squares."""

    m: float
    bound: float
    log_wealths: tuple[float, ...] = (0.0,) * len(BETS)
    num: int = 0
    s1: float = 0.0
    s2: float = 0.0

    @classmethod
    def of(cls, scores: Sequence[float] | Floats, *, m: float, bound: float = 1.0, num_zero: int = 0) -> "Wealth":
        """Return the wealth of scores, each at least -bound.

        Args:
            num_zero: further scores that are 0.
        """
        if not bound + m > 0:
            raise ValueError(f"scores of at least {-bound:g} say nothing about a mean of {m:g}")
        array = np.asarray(scores, np.float64)
        if array.size and not array.min() >= -bound - TOLERANCE:
            raise ValueError(f"a score of {array.min():g} is below {-bound:g}, or no number")
        array = np.maximum(array, -bound)
        logs = log_factors(array, m, bound)
        ties = num_zero * log_factors(np.zeros(()), m, bound)
        return cls(
            m,
            bound,
            tuple(math.fsum([*column, tie]) for column, tie in zip(logs.T.tolist(), ties.tolist(), strict=True)),
            len(array) + num_zero,
            math.fsum(array.tolist()),
            math.fsum((array**2).tolist()),
        )

    @classmethod
    def weighted(
        cls,
        advantages: Sequence[float] | Floats,
        probabilities: Sequence[float] | Floats,
        *,
        num_not_taken: int,
        m: float,
        least_probability: float,
    ) -> "Wealth":
        """Return the wealth of all requests where each was taken with a probability of its own: Z is the advantage over it, or 0.

        Args:
            advantages, probabilities: of the rows taken; an advantage lies in [-1, 1].
            num_not_taken: the other requests.
            least_probability: fixed beforehand; no row is taken with less.
        """
        array = np.asarray(probabilities, np.float64)
        if array.size and not array.min() >= least_probability * (1 - TOLERANCE):
            raise ValueError(f"a row was taken with probability {array.min():g}, less than {least_probability:g}")
        scores = np.asarray(advantages, np.float64) / array
        return cls.of(scores, m=m, bound=1 / least_probability, num_zero=num_not_taken)

    def __add__(self, other: "Wealth") -> "Wealth":
        if (self.m, self.bound) != (other.m, other.bound):
            raise ValueError("two wealths of different bets don't add up")
        logs = tuple(a + b for a, b in zip(self.log_wealths, other.log_wealths, strict=True))
        return Wealth(self.m, self.bound, logs, self.num + other.num, self.s1 + other.s1, self.s2 + other.s2)

    @property
    def log_evidence(self) -> float:
        """The logarithm of the evidence against a mean of at most m."""
        return float(log_mixture(np.array(self.log_wealths)))

    @property
    def mean(self) -> float | None:
        """The mean score, None without one."""
        return self.s1 / self.num if self.num else None

    def lower_bound(self, alpha: float) -> float:
        """Return the lower confidence bound of the mean, at all times at once."""
        return lower_bound_of_moments(self.s1, self.s2, self.num, alpha, self.bound)


def log_factors(scores: Any, m: float, bound: float) -> Floats:
    """Return by how much each score raises each bet's log-wealth, bets in a last dimension."""
    factors: Floats = np.log1p(BETS * (np.asarray(scores, np.float64)[..., None] - m) / (bound + m))
    return factors
