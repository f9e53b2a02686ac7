"""The judge: what the gate learns from pairs, before the learner learns from them.

Decides which pairs say something: of the served version (the uniform arm's, weighted), of an open trial (its rows), and of the learner
against the version that serves. Nothing in a pair that can't be read is counted in part, and whether the student can take a pair has
no say in what the gate counts. The learner answers for all pairs of a read at once, as it was before any of them. Connects the rooms gates and
learner; the intake calls it. One thread.
"""

import dataclasses

from distill_loop.gates.agreement import ProgressiveAgreement
from distill_loop.gates.promise import Promise
from distill_loop.gates.slices import SliceShares
from distill_loop.gates.trial import Answer
from distill_loop.learner.pair import TrainingPair
from distill_loop.learner.reading import PairReader, Row
from distill_loop.learner.step import Learner
from distill_loop.progress import Progress
from protos import brier
from protos import records_pb2 as records
from protos.errors import RecordError
from protos.records import ARM_PASS_THROUGH, ARM_UNIFORM
from registry.bundle import version_of

#: No arm samples less often; one over it is still a weight that arithmetic can carry.
MIN_PROBABILITY = 1e-9


@dataclasses.dataclass(slots=True)
class Fresh:
    """A pair that is new, and what is found out about it.

    probability: with which the uniform arm took it, None where it didn't or no student answered; served_class: the serving student's
    answer, known where `probability` is; is_row: one of the open trial's, and new; error: why it is not to be learned from.
    """

    record: records.LogitPair
    row: Row
    training: TrainingPair
    replayed: bool
    teacher_class: int
    probability: float | None = None
    served_class: int | None = None
    is_row: bool = False
    error: RecordError | None = None


class Judge:
    """Lets the gate count pairs."""

    def __init__(
        self,
        progress: Progress,
        learner: Learner,
        reader: PairReader,
        agreement: ProgressiveAgreement,
        promise: Promise,
        slices: SliceShares,
    ) -> None:
        self._progress = progress
        self._learner = learner
        self._reader = reader
        self._agreement = agreement
        self._promise = promise
        self._slices = slices

    def judge(self, pairs: list[Fresh]) -> None:
        """Count each pair that has no error yet; what makes one unfit to be learned from becomes its error.

        A pair that was replayed from the dead letters may have been counted when it died: only a trial, which knows its rows, looks at it again.
        """
        self._read_served(pairs)
        live = self._progress.live and version_of(self._progress.live)
        asked = []
        for pair in pairs:
            if pair.error is not None:
                continue
            pair.is_row = self._count_in_trial(pair)
            if pair.replayed:
                continue
            if pair.served_class is not None and pair.probability is not None:
                self._agreement.observe(pair.served_class == pair.teacher_class, pair.probability)
            if (probability := _taken_blindly(pair)) is not None:
                self._slices.observe(pair.record.slice, probability)
            if pair.is_row or (pair.served_class is not None and pair.record.student.version == live):
                asked.append(pair)
        self._ask_learner(pairs, asked)

    def _read_served(self, pairs: list[Fresh]) -> None:
        """Find what the serving student said, where the uniform arm took the pair."""
        sampled = []
        for pair in pairs:
            probability = None
            for arm in pair.record.arms:
                if arm.arm == ARM_UNIFORM:
                    probability = arm.probability
                    break
            if probability is None or not pair.record.HasField("student"):
                continue
            if MIN_PROBABILITY <= probability <= 1:
                pair.probability = probability
                sampled.append(pair)
            else:
                pair.error = RecordError(
                    f"a pair was sampled with an impossible probability of {probability:g}", "bad_probability"
                )
        for pair, top in zip(sampled, self._reader.top_classes([pair.row for pair in sampled]), strict=True):
            if isinstance(top, RecordError):
                pair.error = top
            else:
                pair.served_class = top

    def _count_in_trial(self, pair: Fresh) -> bool:
        """Let the open trial have a pair's answer; returns whether it is one of its rows, and new."""
        trial, said = self._progress.trial, pair.record.trial
        if trial is None or said.trial_id != trial.identity.trial_id:
            return False
        training, score = pair.training, None
        if said.brier_slope and any(arm.arm == ARM_UNIFORM for arm in pair.record.arms):
            score = brier.advantage_of(said.brier_base, said.brier_slope, training.teacher_probabilities_C)
        answer = Answer(said.incumbent_class, said.candidate_class, pair.teacher_class, training.teacher_version, score)
        return trial.add_answer(training.record_id, training.input_key, training.time_unix_ns, answer)

    def _ask_learner(self, pairs: list[Fresh], asked: list[Fresh]) -> None:
        """Compare the learner's own answers; where a student may raise it is asked about every pair, since such a one must not be learned from."""
        asked_of = [pair for pair in pairs if pair.error is None] if self._learner.student.may_raise else asked
        tops = self._learner.top_classes([pair.training for pair in asked_of])
        told = {id(pair) for pair in asked}
        for pair, top in zip(asked_of, tops, strict=True):
            if isinstance(top, RecordError):
                pair.error = top
            elif id(pair) in told:
                self._compare(pair, top == pair.teacher_class)

    def _compare(self, pair: Fresh, learner_right: bool) -> None:
        trial, live = self._progress.trial, self._progress.live
        served_right = pair.served_class == pair.teacher_class
        if pair.is_row and trial is not None:
            answer = pair.record.trial
            served_right = answer.incumbent_class == pair.teacher_class
            self._promise.observe_duel(
                trial.identity.trial_id,
                learner_right=learner_right,
                candidate_right=answer.candidate_class == pair.teacher_class,
                served_right=served_right,
            )
            live = trial.identity.incumbent
        if live:
            self._promise.observe(version_of(live), learner_right=learner_right, served_right=served_right)


def _taken_blindly(pair: Fresh) -> float | None:
    """Return with which probability a pair was taken by an arm that looks at nothing in it; None where none did."""
    if pair.probability is not None:
        return pair.probability
    return 1.0 if any(arm.arm == ARM_PASS_THROUGH for arm in pair.record.arms) else None
