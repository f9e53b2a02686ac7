"""Simulated trials for tests and benchmarks: many streams at once, a look after every request, through the gate's own arithmetic.

A stream is a sequence of D in {-1, 0, 1}, drawn independently. Streams that were decided are looked at no more, so what costs time is
the undecided ones. Everything is seeded by the generator that is passed in.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator

import numpy as np

from distill_loop.gates.evidence import Floats, log_evidences

Bools = np.ndarray[tuple[int, ...], np.dtype[np.bool_]]
Ints = np.ndarray[tuple[int, ...], np.dtype[np.int64]]
#: Requests that are looked at in one go.
BLOCK = 250


@dataclasses.dataclass(frozen=True)
class Looks:
    """Counters [streams, requests] after each request of a block; the block's first request is number `first` + 1."""

    first: int
    wins: Ints
    losses: Ints
    totals: Ints


#: At which looks a rule says yes, [streams, requests].
Says = Callable[[Looks], Bools]


def reaches(m: float, alpha: float, *, swapped: bool = False) -> Says:
    """Return the gate's test: evidence against "an advantage of at most m" of 1/alpha; swapped: against a disadvantage of at most m."""

    def says(looks: Looks) -> Bools:
        ahead, behind = (looks.losses, looks.wins) if swapped else (looks.wins, looks.losses)
        reached: Bools = log_evidences(ahead, behind, looks.totals, m) >= -math.log(alpha)
        return reached

    return says


def advantages(rng: np.random.Generator, win: Floats | float, loss: Floats | float, num: int, length: int) -> Ints:
    """Return D [num, length]; win and loss are probabilities, of each stream or of all."""
    draws = rng.random((num, length))
    win_S1, loss_S1 = np.broadcast_to(win, (num,))[:, None], np.broadcast_to(loss, (num,))[:, None]
    return np.where(draws < win_S1, 1, np.where(draws < win_S1 + loss_S1, -1, 0))


def first_yes(
    rng: np.random.Generator,
    rules: dict[str, Says],
    *,
    win: Floats | float,
    loss: Floats | float,
    num_streams: int,
    length: int,
    first_ends: bool = False,
) -> dict[str, Ints]:
    """Return after which request each rule first says yes in each stream, 0 where never; the rules see the same streams.

    Args:
        first_ends: a stream ends with the block in which one of the rules says yes; otherwise with that in which all have.
    """
    found = {name: np.zeros(num_streams, np.int64) for name in rules}
    win_S, loss_S = (np.broadcast_to(np.asarray(share, np.float64), (num_streams,)) for share in (win, loss))
    open_S = np.arange(num_streams)
    wins_S, losses_S = np.zeros(num_streams, np.int64), np.zeros(num_streams, np.int64)
    for first in range(0, length, BLOCK):
        drawn = advantages(rng, win_S[open_S], loss_S[open_S], len(open_S), min(BLOCK, length - first))
        wins = wins_S[open_S, None] + np.cumsum(drawn > 0, axis=1)
        losses = losses_S[open_S, None] + np.cumsum(drawn < 0, axis=1)
        wins_S[open_S], losses_S[open_S] = wins[:, -1], losses[:, -1]
        looks = Looks(first, wins, losses, first + 1 + np.arange(drawn.shape[1])[None, :])
        for name, says in rules.items():
            said = says(looks)
            new = said.any(axis=1) & (found[name][open_S] == 0)
            found[name][open_S[new]] = first + 1 + said[new].argmax(axis=1)
        said_SR = np.stack([times > 0 for times in found.values()], axis=1)
        open_S = np.flatnonzero(~(said_SR.any(axis=1) if first_ends else said_SR.all(axis=1)))
        if not len(open_S):
            break
    return found


def ratio_limit(alpha: float, num_streams: int) -> float:
    """Return the bound that a simulated error rate is held to: alpha and three standard errors."""
    return alpha + 3 * math.sqrt(alpha * (1 - alpha) / num_streams)


def median_of_all(times: Ints) -> float:
    """Return the median of first times, never being later than all."""
    return float(np.median(np.where(times == 0, np.iinfo(np.int64).max, times)))


def run_sums(
    factors: Iterator[Floats],
    advance: Callable[[Floats, Floats], Floats],
    num_streams: int,
    num_bets: int,
    limit: float,
) -> Ints:
    """Return after which observation each stream's sum first reaches a limit, 0 where never.

    Args:
        factors: of each observation in turn, [streams, bets].
    """
    sums, times = np.zeros((num_streams, num_bets)), np.zeros(num_streams, np.int64)
    for number, factor in enumerate(factors, start=1):
        sums = advance(sums, factor)
        new = (times == 0) & (sums.mean(axis=1) >= limit)
        times[new] = number
    return times
