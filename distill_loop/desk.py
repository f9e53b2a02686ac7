"""The desk: when a first version is due, when a candidate is cut, and what is then done about it.

Decides times; what goes on between a trial's opening and its end is trials.py's, writes are the release office's. Connects the rooms gates, learner and
release. One thread.
"""

import time
from collections.abc import Callable, Sequence
from typing import Any

import structlog

from distill_loop.config import ReleaseSection
from distill_loop.gates.promise import Outlook, Promise
from distill_loop.gates.trial import TrialState
from distill_loop.learner.step import Learner
from distill_loop.progress import Progress
from distill_loop.release.candidate import Origin
from distill_loop.release.office import ReleaseOffice
from distill_loop.release.precheck import Precheck
from distill_loop.telemetry import PRECHECK_REJECTED, UNPROMISING
from distill_loop.trials import Trials
from protos.errors import ConfigurationError, UnavailableError
from protos.tensors import Array
from registry.bundle import version_of
from registry.ledger import Range
from registry.plausible import plausible_rows
from registry.sections import ModelSection

#: Held-out rows used for parity, golden answers and the expected disagreement.
CHECK_ROWS = 128
#: Rows, and the size of free dimensions, that stand for them before there are any.
PLAUSIBLE_ROWS, PLAUSIBLE_SIZE = 3, 24
#: Steps between two signs of life while the first version is trained.
STEPS_PER_SIGN = 16


class Desk:
    """Cuts and first releases of one student.

    Args:
        trials: what a cut is put on.
        model: its inputs say what is tried before there are rows.
        sign_of_life: called now and then during long work, so that the lease doesn't run out.
        learned_from: says which messages were read so far, for the line of what is cut now.
        now_ns: the time that trials and versions bear; the stream's own where the loop is deterministic.
    """

    def __init__(
        self,
        progress: Progress,
        learner: Learner,
        office: ReleaseOffice,
        trials: Trials,
        *,
        release: ReleaseSection,
        model: ModelSection,
        promise: Promise,
        sign_of_life: Callable[[], None],
        learned_from: Callable[[], Sequence[Range]] = tuple,
        now_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self._progress = progress
        self._learner = learner
        self._office = office
        self.trials = trials
        self._release = release
        self._model = model
        self._promise = promise
        self._sign_of_life = sign_of_life
        self._learned_from = learned_from
        self._now_ns = now_ns
        self._log = structlog.get_logger()

    def reconcile(self) -> None:
        """After a start or a fault: the ledger has the last word on what was decided, then the pointers are made to agree."""
        self.trials.reconcile()

    def follow(self) -> None:
        """Act on what somebody else has written into the ledger since the last look: an operator's command."""
        if self._office.grew():
            self.reconcile()

    def prepare(self) -> Precheck:
        """Trace the student's graph now (seconds), so that no later cut makes callers of the teacher or a verdict wait.

        Raises:
            ConfigurationError: the graph doesn't answer like the torch student.
        """
        rows = plausible_rows(self._model.inputs, PLAUSIBLE_ROWS, PLAUSIBLE_SIZE)
        _, _, check = self._office.export(self._learner.net, rows, self._learner.answers(rows))
        if check.wrong:
            raise ConfigurationError(
                f"learner.student {self._learner.student.name}: its ONNX graph {check.wrong[0]}",
                fix="Let its forward do the same in training, in evaluation and in a graph",
            )
        return check

    def release_file(self, save: Callable[[], None]) -> None:
        """Release the user's own first version, where one is named and there is none yet; and write down the floor."""
        self._office.release_floor()
        line = self._office.release_file()
        if line is None:
            return
        self.trials.adopt_live()
        self._log.info("first version released", version=version_of(line.digest), **line.evidence)
        save()

    def report_gaps(self) -> None:
        """Write what retention removed unread into the ledger, and which streams were replaced; raises UnavailableError, and then it is tried again."""
        replaced = self._progress.new_replaced
        while replaced:
            kind, partition, offset, stream, successor, *cut_off = replaced[0]  # a version before knew no end
            self._office.report_replaced(kind, partition, offset, stream, successor, self._progress.live, *cut_off)
            del replaced[0]
        gaps = self._progress.new_gaps
        while gaps:
            kind, partition, first, end, *stream = gaps[0]  # a version before kept no stream
            self._office.report_gap(kind, partition, first, end, self._progress.live, *stream)
            self._log.error(
                "messages were removed before they were read", topic=kind, partition=partition, first=first, end=end
            )
            del gaps[0]

    def bootstrap_due(self) -> bool:
        """Whether there are enough teacher answers for the first version."""
        return self._progress.live is None and self._progress.kept >= max(
            self._release.bootstrap_pairs, self._progress.bootstrap_after
        )

    def bootstrap(self, save: Callable[[], None]) -> None:
        """Train on what is there and release the first version, ungated.

        The steps are remembered before anything is released, so that a loop that is killed in between doesn't take them again.
        """
        progress = self._progress
        if not progress.first_steps:
            for _ in range(0, self._release.bootstrap_steps, STEPS_PER_SIGN):
                self._learner.learn(STEPS_PER_SIGN)
                self._sign_of_life()
            progress.first_steps, progress.pairs_since_cut = True, 0
            save()
        rows = self._check_rows()
        digest, check = self._office.cut(
            self._learner.net, rows, self._learner.answers(rows), self._origin("bootstrap")
        )
        if digest is None:
            PRECHECK_REJECTED.inc()
            # Not again before it has learned more.
            progress.first_steps, progress.bootstrap_after = False, progress.kept + self._release.cut_every_pairs
            return
        evidence = {"pairs": progress.kept, "steps": self._learner.num_steps, **check.evidence()}
        self._office.bootstrap(digest, evidence, tuple(self._learned_from()) or None, self._learner.teacher_version)
        self.trials.adopt_live()
        self._log.info("first version released", version=version_of(digest), pairs=progress.kept)
        save()

    def cut_due(self) -> bool:
        """Whether a candidate is due; while a trial runs a cut waits, unless it has overtaken the trial's candidate by far."""
        return (
            self._progress.live is not None
            and self._progress.pairs_since_cut >= self._release.cut_every_pairs
            and self._learner.num_held_out > 0
            and (self._progress.trial is None or self._is_overtaken(self._progress.trial))
        )

    def _is_overtaken(self, trial: TrialState) -> bool:
        """Ask, once per cut's worth of pairs, whether the open trial should make room."""
        if self._progress.learned - self._progress.asked_at < self._release.cut_every_pairs:
            return False
        self._progress.asked_at = self._progress.learned
        return self.trials.is_overtaken(trial)

    def cut(self, save: Callable[[], None]) -> None:
        """Put the student as it is now on trial against the live version, where that looks promising and its graph is fit.

        Raises:
            UnavailableError: the store is away; a cut is due again at once.
        """
        try:
            self._cut(save)
        except UnavailableError:
            self._progress.pairs_since_cut = self._release.cut_every_pairs
            self._progress.asked_at = self._progress.learned - self._release.cut_every_pairs
            raise

    def _cut(self, save: Callable[[], None]) -> None:
        live = self._progress.live
        assert live is not None
        self._progress.pairs_since_cut = 0
        self._progress.cuts += 1
        outlook = self._promise.outlook(version_of(live))
        if not outlook.promising:
            self._promise.forget()
            self._progress.unpromising += 1
            UNPROMISING.inc()
            self._note_cut(None, "not promising", _sentence(outlook))
            return
        rows = self._check_rows()
        digest, check = self._office.cut(
            self._learner.net, rows, self._learner.answers(rows), self._origin("candidate")
        )
        if digest is None:
            PRECHECK_REJECTED.inc()
            self._note_cut(None, "refused", "; ".join(check.reasons))
        elif digest == live or self.trials.was_tried(digest):
            self._note_cut(digest, "unchanged", "the student hasn't changed since its last trial")
        else:
            self._note_cut(digest, "on trial", _sentence(outlook))
            self.trials.open(live, digest, rows, save)

    def _note_cut(self, digest: str | None, outcome: str, reason: str) -> None:
        version = version_of(digest) if digest else None
        self._progress.last_cut = {
            "version": version,
            "outcome": outcome,
            "reason": reason,
            "time_unix_s": self._now_ns() / 1e9,
        }
        self._log.info("cut", version=version, outcome=outcome, reason=reason)

    def close_decided_trial(self) -> bool:
        """Look at the open trial; where it is over, write that and act on it. True where it was."""
        return self.trials.close_decided()

    def _check_rows(self) -> dict[str, Array]:
        """Return held-out rows, newest last; before there are any, plausible ones."""
        if not self._learner.num_held_out:
            return plausible_rows(self._model.inputs, PLAUSIBLE_ROWS, PLAUSIBLE_SIZE)
        return self._learner.held_out(CHECK_ROWS)[0]

    def _origin(self, kind: Any) -> Origin:
        student = {**self._learner.student.facts, "student": self._learner.student.name}
        progress = self._progress
        return Origin(
            kind,
            progress.live,
            self._learner.teacher_version,
            progress.learned,
            self._learner.num_steps,
            student,
            self._now_ns() / 1e9,
            progress.newest_pair_unix_ns / 1e9,
        )


def _sentence(outlook: Outlook) -> str:
    return (
        f"of the {outlook.num} newest pairs the learner alone agrees with the teacher on {outlook.wins}, "
        f"the live version alone on {outlook.losses}"
    )
