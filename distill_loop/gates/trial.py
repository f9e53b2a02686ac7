"""One trial, row by row: from trial rows and teacher answers, in any order, to the gate's counters.

Decides what counts once: each input (a burst of one input is one piece of evidence) and each record. A row whose students
disagree and whose teacher answer is missing or late counts as a loss where promotion is asked, and not at all where futility
is. Rows from before the candidate was frozen never count. Counts the pairs that arrive meanwhile, so that a trial that gets nowhere can
be told. One thread; all of it is in `state_dict`.
"""

import dataclasses
import json
from collections.abc import Iterable
from typing import Any, Literal

from distill_loop.gates.evidence import Counters
from distill_loop.gates.verdict import Wait

Outcome = Literal["agree", "pending", "win", "loss", "tie"]
#: Pairs from the first time after the opening say nothing of a trial: the mirror has to take the candidate up first.
TAKING_UP_NS = 30 * 10**9
#: Answers that may wait for their rows; beyond, the oldest is forgotten, and its row counts as a loss.
MAX_EARLY = 65_536


@dataclasses.dataclass(frozen=True)
class TrialIdentity:
    """Who is compared, since when, on which share of requests. Digests, not version names."""

    trial_id: str
    incumbent: str
    candidate: str
    share: float
    opened_unix_ns: int


@dataclasses.dataclass
class Row:
    """A row that counts. `probability`: with which any row was evaluated at that time; `answered`: by the teacher."""

    input_key: bytes
    outcome: Outcome
    probability: float
    answered: bool = False


class TrialState:
    """The rows of an open trial."""

    def __init__(self, identity: TrialIdentity) -> None:
        self.identity = identity
        self._rows: dict[bytes, Row] = {}
        self._inputs: set[bytes] = set()
        self._early: dict[bytes, Outcome] = {}
        self._num_answered = 0
        self._num_pairs = 0
        self._pairs_at_last_row = 0
        self._rows_noted = 0

    def add_row(
        self, record_id: bytes, input_key: bytes, time_unix_ns: int, *, agree: bool, probability: float = 1.0
    ) -> None:
        """Count a trial row; a repeat of its record or its input changes nothing.

        Args:
            probability: with which any row was evaluated at that time; kept for whoever weighs the rows.
        """
        answer = self._early.pop(record_id, None)
        if time_unix_ns <= self.identity.opened_unix_ns or record_id in self._rows or input_key in self._inputs:
            return
        self._inputs.add(input_key)
        self._rows[record_id] = Row(
            input_key, "agree" if agree else answer or "pending", probability, answer is not None
        )
        self._num_answered += answer is not None

    def add_answer(
        self,
        record_id: bytes,
        input_key: bytes,
        time_unix_ns: int,
        *,
        incumbent_class: int,
        candidate_class: int,
        teacher_class: int,
    ) -> bool:
        """Settle a row with the teacher's answer; returns whether it is one of the trial's, and new.

        An answer that is read before its row waits for it. Else, where the loop is behind, answered rows would be looked at
        without those beside them that the teacher never answers, which count as losses.
        """
        if time_unix_ns <= self.identity.opened_unix_ns:
            return False
        advantage = (candidate_class == teacher_class) - (incumbent_class == teacher_class)
        outcome: Outcome = "win" if advantage > 0 else "loss" if advantage < 0 else "tie"
        row = self._rows.get(record_id)
        if row is None:
            if input_key in self._inputs or record_id in self._early:
                return False
            self._early[record_id] = outcome
            if len(self._early) > MAX_EARLY:
                del self._early[next(iter(self._early))]
            return True
        is_new = not row.answered
        row.answered = True
        if row.outcome == "pending":
            row.outcome = outcome
        self._num_answered += is_new
        return is_new

    def note_pair(self, time_unix_ns: int) -> None:
        """Count a pair, of any arm, that arrived while the trial is open; one from before it could have rows doesn't count."""
        self._num_pairs += time_unix_ns > self.identity.opened_unix_ns + TAKING_UP_NS

    def note_read(self) -> None:
        """Take note of the end of a read, whose rows and pairs come in any order: one with a row that counts ends the wait for one."""
        if len(self._rows) > self._rows_noted:
            self._rows_noted, self._pairs_at_last_row = len(self._rows), self._num_pairs

    @property
    def wait(self) -> Wait:
        """How many pairs have arrived meanwhile."""
        return Wait(self._num_pairs, self._num_pairs - self._pairs_at_last_row)

    @property
    def num_answered(self) -> int:
        """Rows with the teacher's answer, those on which the students agree included."""
        return self._num_answered

    def count(self, outcome: Outcome) -> int:
        """Return how many rows have this outcome."""
        return sum(row.outcome == outcome for row in self._rows.values())

    def certain(self) -> Counters:
        """Rows whose outcome is known."""
        wins, losses = self.count("win"), self.count("loss")
        return Counters(wins, losses, len(self._rows) - self.count("pending"))

    def cautious(self) -> Counters:
        """Every row; one without the teacher's answer counts as a loss."""
        return Counters(self.count("win"), self.count("loss") + self.count("pending"), len(self._rows))

    def rows(self) -> bytes:
        """Return every row as JSON lines: from these anybody can compute the evidence again."""
        lines = (
            json.dumps(
                {
                    "record_id": record_id.hex(),
                    "input_key": row.input_key.hex(),
                    "outcome": row.outcome,
                    "probability": row.probability,
                }
            )
            for record_id, row in self._rows.items()
        )
        return "".join(line + "\n" for line in lines).encode()

    def state_dict(self) -> dict[str, Any]:
        """Return everything as plain values."""
        rows = [(record_id, *dataclasses.astuple(row)) for record_id, row in self._rows.items()]
        pairs = [self._num_pairs, self._pairs_at_last_row, self._rows_noted, self._num_answered]
        early = list(self._early.items())
        return {"identity": dataclasses.asdict(self.identity), "rows": rows, "early": early, "pairs": pairs}

    @classmethod
    def from_state_dict(cls, state: dict[str, Any]) -> "TrialState":
        """Return the trial that `state_dict` described."""
        trial = cls(TrialIdentity(**state["identity"]))
        trial._rows = {record_id: Row(*row) for record_id, *row in state["rows"]}
        for row in trial._rows.values():  # a version before didn't keep it
            row.answered |= row.outcome in ("win", "loss", "tie")
        trial._inputs = {row.input_key for row in trial._rows.values()}
        trial._early = dict(state["early"])
        trial._num_pairs, trial._pairs_at_last_row, trial._rows_noted, trial._num_answered = state["pairs"]
        return trial


def counters_of_rows(lines: Iterable[str]) -> Counters:
    """Return the cautious counters of a kept trial's rows: the check that a ledger line's evidence is what it says."""
    outcomes = [json.loads(line)["outcome"] for line in lines if line.strip()]
    return Counters(outcomes.count("win"), outcomes.count("loss") + outcomes.count("pending"), len(outcomes))
