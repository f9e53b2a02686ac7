"""Rules that decide a refresh, the product's gate among rules in use elsewhere, over whole trials at once.

A rule takes D [trials, requests] (1 where only the candidate agrees with the teacher, -1 where only the live student does, else 0) and says after which
request each trial ended and whether that was a promotion. All of them look at the same trials. Pure.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from distill_loop.gates.evidence import Floats, log_evidences
from distill_loop.gates.rule import Rule
from tests.support.gate_streams import BLOCK, Bools, Ints

#: Rows that "better on the last 1,000" looks at, and the requests after which McNemar's test looks once: for 80% power at one point and 5% differing.
WINDOW, MCNEMAR_LOOK = 1_000, 3_090
#: One-sided 5% of a normal distribution; and wins and losses below which McNemar's test isn't asked.
Z_5, LEAST_DISCORDANT = 1.6449, 10


@dataclasses.dataclass(frozen=True)
class Ends:
    """After which request each trial was over, and whether the candidate was promoted then."""

    requests: Ints
    promoted: Bools


Decides = Callable[[Ints], Ends]


def gate(rule: Rule, alphas: Floats | None = None) -> Decides:
    """Return the product's rule: promotion, futility and the cap, a look after each request. alphas: each trial's own, where not the rule's."""

    def decides(drawn: Ints) -> Ends:
        num, length = drawn.shape
        needed = np.full(num, -math.log(rule.alpha)) if alphas is None else -np.log(alphas)
        against_m = rule.margin if rule.margin else -rule.min_gain
        requests, promoted = np.full(num, min(length, rule.max_rows)), np.zeros(num, bool)
        open_S, wins_S, losses_S = np.arange(num), np.zeros(num, np.int64), np.zeros(num, np.int64)
        for first in range(0, min(length, rule.max_rows), BLOCK):
            block = drawn[open_S, first : min(first + BLOCK, rule.max_rows)]
            wins = wins_S[open_S, None] + np.cumsum(block > 0, axis=1)
            losses = losses_S[open_S, None] + np.cumsum(block < 0, axis=1)
            wins_S[open_S], losses_S[open_S] = wins[:, -1], losses[:, -1]
            totals = first + 1 + np.arange(block.shape[1])
            passes = log_evidences(wins, losses, totals, -rule.margin) >= needed[open_S, None]
            futile = log_evidences(losses, wins, totals, against_m) >= math.log(rule.futility_evidence)
            ended = (passes | futile).any(axis=1)
            place = (passes | futile).argmax(axis=1)
            over = open_S[ended]
            requests[over] = first + 1 + place[ended]
            promoted[over] = passes[ended, place[ended]]
            open_S = open_S[~ended]
            if not len(open_S):
                break
        return Ends(requests, promoted)

    return decides


def better_on_the_last(drawn: Ints) -> Ends:
    """Promote at the first request at which the candidate was better on the last 1,000."""
    sums = np.cumsum(drawn, axis=1)
    windows = sums[:, WINDOW - 1 :].copy()
    windows[:, 1:] -= sums[:, :-WINDOW]
    return _first(windows > 0, WINDOW, drawn.shape[1])


def better_on_the_first(drawn: Ints) -> Ends:
    """Look once, after 1,000 requests."""
    ahead_S: Ints = drawn[:, :WINDOW].sum(axis=1)
    return _once(ahead_S > 0, min(WINDOW, drawn.shape[1]))


def mcnemar_peeking(drawn: Ints) -> Ends:
    """Promote at the first request at which McNemar's test says p < .05."""
    wins, losses = np.cumsum(drawn > 0, axis=1), np.cumsum(drawn < 0, axis=1)
    return _first(_significant(wins, losses), 1, drawn.shape[1])


def mcnemar_once(drawn: Ints) -> Ends:
    """Look once, with McNemar's test, after as many requests as a power calculation asks for."""
    looked = drawn[:, :MCNEMAR_LOOK]
    return _once(_significant((looked > 0).sum(axis=1), (looked < 0).sum(axis=1)), looked.shape[1])


def _significant(wins: Any, losses: Any) -> Bools:
    discordant = wins + losses
    said: Bools = (wins - losses > Z_5 * np.sqrt(discordant)) & (discordant >= LEAST_DISCORDANT)
    return said


def _first(says: Bools, first: int, length: int) -> Ends:
    """Return where a rule first says yes; its first look is after request `first`."""
    promoted: Bools = says.max(axis=1)
    return Ends(np.where(promoted, first + says.argmax(axis=1), length), promoted)


def _once(says: Bools, request: int) -> Ends:
    return Ends(np.full(len(says), request), says)


#: Every rule but the regulated one, whose error rate depends on the refreshes before.
RULES: dict[str, Decides] = {
    "everstill": gate(Rule()),
    "better_on_last_1000": better_on_the_last,
    "better_on_first_1000": better_on_the_first,
    "mcnemar_peeking": mcnemar_peeking,
    "mcnemar_once": mcnemar_once,
}
