"""The intake: every record from the stream passes here once - judged by the gate first, then given to the learner.

Decides what becomes of a message and of a pair: counted, learned, held out, refused, recognised as a repeat, or dead. What one poll
brought is taken in together: all of it is judged, then all of it is learned from, then positions move past it. Dead letters wait in
memory; only where too many wait does a take wait for the stream. Connects the rooms stream, gates and learner. One thread.
"""

import collections
import dataclasses
import math
import statistics
import time

from google.protobuf.message import DecodeError

from distill_loop.config import LearnerSection
from distill_loop.judge import Fresh, Judge
from distill_loop.labels import Labels
from distill_loop.learner.pair import TrainingPair
from distill_loop.learner.reading import Opened, PairReader, Row
from distill_loop.learner.step import Learner
from distill_loop.progress import Progress
from distill_loop.stream.consumer import Consumer, Message
from distill_loop.stream.dead_letter import DeadLetters
from distill_loop.stream.dedupe import Dedupe
from distill_loop.stream.reports import Reports
from distill_loop.telemetry import DEAD, GAPS, PAIRS, REPLACED, STEPS
from protos import records_pb2 as records
from protos import topics
from protos.errors import RecordError
from protos.records import (
    ID_BYTES,
    MODEL_HEADER,
    RECORDS_HEADER,
    REPLAY_HEADER,
    SCHEMA_HEADER,
    SCHEMA_VERSION,
    minted_unix_ns,
)
from registry.sections import ModelSection

#: Steps that may be owed: beyond this the machine can't keep up, and newer pairs matter more.
MAX_STEPS_DUE = 256.0
#: Records that are taken in together: enough that a forward and a poll cost little, few enough that a turn stays short.
LOT_RECORDS = 4096
#: Messages of a partition that the first poll asks for: what they hold isn't known yet. And the most where every step is taken in between: a turn stays short.
FIRST_MESSAGES = 64
#: Messages whose middle time is the stream's own clock where no other may be looked at: less than half of them can't move it.
CLOCK_MESSAGES = 15
#: A record may be so much younger than the message that brought it: two machines' clocks. Beyond that its own time is wrong.
CLOCK_SKEW_NS = 60_000_000_000


class Intake:
    """Reads the stream into gate and learner.

    Args:
        max_message_bytes: a longer message is a dead letter.
        deterministic: whether what is learned depends on the messages of pairs alone: every step is owed, and they say how late it is.
    """

    def __init__(
        self,
        consumer: Consumer,
        dead_letters: DeadLetters,
        dedupe: Dedupe,
        judge: Judge,
        reader: PairReader,
        learner: Learner,
        progress: Progress,
        reports: Reports,
        *,
        model: ModelSection,
        settings: LearnerSection,
        max_messages: int,
        max_message_bytes: int,
        labels: Labels,
        deterministic: bool = False,
    ) -> None:
        self._consumer = consumer
        self._dead_letters = dead_letters
        self._dedupe = dedupe
        self._judge = judge
        self._reader = reader
        self._learner = learner
        self._progress = progress
        self._reports = reports
        self._model = model
        self._settings = settings
        self._num_asked = min(FIRST_MESSAGES, max_messages)
        self._max_messages = self._num_asked if deterministic else max_messages
        self._max_message_bytes = max_message_bytes
        self._deterministic = deterministic
        self._max_steps_due = math.inf if deterministic else MAX_STEPS_DUE
        self._num_taken = self._num_opened = 0
        self._dead: collections.Counter[tuple[str, str]] = collections.Counter()
        self._labels = labels

    def poll(self) -> list[Message]:
        """Return messages that wait, about as many as make a lot; they come again until they are taken."""
        if self._num_taken:  # what was found in messages, never what they say: a liar would make every poll small
            fitting = self._num_taken * LOT_RECORDS // max(self._num_opened, 1)
            self._num_asked = min(self._max_messages, max(1, min(fitting, 2 * self._num_asked)))
            self._num_taken = self._num_opened = 0
        return self._consumer.poll(self._num_asked)

    def take(self, messages: list[Message]) -> None:
        """Take messages in, in the order in which they were polled.

        Raises:
            UnavailableError: so many dead letters wait for the stream that nothing more may be taken; nothing was.
        """
        self._dead_letters.make_room()
        lot = []
        for message in messages:
            try:
                if opened := self._open(message):
                    lot += [(message, (opened, place)) for place in range(len(opened.pairs))]
            except DecodeError:
                self._bury_message(message, RecordError("the message can't be decoded", "undecodable"))
            except RecordError as error:
                self._bury_message(message, error)
        self._num_taken += len(messages)
        self._num_opened += len(lot)
        self._forget(messages)
        self._take_pairs(lot)
        self._count_dead()
        for message in messages:
            self._consumer.advance(message)
        self.note_gaps()
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

    def _forget(self, messages: list[Message]) -> None:
        """Let the learner forget what is too old. How late it is says no single message: one from the future would end all learning."""
        if not self._deterministic:
            times = [message.time_unix_ns for message in messages]
            if times:
                self._learner.forget(min(max(times), time.time_ns()))
            return
        recent = self._progress.recent_times
        recent += [message.time_unix_ns for message in messages if message.kind == topics.PAIRS]
        del recent[:-CLOCK_MESSAGES]
        if len(recent) == CLOCK_MESSAGES:
            self._learner.forget(statistics.median_low(recent))

    def _open(self, message: Message) -> Opened | None:
        """Take a message in; one that holds pairs is returned, opened. Raises RecordError or DecodeError where all of it is dead."""
        if message.unreadable:
            raise RecordError(message.unreadable, "undecodable_batch")
        schema, model = message.headers.get(SCHEMA_HEADER), message.headers.get(MODEL_HEADER)
        if schema != str(SCHEMA_VERSION):
            raise RecordError(f"schema version {schema} is not known here, only {SCHEMA_VERSION}", "wrong_schema")
        if model is not None and model != self._model.name:  # streams of early versions don't say
            raise RecordError(f"the message is of model {model[:64]!r}, not {self._model.name!r}", "wrong_model")
        if len(message.value) > self._max_message_bytes:
            raise RecordError(f"the message has {len(message.value)} bytes", "oversized", fix="See max_message_bytes")
        if message.kind == topics.PAIRS:
            opened = self._reader.open(records.PairBatch.FromString(message.value))
            self._progress.taken += len(opened.pairs)
            self._progress.replayed += len(opened.pairs) if REPLAY_HEADER in message.headers else 0
            return opened
        if message.kind == topics.TRIALS:
            self._take_trial_rows(records.TrialBatch.FromString(message.value))
        elif message.kind == topics.REPORTS:
            self._reports.take(records.CaptureReport.FromString(message.value))
        elif message.kind == topics.LABELS:
            self._take_labels(records.LabelBatch.FromString(message.value))
        return None

    def _take_labels(self, batch: records.LabelBatch) -> None:
        trial = self._progress.trial
        for label in batch.labels:
            if self._labels.observe_label(label) and trial is not None:
                trial.add_label(label.record_id, minted_unix_ns(label.record_id), label.label_class)

    def _take_trial_rows(self, batch: records.TrialBatch) -> None:
        if any(len(row.record_id) != ID_BYTES or len(row.input_key) != ID_BYTES for row in batch.rows):
            raise RecordError(f"a trial row's record id or input key doesn't have {ID_BYTES} bytes", "bad_identity")
        self._progress.trial_rows += len(batch.rows)
        trial = self._progress.trial
        if trial is None or batch.trial_id != trial.identity.trial_id:
            return  # of a trial that was decided: its rows are kept already
        for row in batch.rows:
            trial.add_row(
                row.record_id,
                row.input_key,
                row.time_unix_ns,
                agree=row.agree,
                probability=row.probability,
                slice_=row.slice,
                incumbent_class=row.incumbent_class,
                candidate_class=row.candidate_class,
            )

    def _take_pairs(self, lot: list[tuple[Message, Row]]) -> None:
        """Judge the pairs that are new, then let the learner have them."""
        new = self._without_repeats(lot)
        self._count("repeats", len(lot) - len(new))
        fresh = []
        for (message, row), read in zip(new, self._reader.read([row for _, row in new]), strict=True):
            if isinstance(read, RecordError):
                self._bury_pair(message, row, read)
            else:
                opened, place = row
                replayed = REPLAY_HEADER in message.headers
                fresh.append((message, Fresh(opened.pairs[place], row, read, replayed, read.teacher_class)))
        self._judge.judge([pair for _, pair in fresh])
        kept = []
        for message, pair in fresh:
            if pair.error is not None:
                self._bury_pair(message, pair.row, pair.error)  # the gate may have counted it
            else:
                pair.training = _not_from_the_future(pair.training, message)
                kept.append(pair)
        self._learn_from(kept)

    def _without_repeats(self, lot: list[tuple[Message, Row]]) -> list[tuple[Message, Row]]:
        """Return the pairs that are new; one that was dead and is replayed is."""
        new, seen = [], set()
        for message, row in lot:
            opened, place = row
            record_id = opened.pairs[place].record_id
            known = self._dedupe.fate(record_id)
            if record_id in seen or (known is not None and not (known == "dead" and REPLAY_HEADER in message.headers)):
                continue
            if len(record_id) == ID_BYTES:
                seen.add(record_id)
            new.append((message, row))
        return new

    def _learn_from(self, pairs: list[Fresh]) -> None:
        progress = self._progress
        fates = self._learner.take([pair.training for pair in pairs])
        for pair, fate in zip(pairs, fates, strict=True):
            training = pair.training
            self._dedupe.note(training.record_id, fate)
            if progress.trial is not None:
                progress.trial.note_pair(training.time_unix_ns)
            if fate != "refused" and training.time_unix_ns > progress.newest_pair_unix_ns:
                progress.newest_pair_unix_ns = training.time_unix_ns
            self._labels.observe_pair(pair.record, pair.teacher_class, pair.served_class)
        for fate, num in collections.Counter(fates).items():
            self._count(fate, num)
            if fate == "learned":
                progress.pairs_since_cut += num
                progress.steps_due = min(self._max_steps_due, progress.steps_due + num * self._settings.steps_per_pair)

    def note_gaps(self) -> None:
        """Count what retention removed unread, and keep it for the ledger; that a stream is another one, too."""
        for one in self._consumer.take_replaced():
            REPLACED.labels(one.kind).inc()
            if one.kind != topics.REPORTS:
                self._progress.new_replaced.append(dataclasses.astuple(one))
        for gap in self._consumer.take_gaps():
            GAPS.labels(gap.kind).inc(gap.end - gap.first)
            self._progress.gaps[gap.kind] = self._progress.gaps.get(gap.kind, 0) + gap.end - gap.first
            if gap.kind != topics.REPORTS:  # each report says what the ones before said
                self._progress.new_gaps.append((gap.kind, gap.partition, gap.first, gap.end, gap.stream))

    def _count(self, fate: str, num: int) -> None:
        if num:
            self._progress.read += num
            setattr(self._progress, fate, getattr(self._progress, fate) + num)
            PAIRS.labels(fate).inc(num)

    def _bury_pair(self, message: Message, row: Row, error: RecordError) -> None:
        opened, place = row
        record_id = opened.pairs[place].record_id
        source = message
        if len(opened.pairs) > 1 or opened.has_columns:
            alone = records.PairBatch(pairs=[opened.alone(place)]).SerializeToString()
            headers = {**message.headers, RECORDS_HEADER: "1"}
            source = Message(message.kind, message.partition, message.offset, headers, alone, message.time_unix_ns)
        self._dead_letters.put(source, error.reason, str(error))
        self._dead[message.kind, error.reason] += 1
        if len(record_id) == ID_BYTES:
            self._dedupe.note(record_id, "dead")

    def _bury_message(self, message: Message, error: RecordError) -> None:
        self._dead_letters.put(message, error.reason, str(error))
        if message.kind == topics.PAIRS:
            num = _num_records(message)
            self._dead[message.kind, error.reason] += num
            self._progress.taken += num
            self._progress.replayed += num if REPLAY_HEADER in message.headers else 0
        else:
            others = self._progress.dead_others
            others[message.kind] = others.get(message.kind, 0) + 1
            self._dead[message.kind, error.reason] += 1

    def _count_dead(self) -> None:
        """Count what was buried since the last call: all at once, so that a flood costs little."""
        for (kind, reason), num in self._dead.items():
            DEAD.labels(kind, reason).inc(num)
            self._count("dead", num if kind == topics.PAIRS else 0)
        self._dead.clear()


def _not_from_the_future(training: TrainingPair, message: Message) -> TrainingPair:
    """Return a pair as the learner is to have it: one whose record says a time to come would make a newer teacher's answers seem old until then, so the
    message's time counts. By the stream's times alone, so that it is the same whenever it is read."""
    if message.time_unix_ns and training.time_unix_ns > message.time_unix_ns + CLOCK_SKEW_NS:
        return dataclasses.replace(training, time_unix_ns=message.time_unix_ns)
    return training


def _num_records(message: Message) -> int:
    """Return how many records a message says that it holds, as far as that can be; one where it doesn't say, and one for each offset of a batch
    that can't be read."""
    if message.unreadable:
        return message.num_offsets
    said = message.headers.get(RECORDS_HEADER, "")
    most = min(LOT_RECORDS, len(message.value))
    return max(1, min(int(said), most)) if said.isascii() and said.isdecimal() and len(said) < 10 else 1
