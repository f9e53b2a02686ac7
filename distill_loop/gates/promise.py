"""Promise: whether a trial of the student as it is now looks worth its time. No part of the guarantee: it only decides what goes on trial.

The learner answers each fresh pair before it is learned from. Against the served student a win is a pair where only the learner
agrees with the teacher. Learner and candidate of an open trial are compared on the trial's rows that the teacher answered: those on which
the students differ, and the uniform arm's. The newest pairs alone are kept, so that after a drift the old traffic is soon out of sight.
One thread; part of the checkpoint.
"""

import collections
import dataclasses
import math
from collections.abc import Iterable
from typing import Any

from distill_loop.gates.evidence import Counters, requests_needed
from distill_loop.gates.rule import Rule

#: Newest fresh pairs that count, and below how many rows in all no opinion is had.
FRESH_ROWS, LEAST_ROWS = 64, 16
#: Standard deviations by which a learner may be behind the served student and still be tried: a trial is also how the teacher gets
#: asked where the two differ, and one that waits for a clear lead comes late after a drift.
PATIENCE = 2.0
#: Standard deviations by which it must be ahead of an open trial's candidate: with fewer, chance often looks like an advance.
CAUTION = 2.0


@dataclasses.dataclass(frozen=True)
class Outlook:
    """Wins and losses of a student against the served one, and the rows they come from."""

    wins: int
    losses: int
    num: int

    def counters(self, rows_per_answer: float) -> Counters:
        """Return what the gate would count where each of these stands for so many of a trial's rows, the others being ties."""
        return Counters(self.wins, self.losses, round(self.num * rows_per_answer))

    @property
    def promising(self) -> bool:
        """Whether a trial is worth opening: not clearly more losses than wins, or too few rows to say."""
        return self.num < LEAST_ROWS or self.deviations >= -PATIENCE

    @property
    def deviations(self) -> float:
        """By how many standard deviations of chance the wins are ahead of the losses; 0 without either."""
        return (self.wins - self.losses) / math.sqrt(max(self.wins + self.losses, 1))


@dataclasses.dataclass(frozen=True)
class Duel:
    """The newest rows of a trial that the teacher answered: how learner and candidate do there against the served student, and the
    learner against the candidate."""

    learner: Outlook
    candidate: Outlook
    ahead: Outlook


def is_overtaken(rule: Rule, certain: Counters, num_answered: int, duel: Duel) -> bool:
    """Whether an open trial should make room: the student as it is now is `CAUTION` deviations ahead of the candidate on rows that
    both answered, and a trial of it is expected to be decided in less than half the rows that the open one still takes.

    Both are projected at the rates of the duel's rows, of which there is one for so many of the trial's. Ask seldom: each time is another chance to be wrong. That costs time, not the
    guarantee.

    Args:
        certain: the open trial's rows whose outcome is known; answers that are late say nothing against it.
        num_answered: how many of its rows the teacher was asked about, and answered.
    """
    if duel.ahead.num < LEAST_ROWS or duel.ahead.deviations < CAUTION:
        return False
    rows_per_answer = max(certain.total / max(num_answered, 1), 1.0)
    needed = requests_needed(duel.learner.counters(rows_per_answer), -rule.margin, rule.alpha)
    end = requests_needed(duel.candidate.counters(rows_per_answer), -rule.margin, rule.alpha, since=certain)
    end = rule.max_rows if end is None else min(end, rule.max_rows)
    return needed is not None and 2 * needed < end - certain.total


class Promise:
    """Fresh pairs of one served version, and of one trial against it."""

    def __init__(self) -> None:
        self._version = ""
        self._trial_id = ""
        self._rows: collections.deque[int] = collections.deque(maxlen=FRESH_ROWS)
        self._duels: collections.deque[tuple[int, int]] = collections.deque(maxlen=FRESH_ROWS)

    def observe(self, version: str, *, learner_right: bool, served_right: bool) -> None:
        """Take in a fresh pair that `version` answered; another version begins anew."""
        if version != self._version:
            self._version = version
            self._rows.clear()
        self._rows.append(learner_right - served_right)

    def observe_duel(self, trial_id: str, *, learner_right: bool, candidate_right: bool, served_right: bool) -> None:
        """Take in a fresh pair that is a row of a trial; another trial begins anew."""
        if trial_id != self._trial_id:
            self._trial_id = trial_id
            self._duels.clear()
        self._duels.append((learner_right - served_right, candidate_right - served_right))

    def promoted(self, trial_id: str, version: str) -> None:
        """Go on with the version that this trial promoted: how the learner does against it is known from the trial's pairs."""
        rows = [learner - candidate for learner, candidate in self._duels] if trial_id == self._trial_id else []
        self._version = version
        self._rows.clear()
        self._rows.extend(rows)

    def forget(self) -> None:
        """Drop the older half of the fresh pairs: what was said against the learner as it was must not hold it back for long."""
        for _ in range(len(self._rows) // 2):
            self._rows.popleft()

    def outlook(self, version: str) -> Outlook:
        """Return what the fresh pairs of a version say."""
        return _count(self._rows if version == self._version else ())

    def duel(self, trial_id: str) -> Duel:
        """Return what a trial's answered rows say."""
        rows = list(self._duels) if trial_id == self._trial_id else []
        return Duel(
            _count(learner for learner, _ in rows),
            _count(candidate for _, candidate in rows),
            _count(learner - candidate for learner, candidate in rows),
        )

    def state_dict(self) -> dict[str, Any]:
        """Return everything as plain values."""
        duels = [list(row) for row in self._duels]
        return {"version": self._version, "rows": list(self._rows), "trial_id": self._trial_id, "duels": duels}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Become what `state_dict` described."""
        self._version, self._trial_id = state["version"], state["trial_id"]
        self._rows.clear()
        self._rows.extend(state["rows"])
        self._duels.clear()
        self._duels.extend((learner, candidate) for learner, candidate in state["duels"])


def _count(differences: Iterable[int]) -> Outlook:
    rows = list(differences)
    return Outlook(sum(row > 0 for row in rows), sum(row < 0 for row in rows), len(rows))
