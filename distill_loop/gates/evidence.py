"""Evidence that a candidate agrees with the teacher more often than the incumbent: anytime-valid, from three counters.

For each trial request D = 1{candidate = teacher} - 1{incumbent = teacher}: a win (+1), a loss (-1) or a tie (0). Where the two
students agree D is 0 whatever the teacher says, so the trial doesn't ask it. The e-process against "the average of D is at
most m" is a mixture of products over bets lam (docs/gate.md has the proof and its sources):

    E_t(m) = sum_k w_k (1 + lam_k (1-m)/(1+m))^wins (1 - lam_k)^losses (1 - lam_k m/(1+m))^ties

It is free of order and merges by adding counters. By Ville's inequality the probability that it EVER reaches 1/alpha, while the
average advantage over the window is at most m, is at most alpha: any number of looks, no independence needed. Pure; numpy only.
"""

import dataclasses
import math
from typing import Any

import numpy as np

#: Of float64, of any shape; one number is one too.
Floats = np.ndarray[tuple[int, ...], np.dtype[np.float64]]

#: Bets and their weights: from careful to bold, fixed once and for all, so that counters suffice.
BETS = np.geomspace(0.03, 0.6, 8)
LOG_WEIGHTS = np.full(8, -math.log(8))
#: psi(lam) = -ln(1 - lam) - lam, the cost of a bet in the moment form (Fan, Grama and Liu, 2015).
PSI = -np.log1p(-BETS) - BETS
BISECTION_STEPS = 60
#: Beyond this many requests "never" is the honest word.
MAX_REQUESTS = 10**15


@dataclasses.dataclass(frozen=True)
class Counters:
    """wins + losses <= total; total counts every trial request, ties and agreeing ones included."""

    wins: int
    losses: int
    total: int

    def __post_init__(self) -> None:
        if min(self.wins, self.losses, self.total) < 0:
            raise ValueError("counters are not negative")
        if self.wins + self.losses > self.total:
            raise ValueError(f"{self.wins} wins and {self.losses} losses are more than {self.total} requests")

    def __add__(self, other: "Counters") -> "Counters":
        return Counters(self.wins + other.wins, self.losses + other.losses, self.total + other.total)

    @property
    def moments(self) -> tuple[int, int, int]:
        """Sum, sum of squares and number of all D."""
        return self.wins - self.losses, self.wins + self.losses, self.total

    @property
    def swapped(self) -> "Counters":
        """The same requests with the two students' places exchanged."""
        return Counters(self.losses, self.wins, self.total)


def log_evidence(counters: Counters, m: float) -> float:
    """Return ln E_t(m), the evidence against an average advantage of at most m, for m in (-1, 1)."""
    return float(log_evidences(counters.wins, counters.losses, counters.total, m))


def log_evidences(wins: Any, losses: Any, totals: Any, m: float) -> Floats:
    """Return ln E_t(m) of many counters at once: arrays that broadcast, or numbers."""
    return log_mixture(log_wealths(wins, losses, totals, m))


def log_moment_evidence(counters: Counters, m: float) -> float:
    """Return the logarithm of the moment form, decreasing in m and defined for every m: for bounds."""
    return _log_moments(*counters.moments, 1.0, m)


def lower_bound(counters: Counters, alpha: float) -> float:
    """Return the lower confidence bound of the average advantage: the largest m in [-1, 1] with moment form >= 1/alpha.

    It holds at level alpha at all times at once. -1 where nothing can be said yet.
    """
    return lower_bound_of_moments(*counters.moments, alpha)


def lower_bound_of_moments(s1: float, s2: float, num: int, alpha: float, bound: float = 1.0) -> float:
    """Return the lower bound of the mean of scores Z >= -bound, from their sum, their sum of squares and how many there are.

    -bound where nothing can be said yet.
    """
    low, high = -bound, bound
    if _log_moments(s1, s2, num, bound, low) < -math.log(alpha):
        return low
    for _ in range(BISECTION_STEPS):
        middle = (low + high) / 2
        if _log_moments(s1, s2, num, bound, middle) >= -math.log(alpha):
            low = middle
        else:
            high = middle
    return low


def requests_needed(counters: Counters, m: float, alpha: float, since: Counters | None = None) -> int | None:
    """Return the total at which E_t(m) reaches 1/alpha if wins and losses keep the rates of these counters; None if never.

    Args:
        since: what was counted already, where that isn't these counters; the total returned begins with it.
    """
    if not counters.total:
        return None
    rates = log_wealths(counters.wins, counters.losses, counters.total, m) / counters.total
    threshold = -math.log(alpha)
    base = np.zeros(8) if since is None else log_wealths(since.wins, since.losses, since.total, m)
    if rates.max() <= 0 and float(log_mixture(base)) < threshold:
        return None

    def reached(more: int) -> bool:
        return float(log_mixture(base + rates * more)) >= threshold

    high = 1
    while not reached(high):
        high *= 2
        if high > MAX_REQUESTS:
            return None
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if reached(middle) else (middle, high)
    return high + (since.total if since else 0)


def log_wealths(wins: Any, losses: Any, totals: Any, m: float) -> Floats:
    """Return each bet's log wealth, in a last dimension that the counters haven't got; it is linear in them."""
    wins, losses, totals = (np.asarray(counts, np.float64)[..., None] for counts in (wins, losses, totals))
    rates: Floats = (
        wins * np.log1p(BETS * (1 - m) / (1 + m))
        + losses * np.log1p(-BETS)
        + (totals - wins - losses) * np.log1p(-BETS * m / (1 + m))
    )
    return rates


def log_mixture(log_wealths: Floats) -> Floats:
    """Return the logarithm of the weighted mean of the bets' wealths, which lie in the last dimension."""
    weighted = log_wealths + LOG_WEIGHTS
    top = weighted.max(axis=-1)
    mixed: Floats = top + np.log(np.exp(weighted - top[..., None]).sum(axis=-1))
    return mixed


def _log_moments(s1: float, s2: float, num: int, bound: float, m: float) -> float:
    return float(log_mixture(BETS / bound * (s1 - m * num) - PSI * s2 / bound**2))
