"""A desk for tests: a real learner, gate and release office on a registry in memory, and traffic whose teacher can change its mind."""

import dataclasses
import pathlib

import numpy as np

from distill_loop.config import GateSection, ReleaseSection
from distill_loop.desk import Desk
from distill_loop.gates.promise import Promise
from distill_loop.gates.slices import SliceShares
from distill_loop.learner.pair import TrainingPair
from distill_loop.learner.step import Learner
from distill_loop.progress import Progress
from distill_loop.release.office import ReleaseOffice
from distill_loop.trials import Trials
from registry.bundle import version_of
from registry.fetching import Policy
from registry.store import ObjectStore, open_store
from tests.support.tasks import NUM_CLASSES, Task
from tests.support.tracing import TracedOnce

GENEROUS = {"bootstrap_pairs": 24, "bootstrap_steps": 64, "cut_every_pairs": 16, "max_latency_ms": 60_000.0}


class DeskUnderTest:
    """Learns a task pair by pair, as the intake would have it."""

    def __init__(
        self,
        task: Task,
        folder: pathlib.Path,
        *,
        learner: dict[str, object],
        gate: dict[str, object] | None = None,
        **release: object,
    ) -> None:
        self.task = task
        self.store: ObjectStore = open_store("memory://")
        settings = ReleaseSection.model_validate({**GENEROUS, **release})
        section = task.learner(**learner)
        self.learner = Learner(section, task.model)
        self.progress = Progress()
        self.promise = Promise()
        self.office = ReleaseOffice(
            self.store,
            task.model,
            settings,
            cache=folder / "cache",
            policy=Policy(),
            epoch=1,
            actor="a test",
            text_bytes=section.text_bytes,
        )
        self.office._exporter = TracedOnce(task.model, text_bytes=section.text_bytes)
        self.slices = SliceShares()
        self.teacher_away = False
        self.trials = Trials(
            self.progress,
            self.learner,
            self.office,
            gate=GateSection.model_validate(gate or {}),
            observe_only=settings.observe_only,
            promise=self.promise,
            slices=self.slices,
            teacher_away=lambda: self.teacher_away,
        )
        self.desk = Desk(
            self.progress,
            self.learner,
            self.office,
            self.trials,
            release=settings,
            model=task.model,
            promise=self.promise,
            sign_of_life=lambda: None,
        )

    def take(self, numbers: range, *, turned: int = 0, steps: int = 1) -> None:
        """Take pairs in, judged first; a teacher that turned gives each class the next one's name."""
        for number in numbers:
            pair = self.task.pair(number)
            pair = dataclasses.replace(
                pair, teacher_probabilities_C=np.roll(pair.teacher_probabilities_C, turned % NUM_CLASSES)
            )
            self._judge(pair)
            fate = self.learner.observe(pair)
            setattr(self.progress, fate, getattr(self.progress, fate) + 1)
            self.progress.pairs_since_cut += fate == "learned"
            self.learner.learn(steps)

    def _judge(self, pair: TrainingPair) -> None:
        if self.progress.live is None:
            return
        served_right = self._is_right(self.progress.live, pair)
        learner_right = int(self.learner.logits(pair.inputs).argmax()) == pair.teacher_class
        self.promise.observe(version_of(self.progress.live), learner_right=learner_right, served_right=served_right)
        trial = self.progress.trial
        if trial is not None:
            self.promise.observe_duel(
                trial.identity.trial_id,
                learner_right=learner_right,
                candidate_right=self._is_right(trial.identity.candidate, pair),
                served_right=served_right,
            )

    def _is_right(self, digest: str, pair: TrainingPair) -> bool:
        return int(self.office.artifact(digest).logits(pair.inputs).argmax()) == pair.teacher_class

    def cut(self) -> dict[str, object]:
        """Cut, and return what became of it."""
        self.desk.cut(lambda: None)
        assert self.progress.last_cut is not None
        return self.progress.last_cut
