"""The books of an open trial: its counters against what the topics hold, each input counted once, whatever came again.

A trial's evidence is computed here a second time, from its rows in the order of their topic and the teacher's answers on the pairs topic, with
nothing of the gate's code; it must be the same row by row. Reads nothing itself.
"""

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence

from benchmarks.harness import Check
from protos import records_pb2 as records
from protos.columns import rows_of

AGREE, PENDING, WIN, LOSS, TIE = "agree", "pending", "win", "loss", "tie"


@dataclasses.dataclass(frozen=True)
class TrialRow:
    """A row as it lies on the topic."""

    record_id: str
    input_key: bytes
    time_unix_ns: int
    agree: bool


@dataclasses.dataclass(frozen=True)
class TrialBooks:
    """What was read of a trial.

    opened_unix_ns: rows from before don't count; on_topic: its rows in their order, repeats too; answers: outcome of each of its records that the
    teacher answered; counted: outcome of each row in the gate; told: wins, losses and total by the gate's own counters; rows_read: by the loop, of
    every trial.
    """

    opened_unix_ns: int
    on_topic: Sequence[TrialRow]
    answers: Mapping[str, str]
    counted: Mapping[str, str]
    told: tuple[int, int, int]
    rows_read: int

    def computed(self) -> dict[str, str]:
        """Return the outcome of each row that counts: the first of its input after the opening."""
        rows: dict[str, str] = {}
        inputs: set[bytes] = set()
        for row in self.on_topic:
            if row.time_unix_ns > self.opened_unix_ns and row.input_key not in inputs and row.record_id not in rows:
                inputs.add(row.input_key)
                rows[row.record_id] = AGREE if row.agree else self.answers.get(row.record_id, PENDING)
        return rows

    def figures(self) -> dict[str, float]:
        """Return what a result shows."""
        outcomes = list(self.computed().values())
        return {
            "trial_rows_on_topic": len(self.on_topic),
            "trial_inputs": len(outcomes),
            "trial_records_on_topic": len({row.record_id for row in self.on_topic}),
            **{f"trial_{name}": outcomes.count(name) for name in (WIN, LOSS, PENDING)},
        }

    def checks(self) -> list[Check]:
        """Return what must hold."""
        computed = self.computed()
        outcomes = list(computed.values())
        inputs = {row.input_key for row in self.on_topic if row.time_unix_ns > self.opened_unix_ns}
        wins, losses, total = self.told
        return [
            Check("trial_rows_on_topic", len(self.on_topic), ">=", 1),
            Check("trial_rows_on_topic_less_read_by_the_loop", len(self.on_topic) - self.rows_read, "==", 0),
            Check("trial_rows_that_the_gate_counts_otherwise", len(computed.items() ^ self.counted.items()), "==", 0),
            Check("trial_inputs_less_counted", len(inputs) - total, "==", 0),
            Check("trial_wins_less_computed", wins - outcomes.count(WIN), "==", 0),
            Check("trial_losses_less_computed", losses - outcomes.count(LOSS) - outcomes.count(PENDING), "==", 0),
        ]  # fmt: skip


#: The books of none: they don't close.
NONE = TrialBooks(0, (), {}, {}, (0, 0, 0), 0)


def rows_in(value: bytes, trial_id: str) -> Iterator[TrialRow]:
    """Yield the rows of a trial in a message of the trials topic."""
    batch = records.TrialBatch.FromString(value)
    if batch.trial_id == trial_id:
        for row in batch.rows:
            yield TrialRow(row.record_id.hex(), row.input_key, row.time_unix_ns, row.agree)


def answers_in(batch: records.PairBatch, trial_id: str) -> Iterator[tuple[str, str]]:
    """Yield the outcomes of a trial's records that a batch of pairs settles."""
    tops = None
    for place, pair in enumerate(batch.pairs):
        if not trial_id or pair.trial.trial_id != trial_id:
            continue
        if not batch.HasField("columns"):
            teacher_class = int(rows_of(pair.teacher.output, 1).argmax())
        else:
            if tops is None:
                tops = rows_of(batch.columns.teacher_output, len(batch.pairs)).argmax(axis=-1)
            teacher_class = int(tops[place])
        right = [one == teacher_class for one in (pair.trial.candidate_class, pair.trial.incumbent_class)]
        yield pair.record_id.hex(), {(True, False): WIN, (False, True): LOSS}.get((right[0], right[1]), TIE)


def counted_of(rows: bytes) -> dict[str, str]:
    """Return the outcome of each row that the gate counts, from the lines that it keeps of them."""
    return {row["record_id"]: row["outcome"] for row in map(json.loads, rows.splitlines())}
