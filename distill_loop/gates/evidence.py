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

import numpy as np

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
    def swapped(self) -> "Counters":
        """The same requests with the two students' places exchanged."""
        return Counters(self.losses, self.wins, self.total)


def log_evidence(counters: Counters, m: float) -> float:
    """Return ln E_t(m), the evidence against an average advantage of at most m, for m in (-1, 1)."""
    return _log_sum_exp(LOG_WEIGHTS + _log_wealth(counters, m))


def log_moment_evidence(counters: Counters, m: float) -> float:
    """Return the logarithm of the moment form, decreasing in m and defined for every m: for bounds."""
    s1, s2 = counters.wins - counters.losses, counters.wins + counters.losses
    return _log_sum_exp(LOG_WEIGHTS + BETS * (s1 - m * counters.total) - PSI * s2)


def lower_bound(counters: Counters, alpha: float) -> float:
    """Return the lower confidence bound of the average advantage: the largest m in [-1, 1] with moment form >= 1/alpha.

    It holds at level alpha at all times at once. -1 where nothing can be said yet.
    """
    low, high = -1.0, 1.0
    if log_moment_evidence(counters, low) < -math.log(alpha):
        return low
    for _ in range(BISECTION_STEPS):
        middle = (low + high) / 2
        if log_moment_evidence(counters, middle) >= -math.log(alpha):
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
    rates = _log_wealth(counters, m) / counters.total
    threshold = -math.log(alpha)
    base = LOG_WEIGHTS if since is None else LOG_WEIGHTS + _log_wealth(since, m)
    if rates.max() <= 0 and _log_sum_exp(base) < threshold:
        return None

    def reached(more: int) -> bool:
        return _log_sum_exp(base + rates * more) >= threshold

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


def _log_wealth(counters: Counters, m: float) -> "np.ndarray[tuple[int, ...], np.dtype[np.float64]]":
    """Return each bet's log wealth."""
    ties = counters.total - counters.wins - counters.losses
    rates: np.ndarray[tuple[int, ...], np.dtype[np.float64]] = (
        counters.wins * np.log1p(BETS * (1 - m) / (1 + m))
        + counters.losses * np.log1p(-BETS)
        + ties * np.log1p(-BETS * m / (1 + m))
    )
    return rates


def _log_sum_exp(values: "np.ndarray[tuple[int, ...], np.dtype[np.float64]]") -> float:
    top = float(values.max())
    return top + math.log(float(np.exp(values - top).sum()))
