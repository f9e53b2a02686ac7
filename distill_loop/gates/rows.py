"""A trial's row, as it counts and as it is kept: one JSON line, from which anybody can count it again.

Decides what a row is: a win, a loss, a tie, agreement, or pending; and how rows become a tally under a rule. Pure.
"""

import dataclasses
import json
from collections.abc import Iterable
from typing import Any, Literal

from distill_loop.gates.evidence import Counters
from distill_loop.gates.rule import Rule
from distill_loop.gates.tally import NOTHING, Counts, Tally

Outcome = Literal["agree", "pending", "win", "loss", "tie"]
#: What is kept of a row beside its outcome, in a line's order.
KEPT = (
    "slice", "probability", "agree", "incumbent_class", "candidate_class", "teacher_class", "label_class", "brier",
)  # fmt: skip


@dataclasses.dataclass(slots=True)
class Row:
    """A row that counts.

    probability: with which any row was evaluated at that time. agree: whether both students gave one class. Classes are None where they aren't
    known: the teacher's before it answered, the label before it came. brier: by how much the candidate's Brier score to the teacher
    was better, on rows of the uniform arm.
    """

    input_key: bytes
    slice: str = ""
    probability: float = 1.0
    agree: bool = False
    incumbent_class: int | None = None
    candidate_class: int | None = None
    teacher_class: int | None = None
    label_class: int | None = None
    brier: float | None = None

    @property
    def outcome(self) -> Outcome:
        """What the row says of the two students."""
        if self.agree:
            return "agree"
        if self.teacher_class is None:
            return "pending"
        advantage = self._advantage(self.teacher_class)
        return "win" if advantage > 0 else "loss" if advantage < 0 else "tie"

    @property
    def counts(self) -> Counts:
        """The row alone."""
        outcome = self.outcome
        return Counts(outcome == "win", outcome == "loss", outcome == "pending", 1)

    @property
    def labelled(self) -> Counters:
        """The row alone, by its true label; nothing where it has none."""
        if self.label_class is None:
            return NOTHING
        advantage = 0 if self.agree else self._advantage(self.label_class)
        return Counters(int(advantage > 0), int(advantage < 0), 1)

    def _advantage(self, right: int) -> int:
        return (self.candidate_class == right) - (self.incumbent_class == right)


def line_of(record_id: bytes, row: Row) -> str:
    """Return a row as it is kept."""
    kept = {name: getattr(row, name) for name in KEPT}
    return json.dumps({"record_id": record_id.hex(), "input_key": row.input_key.hex(), "outcome": row.outcome, **kept})


def row_of(line: str) -> tuple[bytes, Row]:
    """Return the record's id and the row of a kept line.

    Raises:
        ValueError: it is no such line, or its outcome is not what its classes say.
    """
    try:
        body: dict[str, Any] = json.loads(line)
        row = Row(bytes.fromhex(body["input_key"]), *(body[name] for name in KEPT))
        record_id, outcome = bytes.fromhex(body["record_id"]), body["outcome"]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"is no row of a trial: {error}") from None
    if row.outcome != outcome:
        raise ValueError(f"says {outcome!r}, but its classes say {row.outcome!r}")
    return record_id, row


def tally_of(rows: Iterable[Row], rule: Rule) -> Tally:
    """Return what rows come to."""
    counting = Counting(rule)
    for row in rows:
        counting.add(row)
    return counting.tally()


class Counting:
    """Counts rows one by one. One thread."""

    def __init__(self, rule: Rule) -> None:
        self._slices = dict.fromkeys((*rule.large_slices, *rule.small_slices), Counts())
        self._beside = Counts()
        self._labels = NOTHING
        self._brier: list[float] = []
        self._tally: Tally | None = None

    def add(self, row: Row) -> None:
        """Count a row in."""
        self._tally = None
        self._move(row.slice, row.counts)
        if row.label_class is not None:
            self._labels += row.labelled
        if row.brier is not None:
            self._brier.append(row.brier)

    def settle(self, row: Row, was: Counts, brier: float | None) -> None:
        """Take note that a row was answered."""
        self._tally = None
        now = row.counts
        self._move(row.slice, Counts(now.wins - was.wins, now.losses - was.losses, now.pending - was.pending, 0))
        if brier is not None:
            self._brier.append(brier)

    def label(self, row: Row) -> None:
        """Take note that a row has its label now."""
        self._tally = None
        self._labels += row.labelled

    def tally(self) -> Tally:
        """Return what was counted."""
        if self._tally is None:
            self._tally = Tally(dict(self._slices), self._beside, self._labels, tuple(self._brier))
        return self._tally

    def _move(self, name: str, counts: Counts) -> None:
        if name in self._slices:
            self._slices[name] += counts
        else:
            self._beside += counts
