"""The mirror's side of a trial: both students answer a row, and the teacher is needed only where they disagree.

Decides which rows of a trial are evaluated (each input once, and only within the budget) and what is said about them. Judges
nothing: rows go to the loop. Rows are evaluated in the mirror's thread; trials are opened by the control thread.
"""

import dataclasses
from collections.abc import Mapping
from typing import Protocol

import numpy as np
import structlog

from protos import brier
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

    def evaluate(
        self, sample: records.Sample, probability: float, *, scored: bool = False
    ) -> tuple[records.TrialRow, records.TrialAnswer]:
        """Return the row of a sample, and both students' answers, which wait for the teacher's where they differ.

        Args:
            probability: with which any row became one of the trial at this time.
            scored: whether the teacher is asked whatever the students say: only then may their Brier scores be compared.
        """
        self.seen.add(sample.input_key)
        inputs = {tensor.name: from_record(tensor) for tensor in sample.inputs}
        if self.inputs_are_whole and sample.student.version == self.incumbent.version:
            incumbent_C = _finite(from_record(sample.student.logits))
        else:
            incumbent_C = self._ask(self.incumbent, inputs)
        candidate_C = self._ask(self.candidate, inputs)
        incumbent_class, candidate_class = _top(incumbent_C), _top(candidate_C)
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
        answer = records.TrialAnswer(
            trial_id=self.trial_id,
            incumbent_version=self.incumbent.version,
            candidate_version=self.candidate.version,
            incumbent_class=incumbent_class,
            candidate_class=candidate_class,
        )
        if scored and (parts := brier.parts_of(incumbent_C, candidate_C)) is not None:
            answer.brier_base, answer.brier_slope = parts
        return row, answer

    def _ask(self, student: Student, inputs: Mapping[str, Array]) -> Array | None:
        """Return a student's logits [classes], or None where it can't answer: that is wrong, whatever the teacher says, and no reason to
        leave the row out."""
        try:
            return _finite(student.run(inputs))
        except Exception:  # a supervision point: one row that a student can't answer must not stop all others
            structlog.get_logger().exception("a student can't answer a trial row", version=student.version)
            return None


def _finite(logits_1C: Array) -> Array | None:
    """Return the row's logits [classes]; None where one is NaN or infinite, which is no answer."""
    logits_C: Array = logits_1C[0]
    return logits_C if np.isfinite(logits_C).all() else None


def _top(logits_C: Array | None) -> int:
    return NO_CLASS if logits_C is None else int(np.argmax(logits_C))
