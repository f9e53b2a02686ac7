"""One trial, row by row: from trial rows, teacher answers and labels, in any order, to the gate's tally.

Decides what counts once: each input (a burst of one input is one piece of evidence) and each record. A row whose students
disagree and whose teacher answer is missing or late counts as a loss where promotion is asked, and not at all where futility or harm
is. Rows from before the candidate was frozen never count, nor does what another teacher says than the one it was opened with. Counts the pairs that
arrive meanwhile, so that a trial that gets nowhere can be told. One thread; all of it is in `state_dict`.
"""

import dataclasses
from typing import Any, TypeVar

from distill_loop.gates.evidence import Counters
from distill_loop.gates.rows import Counting, Row, line_of
from distill_loop.gates.rule import Rule
from distill_loop.gates.tally import Tally
from distill_loop.gates.verdict import Wait

#: Pairs from the first time after the opening say nothing of a trial: the mirror has to take the candidate up first.
TAKING_UP_NS = 30 * 10**9
#: Answers, and labels, that may wait for their rows; beyond, the oldest is forgotten, and an answer's row counts as a loss.
MAX_EARLY = 65_536

Value = TypeVar("Value")


@dataclasses.dataclass(frozen=True)
class TrialIdentity:
    """Who is compared, since when, on which share of requests, by which rule. Digests, not version names.

    teacher_version: whose answers count; empty: whoever answers first. rule: None where a version opened it that kept none.
    """

    trial_id: str
    incumbent: str
    candidate: str
    share: float
    opened_unix_ns: int
    rule: Rule | None = dataclasses.field(default_factory=Rule)
    teacher_version: str = ""


@dataclasses.dataclass(frozen=True)
class Answer:
    """What students and teacher say of a row; brier: by how much the candidate's Brier score was better, where that may be counted."""

    incumbent_class: int
    candidate_class: int
    teacher_class: int
    teacher_version: str = ""
    brier: float | None = None


class TrialState:
    """The rows of an open trial."""

    def __init__(self, identity: TrialIdentity) -> None:
        self.identity = identity
        #: The version whose answers count; empty before the first.
        self.teacher_version = identity.teacher_version
        self._rows: dict[bytes, Row] = {}
        self._inputs: set[bytes] = set()
        self._early: dict[bytes, Answer] = {}
        self._early_labels: dict[bytes, int] = {}
        self._counting = Counting(self.rule)
        self._num_answered = 0
        self._num_pairs = 0
        self._pairs_at_last_row = 0
        self._rows_noted = 0

    @property
    def rule(self) -> Rule:
        """The rule that was fixed when it was opened."""
        return self.identity.rule or Rule()

    def add_row(
        self,
        record_id: bytes,
        input_key: bytes,
        time_unix_ns: int,
        *,
        agree: bool,
        probability: float = 1.0,
        slice_: str = "",
        incumbent_class: int | None = None,
        candidate_class: int | None = None,
    ) -> None:
        """Count a trial row; a repeat of its record or its input changes nothing.

        Args:
            probability: with which any row was evaluated at that time; kept for whoever weighs the rows.
        """
        answer, label = self._early.pop(record_id, None), self._early_labels.pop(record_id, None)
        if time_unix_ns <= self.identity.opened_unix_ns or record_id in self._rows or input_key in self._inputs:
            return
        self._inputs.add(input_key)
        row = Row(input_key, slice_, probability, agree, incumbent_class, candidate_class, label_class=label)
        if answer is not None:
            _answer(row, answer)
            self._num_answered += 1
        self._rows[record_id] = row
        self._counting.add(row)

    def add_answer(self, record_id: bytes, input_key: bytes, time_unix_ns: int, answer: Answer) -> bool:
        """Settle a row with the teacher's answer; returns whether it is one of the trial's, and new.

        An answer that is read before its row waits for it. Else, where the loop is behind, answered rows would be looked at
        without those beside them that the teacher never answers, which count as losses.
        """
        if time_unix_ns <= self.identity.opened_unix_ns:
            return False
        self.teacher_version = self.teacher_version or answer.teacher_version
        if answer.teacher_version != self.teacher_version:
            return False
        row = self._rows.get(record_id)
        if row is None:
            if input_key in self._inputs or record_id in self._early:
                return False
            _keep(self._early, record_id, answer)
            return True
        if row.teacher_class is not None:
            return False
        was = row.counts
        _answer(row, answer)
        self._counting.settle(row, was, answer.brier)
        self._num_answered += 1
        return True

    def add_label(self, record_id: bytes, time_unix_ns: int, label_class: int) -> None:
        """Take note of a row's true label; the first one counts, and one that comes before its row waits for it.

        Args:
            time_unix_ns: of the record.
        """
        row = self._rows.get(record_id)
        if row is not None and row.label_class is None:
            row.label_class = label_class
            self._counting.label(row)
        elif row is None and time_unix_ns > self.identity.opened_unix_ns and record_id not in self._early_labels:
            _keep(self._early_labels, record_id, label_class)

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

    def tally(self) -> Tally:
        """Return what the rows come to now."""
        return self._counting.tally()

    def certain(self) -> Counters:
        """Rows whose outcome is known."""
        return self.tally().overall.certain

    def cautious(self) -> Counters:
        """Every row; one without the teacher's answer counts as a loss."""
        return self.tally().overall.cautious

    def rows(self) -> bytes:
        """Return every row as JSON lines: with the rule, anybody can judge them again."""
        return "".join(line_of(record_id, row) + "\n" for record_id, row in self._rows.items()).encode()

    def state_dict(self) -> dict[str, Any]:
        """Return everything as plain values."""
        return {
            "identity": dataclasses.asdict(self.identity),
            "rows": [(record_id, *dataclasses.astuple(row)) for record_id, row in self._rows.items()],
            "early": [(record_id, *dataclasses.astuple(answer)) for record_id, answer in self._early.items()],
            "early_labels": list(self._early_labels.items()),
            "pairs": [self._num_pairs, self._pairs_at_last_row, self._rows_noted],
            "teacher_version": self.teacher_version,
        }

    @classmethod
    def from_state_dict(cls, state: dict[str, Any]) -> "TrialState":
        """Return the trial that `state_dict` described; of one that a version before opened only its identity, since its rows lack what a rule asks for."""
        rule = state["identity"].get("rule")
        identity = {**state["identity"], "rule": Rule.from_dict(rule) if rule else None}
        trial = cls(TrialIdentity(**identity))
        if rule is None:
            return trial
        trial._rows = {record_id: Row(*row) for record_id, *row in state["rows"]}
        trial._early = {record_id: Answer(*answer) for record_id, *answer in state["early"]}
        trial._early_labels = dict(state["early_labels"])
        trial._num_pairs, trial._pairs_at_last_row, trial._rows_noted = state["pairs"]
        trial.teacher_version = state["teacher_version"]
        for row in trial._rows.values():
            trial._inputs.add(row.input_key)
            trial._counting.add(row)
            trial._num_answered += row.teacher_class is not None
        return trial


def _answer(row: Row, answer: Answer) -> None:
    row.incumbent_class, row.candidate_class = answer.incumbent_class, answer.candidate_class
    row.teacher_class, row.brier = answer.teacher_class, answer.brier


def _keep(waiting: dict[bytes, Value], record_id: bytes, value: Value) -> None:
    """Let something wait; the oldest goes where too much does."""
    waiting[record_id] = value
    if len(waiting) > MAX_EARLY:
        del waiting[next(iter(waiting))]
