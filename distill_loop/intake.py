"""The intake: every record from the stream passes here once - judged by the gate first, then given to the learner.

Decides what becomes of a message and of a pair: counted, learned, held out, recognised as a repeat, or dead. Positions move
past a message only when all of it was dealt with; if something is away in between, it is read again, and the repeats are known.
Connects the rooms stream, gates and learner. One thread.
"""

import numpy as np
import structlog
from google.protobuf.message import DecodeError

from distill_loop.config import LearnerSection
from distill_loop.gates.agreement import ProgressiveAgreement
from distill_loop.gates.promise import Promise
from distill_loop.learner.pair import TrainingPair, from_pair_record
from distill_loop.learner.step import Learner
from distill_loop.progress import Progress
from distill_loop.stream.consumer import Consumer, Message
from distill_loop.stream.dead_letter import DeadLetters
from distill_loop.stream.dedupe import ID_BYTES, Dedupe
from distill_loop.telemetry import PAIRS, STEPS
from protos import records_pb2 as records
from protos.errors import FormatError
from protos.records import ARM_UNIFORM, SCHEMA_HEADER, SCHEMA_VERSION
from protos.tensors import Array, datatype_of, from_record
from protos.topics import TRIALS
from registry.bundle import version_of
from registry.sections import ModelSection

#: Steps that may be owed: beyond this the machine can't keep up, and newer pairs matter more.
MAX_STEPS_DUE = 256.0
#: No arm samples less often; one over it is still a weight that arithmetic can carry.
MIN_PROBABILITY = 1e-9


class Intake:
    """Reads the stream into gate and learner."""

    def __init__(
        self,
        consumer: Consumer,
        dead_letters: DeadLetters,
        dedupe: Dedupe,
        agreement: ProgressiveAgreement,
        promise: Promise,
        learner: Learner,
        progress: Progress,
        *,
        model: ModelSection,
        settings: LearnerSection,
        max_messages: int,
    ) -> None:
        self._consumer = consumer
        self._dead_letters = dead_letters
        self._dedupe = dedupe
        self._agreement = agreement
        self._promise = promise
        self._learner = learner
        self._progress = progress
        self._model = model
        self._settings = settings
        self._max_messages = max_messages
        self._log = structlog.get_logger()

    def poll(self) -> list[Message]:
        """Return messages that wait; they come again until they are taken."""
        return self._consumer.poll(self._max_messages)

    def take(self, messages: list[Message]) -> None:
        """Take messages in, in the order in which they were polled."""
        for message in messages:
            try:
                self._take(message)
            except (FormatError, DecodeError) as error:
                self._bury(message, str(error))
            self._consumer.advance(message)
        for gap in self._consumer.take_gaps():
            self._progress.gaps += gap.end - gap.first
        if self._progress.trial is not None:
            self._progress.trial.note_read()

    def learn(self, max_steps: int | None) -> int:
        """Take the optimizer steps that new pairs have earned, at most `max_steps`; returns how many."""
        num_steps = int(self._progress.steps_due)
        if max_steps is not None:
            num_steps = min(num_steps, max_steps)
        if num_steps:
            self._learner.learn(num_steps)
            self._progress.steps_due -= num_steps
            STEPS.inc(num_steps)
        return num_steps

    def _take(self, message: Message) -> None:
        schema = message.headers.get(SCHEMA_HEADER)
        if schema != str(SCHEMA_VERSION):
            raise FormatError(f"schema version {schema} is not known here, only {SCHEMA_VERSION}")
        if message.kind == TRIALS:
            self._take_trial_rows(records.TrialBatch.FromString(message.value))
            return
        for pair in records.PairBatch.FromString(message.value).pairs:
            try:
                self._take_pair(pair)
            except FormatError as error:
                alone = records.PairBatch(pairs=[pair]).SerializeToString()
                self._bury(Message(message.kind, message.partition, message.offset, message.headers, alone), str(error))
                if len(pair.record_id) == ID_BYTES:
                    self._dedupe.note(pair.record_id, "dead")  # the gate may have counted it

    def _take_trial_rows(self, batch: records.TrialBatch) -> None:
        trial = self._progress.trial
        if trial is None or batch.trial_id != trial.identity.trial_id:
            return  # of a trial that was decided: its rows are kept already
        if any(len(row.record_id) != ID_BYTES or len(row.input_key) != ID_BYTES for row in batch.rows):
            raise FormatError(f"a trial row's record id or input key doesn't have {ID_BYTES} bytes")
        for row in batch.rows:
            trial.add_row(row.record_id, row.input_key, row.time_unix_ns, agree=row.agree, probability=row.probability)

    def _take_pair(self, pair: records.LogitPair) -> None:
        """Judge a pair, then let the learner have it."""
        if pair.record_id in self._dedupe:
            self._count("repeats")
            return
        if len(pair.record_id) != ID_BYTES or len(pair.input_key) != ID_BYTES:
            raise FormatError(f"a pair's record id or input key doesn't have {ID_BYTES} bytes")
        training = from_pair_record(pair, self._model.num_classes)
        self._check_inputs(training)
        self._judge(pair, training)
        fate = self._learner.observe(training)
        self._dedupe.note(pair.record_id, fate)
        self._count(fate)
        self._progress.newest_pair_unix_ns = max(self._progress.newest_pair_unix_ns, pair.time_unix_ns)
        if self._progress.trial is not None:
            self._progress.trial.note_pair(pair.time_unix_ns)
        if fate == "learned":
            self._progress.pairs_since_cut += 1
            self._progress.steps_due = min(MAX_STEPS_DUE, self._progress.steps_due + self._settings.steps_per_pair)

    def _judge(self, pair: records.LogitPair, training: TrainingPair) -> None:
        """Let the gate count a pair. Nothing in it that can't be read is counted in part, and the learner has no say."""
        teacher_class = training.teacher_class
        uniform = next((arm.probability for arm in pair.arms if arm.arm == ARM_UNIFORM), None)
        served_right = None
        if uniform is not None and pair.HasField("student"):
            if not MIN_PROBABILITY <= uniform <= 1:
                raise FormatError(f"a pair was sampled with an impossible probability of {uniform:g}")
            served_right = _top(from_record(pair.student.logits)) == teacher_class
        evaluated = self._count_in_trial(pair, teacher_class)
        if uniform is not None and served_right is not None:
            self._agreement.observe(served_right, uniform)
        live = self._progress.live and version_of(self._progress.live)
        if not evaluated and (served_right is None or pair.student.version != live):
            return  # says nothing of the learner beside what serves now
        try:
            learner_right = _top(self._learner.logits(training.inputs)) == teacher_class
        except FormatError:
            return  # it will refuse the pair, and say why
        trial = self._progress.trial
        if evaluated and trial is not None:
            served_right = pair.trial.incumbent_class == teacher_class
            self._promise.observe_duel(
                trial.identity.trial_id,
                learner_right=learner_right,
                candidate_right=pair.trial.candidate_class == teacher_class,
                served_right=served_right,
            )
            live = version_of(trial.identity.incumbent)
        if live and served_right is not None:
            self._promise.observe(live, learner_right=learner_right, served_right=served_right)

    def _count_in_trial(self, pair: records.LogitPair, teacher_class: int) -> bool:
        """Let the open trial have a pair's answer; returns whether it is one of its rows, and new."""
        trial = self._progress.trial
        return (
            trial is not None
            and pair.trial.trial_id == trial.identity.trial_id
            and trial.add_answer(
                pair.record_id,
                pair.input_key,
                pair.time_unix_ns,
                incumbent_class=pair.trial.incumbent_class,
                candidate_class=pair.trial.candidate_class,
                teacher_class=teacher_class,
            )
        )

    def _check_inputs(self, pair: TrainingPair) -> None:
        """Refuse a pair whose tensors are not the model's: it would stop the learner, not only itself."""
        expected = {spec.name for spec in self._model.inputs}
        if pair.inputs.keys() != expected:
            raise FormatError(f"a pair's inputs are {sorted(pair.inputs)}, [model] says {sorted(expected)}")
        for spec in self._model.inputs:
            array = pair.inputs[spec.name]
            if datatype_of(array) != spec.datatype:
                raise FormatError(f"a pair's input {spec.name!r} is {datatype_of(array)}, [model] says {spec.datatype}")
            if (
                array.ndim != len(spec.shape)
                or len(array) != 1
                or any(want not in (-1, have) for want, have in zip(spec.shape, array.shape, strict=True))
            ):
                raise FormatError(f"a pair's input {spec.name!r} has shape {array.shape}, [model] says {spec.shape}")

    def _count(self, fate: str) -> None:
        self._progress.read += 1
        setattr(self._progress, fate, getattr(self._progress, fate) + 1)
        PAIRS.labels(fate).inc()

    def _bury(self, message: Message, reason: str) -> None:
        self._log.error(
            "dead letter", kind=message.kind, partition=message.partition, offset=message.offset, reason=reason
        )
        self._dead_letters.put(message, reason)
        self._count("dead")


def _top(logits_1C: Array) -> int:
    if not logits_1C.size:
        raise FormatError("a pair's student logits are empty")
    return int(np.argmax(logits_1C.reshape(-1)))
