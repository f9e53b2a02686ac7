"""An intake on a stream file for tests, with a learner that learns nothing and notes what it was given."""

import pathlib
from collections.abc import Sequence
from typing import cast

from torch import nn

from distill_loop.config import LearnerSection
from distill_loop.gates.agreement import ProgressiveAgreement
from distill_loop.gates.promise import Promise
from distill_loop.gates.slices import SliceShares
from distill_loop.intake import Intake
from distill_loop.judge import Judge
from distill_loop.labels import Labels
from distill_loop.learner.pair import TrainingPair
from distill_loop.learner.reading import PairReader
from distill_loop.learner.step import Fate, Learner
from distill_loop.learner.student import Student
from distill_loop.progress import Progress
from distill_loop.stream.consumer import Consumer
from distill_loop.stream.dead_letter import DeadLetters, Letter
from distill_loop.stream.dedupe import Dedupe
from distill_loop.stream.embedded_consumer import EmbeddedConsumer
from distill_loop.stream.reports import Reports
from distill_loop.stream.streams import letters_of, open_writer
from distill_loop.stream.writer import Outgoing
from protos.errors import RecordError
from protos.topics import LABELS, PAIRS, REPORTS, TRIALS
from registry.sections import ModelSection, StreamSection, TensorSpec
from tests.support.publishing import NUM_CLASSES, WINDOW, StreamWriter

MODEL = ModelSection(
    name="tiny", num_classes=NUM_CLASSES, inputs=(TensorSpec(name="bytes", datatype="INT32", shape=(-1, WINDOW)),)
)


class NotingLearner:
    """Learns nothing; notes what it was given, and what the gate had counted by then."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self.pairs: list[TrainingPair] = []
        self.judged_before: list[int] = []
        self.told_times: list[int] = []
        self.raises = False

    def take(self, pairs: Sequence[TrainingPair]) -> list[Fate]:
        """Take pairs in."""
        trial = self._progress.trial
        self.pairs += pairs
        self.judged_before.append(trial.certain().total if trial else 0)
        return ["learned"] * len(pairs)

    def learn(self, num_steps: int) -> None:
        """Take no steps."""

    def forget(self, now_unix_ns: int) -> None:
        """Note how late it is said to be."""
        self.told_times.append(now_unix_ns)

    @property
    def student(self) -> Student:
        """Return what says whether it may raise."""
        return Student("noting", nn.Identity(), {}, may_raise=self.raises)

    def top_classes(self, pairs: Sequence[TrainingPair]) -> list[int | RecordError]:
        """Answer class 1, whatever is asked, or raise as a module of the user's may."""
        if self.raises:
            return [RecordError("the student raises KeyError on these inputs", "student_raises")] * len(pairs)
        return [1] * len(pairs)


class IntakeUnderTest:
    """An intake on a stream file."""

    def __init__(
        self,
        path: pathlib.Path,
        consumer: Consumer | None = None,
        *,
        deterministic: bool = False,
        real_learner: Learner | None = None,
    ) -> None:
        self.path = path
        self.writer = StreamWriter(path, MODEL.name, 1)
        kinds = {TRIALS: 1, PAIRS: 1, LABELS: 1, REPORTS: 1}
        self.consumer = consumer or EmbeddedConsumer(path, MODEL.name, kinds)
        self.progress = Progress()
        self.learner = NotingLearner(self.progress)
        self.agreement = ProgressiveAgreement(100)
        self.promise = Promise()
        self.slices = SliceShares()
        self.stream = StreamSection(path=path, partitions=1)
        self.reports = Reports()
        self.labels = Labels(num_classes=NUM_CLASSES, window_s=60.0, max_records=100, rows=100)
        self.written: list[list[Outgoing]] = []
        self.letters = DeadLetters(self, lambda: letters_of(self.stream, MODEL.name))
        reader, learner = PairReader(MODEL), real_learner or cast(Learner, self.learner)
        self.intake = Intake(
            self.consumer,
            self.letters,
            Dedupe(1000),
            Judge(self.progress, learner, reader, self.agreement, self.promise, self.slices),
            reader,
            learner,
            self.progress,
            self.reports,
            model=MODEL,
            settings=LearnerSection(),
            max_messages=100,
            max_message_bytes=2**20,
            labels=self.labels,
            deterministic=deterministic,
        )

    def read(self) -> None:
        """Take in the messages that wait, and make dead letters safe as a checkpoint would."""
        self.intake.take(self.intake.poll())
        self.letters.flush()

    def write(self, messages: list[Outgoing]) -> None:
        """Write dead letters, and note them."""
        self.written.append(messages)
        open_writer(self.stream, MODEL.name).write(messages)

    def close(self) -> None:
        """Close the file."""
        self.consumer.close()
        self.writer.close()

    def dead_letters(self) -> list[Letter]:
        """Return what lies in the dead topic."""
        return list(letters_of(self.stream, MODEL.name))
