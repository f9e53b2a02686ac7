"""Which sampled rows the teacher is asked about, and which of them are a trial's.

Trial rows are evaluated first: they have the first call on the budget. Decides the way of each sample, and says why one has none. The mirror's
thread; `set_trial` is called by another.
"""

import collections
import dataclasses

import structlog

from protos import records_pb2 as records
from protos.records import ARM_UNIFORM
from serving.shadow.budget import Budget
from serving.shadow.message import Message
from serving.shadow.pairs import trial_message
from serving.shadow.rows import Row, RowReader, TeacherSaid, form_of
from serving.shadow.sampler import hold_to_pace, taken_by
from serving.shadow.strata import SERVED
from serving.shadow.trial import OpenTrial


@dataclasses.dataclass
class Ways:
    """Where samples go. asking: rows that need the teacher, reserved in the budget; settled: rows that have its answer; trials: a trial's
    rows for the stream; missing: strata of the others, by reason."""

    asking: list[Row] = dataclasses.field(default_factory=list)
    settled: list[Row] = dataclasses.field(default_factory=list)
    trials: list[Message] = dataclasses.field(default_factory=list)
    missing: dict[str, list[str]] = dataclasses.field(default_factory=lambda: collections.defaultdict(list))


class Judging:
    """Finds the way of each sample.

    Args:
        key: of this deployment's coins.
    """

    def __init__(self, budget: Budget, key: bytes) -> None:
        self._budget = budget
        self._key = key
        self._reader = RowReader()
        self._trial: OpenTrial | None = None

    def set_trial(self, trial: OpenTrial | None) -> None:
        """Run this trial from the next step on, or none."""
        self._trial = trial

    def ways_of(self, samples: list[records.Sample]) -> Ways:
        """Return each sample's way."""
        ways = Ways()
        answers = self._judge(samples, ways)
        waiting: list[Row] = []
        for sample in samples:
            row = self._reader.row_of(sample)
            if row.passed_through:
                row.teacher = _said(sample.teacher)
                ways.settled.append(row)
            elif answers and (answer := answers.get(sample.record_id)) is not None:
                row.trial = answer
                ways.asking.append(row)
            elif row.uniform:
                waiting.append(row)
            elif sample.record_id not in answers:
                ways.missing["not_judged"].append(row.stratum)
        num_allowed = self._budget.reserve_up_to(len(waiting)) if waiting else 0
        ways.asking += waiting[:num_allowed]
        if num_allowed < len(waiting):
            ways.missing["budget"] += [row.stratum for row in waiting[num_allowed:]]
        return ways

    def _judge(self, samples: list[records.Sample], ways: Ways) -> dict[bytes, records.TrialAnswer | None]:
        """Evaluate the trial's rows; returns what became of each: the answers that wait for the teacher's, or None.

        Every row that the uniform arm took is one of them, and keeps what was reserved for it also where the students agree: were it
        asked to reserve again, a short budget would leave the uniform arm more of the disagreements than there are. The trial arm
        keeps to the budget's pace.
        """
        answers: dict[bytes, records.TrialAnswer | None] = {}
        trial = self._trial
        if trial is None:
            return answers
        rows: list[records.TrialRow] = []
        decided: list[str] = []
        for sample in samples:
            if not trial.is_new(sample):
                continue
            uniform, pace = taken_by(ARM_UNIFORM, sample), self._budget.pace()
            hold_to_pace(self._key, sample, pace)
            if not sample.arms:
                answers[sample.record_id] = None
                ways.missing["pace"].append(sample.stratum or SERVED)
                continue
            if not self._budget.reserve(1):
                continue
            try:
                row, answer = trial.evaluate(sample, trial.probability(pace), scored=uniform)
            except Exception:  # a supervision point: one sample that can't be read must not stop all others
                self._budget.refund(1)
                structlog.get_logger().exception("a trial row can't be read", trial_id=trial.trial_id)
                continue
            rows.append(row)
            answers[sample.record_id] = answer if uniform or not row.agree else None
            if row.agree and not uniform:
                self._budget.refund(1)
                decided.append(sample.stratum or SERVED)
        if rows:
            batch = records.TrialBatch(
                trial_id=trial.trial_id,
                incumbent_version=trial.incumbent.version,
                candidate_version=trial.candidate.version,
                rows=rows,
            )
            ways.trials.append(trial_message(batch, decided))
        return answers


def _said(teacher: records.TeacherOutput) -> TeacherSaid:
    """Return what the teacher said to the caller itself."""
    output = teacher.output
    return TeacherSaid(teacher.version, teacher.kind, teacher.latency_s, teacher.cost, form_of(output), output.raw)
