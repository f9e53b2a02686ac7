"""Promise: whether a trial of the student as it is now looks worth its time. No part of the guarantee: it only decides what goes on trial.

Learner and served student are compared on fresh uniform-arm pairs, each before it is learned from (the desk adds held-out ones while
these are few); a win is a pair where only the learner agrees with the teacher. The newest pairs alone are kept, so that after a drift the old traffic is soon out of sight.
One thread; part of the checkpoint.
"""

import collections
import dataclasses
import math
from typing import Any

from distill_loop.gates.evidence import Counters, requests_needed
from distill_loop.gates.verdict import Rule

#: Newest fresh pairs that count, and below how many rows in all no opinion is had.
FRESH_ROWS, LEAST_ROWS = 64, 16
#: Standard deviations taken off the learner's wins before an open trial makes room: with fewer, chance often looks like an advance.
CAUTION = 2.0


@dataclasses.dataclass(frozen=True)
class Outlook:
    """Wins and losses of the learner against the served student, and the rows they come from."""

    wins: int
    losses: int
    num: int

    def __add__(self, other: "Outlook") -> "Outlook":
        return Outlook(self.wins + other.wins, self.losses + other.losses, self.num + other.num)

    @property
    def promising(self) -> bool:
        """Whether a trial is worth opening: more wins than losses, or too few rows to say."""
        return self.num < LEAST_ROWS or self.wins > self.losses


def is_overtaken(rule: Rule, certain: Counters, fresh: Outlook) -> bool:
    """Whether an open trial should make room: one of the student as it is now is expected to be decided in less than half the
    requests that the open one still takes.

    Both are projected at their present rates; of the new one's wins two standard deviations are taken off. Ask seldom: each time is
    another chance to be wrong. That costs time, not the guarantee.

    Args:
        certain: the open trial's rows whose outcome is known; answers that are late say nothing against it.
        fresh: the learner against the served student since not long ago.
    """
    wins = fresh.wins - CAUTION * math.sqrt(fresh.wins + fresh.losses)
    if fresh.num < LEAST_ROWS or wins <= fresh.losses:
        return False
    needed = requests_needed(Counters(int(wins), fresh.losses, fresh.num), -rule.margin, rule.alpha)
    end = requests_needed(certain, -rule.margin, rule.alpha)
    end = rule.max_rows if end is None else min(end, rule.max_rows)
    # One that had fewer requests than the new one would need is not judged yet: else each would make room for the next.
    return needed is not None and needed <= certain.total and 2 * needed < end - certain.total


class Promise:
    """Fresh pairs of one served version."""

    def __init__(self) -> None:
        self._version = ""
        self._rows: collections.deque[int] = collections.deque(maxlen=FRESH_ROWS)

    def observe(self, version: str, *, learner_right: bool, served_right: bool) -> None:
        """Take in a fresh pair that `version` answered; another version begins anew."""
        if version != self._version:
            self._version = version
            self._rows.clear()
        self._rows.append(learner_right - served_right)

    def outlook(self, version: str) -> Outlook:
        """Return what the fresh pairs of a version say."""
        rows = self._rows if version == self._version else ()
        return Outlook(sum(row > 0 for row in rows), sum(row < 0 for row in rows), len(rows))

    def state_dict(self) -> dict[str, Any]:
        """Return everything as plain values."""
        return {"version": self._version, "rows": list(self._rows)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Become what `state_dict` described."""
        self._version = state["version"]
        self._rows.clear()
        self._rows.extend(state["rows"])
