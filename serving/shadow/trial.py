"""The mirror's side of a trial: both students answer a row, and the teacher is needed only where they disagree.

Decides which rows of a trial are evaluated (each input once, and only within the budget) and what is said about them. Judges
nothing: rows go to the loop. Rows are evaluated in the mirror's thread; trials are opened by the control thread.
"""

import dataclasses
from collections.abc import Mapping
from typing import Protocol

import numpy as np
import structlog

from protos import records_pb2 as records
from protos.tensors import Array, from_record
from serving.telemetry import TRIAL_ROWS

#: What a student says that can't answer.
NO_CLASS = -1


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
    since both students must answer the same input. `rate` and `share` are the probabilities of the uniform and of the trial arm.
    """

    trial_id: str
    incumbent: Student
    candidate: Student
    rate: float
    share: float
    inputs_are_whole: bool = True
    model: str = ""
    seen: set[bytes] = dataclasses.field(default_factory=set)

    def is_new(self, sample: records.Sample) -> bool:
        """Whether this sample belongs to the trial and its input was not evaluated yet."""
        return sample.trial_id == self.trial_id and sample.input_key not in self.seen

    def probability(self, pace: float) -> float:
        """Return with which probability any row becomes one of the trial, at this pace of the trial arm."""
        return 1.0 - (1.0 - self.rate) * (1.0 - self.share * pace)

    def evaluate(self, sample: records.Sample, probability: float) -> tuple[records.TrialRow, records.TrialAnswer]:
        """Return the row of a sample, and both students' answers, which wait for the teacher's where they differ.

        Args:
            probability: with which any row became one of the trial at this time.
        """
        self.seen.add(sample.input_key)
        inputs = {tensor.name: from_record(tensor) for tensor in sample.inputs}
        if self.inputs_are_whole and sample.student.version == self.incumbent.version:
            incumbent_class = _top(from_record(sample.student.logits))
        else:
            incumbent_class = self._class_of(self.incumbent, inputs)
        candidate_class = self._class_of(self.candidate, inputs)
        agree = incumbent_class == candidate_class
        TRIAL_ROWS.labels("yes" if agree else "no", self.model).inc()
        row = records.TrialRow(
            record_id=sample.record_id,
            input_key=sample.input_key,
            slice=sample.slice,
            agree=agree,
            incumbent_class=incumbent_class,
            candidate_class=candidate_class,
            probability=probability,
            time_unix_ns=sample.time_unix_ns,
        )
        return row, records.TrialAnswer(
            trial_id=self.trial_id,
            incumbent_version=self.incumbent.version,
            candidate_version=self.candidate.version,
            incumbent_class=incumbent_class,
            candidate_class=candidate_class,
        )

    def _class_of(self, student: Student, inputs: Mapping[str, Array]) -> int:
        """Return the class that a student answers, or none where it can't: that is wrong, whatever the teacher says, and no reason to
        leave the row out."""
        try:
            return _top(student.run(inputs))
        except Exception:  # a supervision point: one row that a student can't answer must not stop all others
            structlog.get_logger().exception("a student can't answer a trial row", version=student.version)
            return NO_CLASS


def _top(logits_1C: Array) -> int:
    return int(np.argmax(logits_1C[0]))
