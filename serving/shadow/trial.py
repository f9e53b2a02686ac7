"""The mirror's side of a trial: both students answer a row, and the teacher is needed only where they disagree.

Decides which rows of a trial are evaluated (each input once, and only within the budget) and what is said about them. Judges
nothing: rows go to the loop. Rows are evaluated in the mirror's thread; trials are opened by the control thread.
"""

import dataclasses
from collections.abc import Mapping
from typing import Protocol

import numpy as np

from protos import records_pb2 as records
from protos.records import ARM_TRIAL
from protos.tensors import Array, from_record
from serving.telemetry import TRIAL_ROWS


class Student(Protocol):
    """What a trial needs of a version."""

    version: str
    digest: str

    def run(self, inputs: Mapping[str, Array]) -> Array:
        """Return logits [batch, classes]."""
        ...


@dataclasses.dataclass
class OpenTrial:
    """A trial as the mirror runs it. `seen` holds the inputs that were evaluated.

    `inputs_are_whole` says that nothing was redacted: only then may the answer that the caller got stand for the incumbent's,
    since both students must answer the same input.
    """

    trial_id: str
    incumbent: Student
    candidate: Student
    inputs_are_whole: bool = True
    model: str = ""
    seen: set[bytes] = dataclasses.field(default_factory=set)

    def is_new(self, sample: records.Sample) -> bool:
        """Whether this sample belongs to the trial and its input was not evaluated yet."""
        return sample.trial_id == self.trial_id and sample.input_key not in self.seen

    def evaluate(self, sample: records.Sample) -> tuple[records.TrialRow, records.TrialAnswer | None]:
        """Return the row of a sample, and the answer that waits for the teacher where the students disagree."""
        self.seen.add(sample.input_key)
        inputs = {tensor.name: from_record(tensor) for tensor in sample.inputs}
        if self.inputs_are_whole and sample.student.version == self.incumbent.version:
            incumbent_class = _top(from_record(sample.student.logits))
        else:
            incumbent_class = _top(self.incumbent.run(inputs))
        candidate_class = _top(self.candidate.run(inputs))
        agree = incumbent_class == candidate_class
        TRIAL_ROWS.labels("yes" if agree else "no", self.model).inc()
        row = records.TrialRow(
            record_id=sample.record_id,
            input_key=sample.input_key,
            slice=sample.slice,
            agree=agree,
            incumbent_class=incumbent_class,
            candidate_class=candidate_class,
            probability=next((arm.probability for arm in sample.arms if arm.arm == ARM_TRIAL), 1.0),
            time_unix_ns=sample.time_unix_ns,
        )
        if agree:
            return row, None
        return row, records.TrialAnswer(
            trial_id=self.trial_id,
            incumbent_version=self.incumbent.version,
            candidate_version=self.candidate.version,
            incumbent_class=incumbent_class,
            candidate_class=candidate_class,
        )


def _top(logits_1C: Array) -> int:
    return int(np.argmax(logits_1C[0]))
