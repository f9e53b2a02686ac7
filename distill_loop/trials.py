"""Trials: by which rule one is opened, when it is over, what closes it from outside - and what is then written.

Decides the rule of each trial (its error rate, its margin, its large slices), fixed when its candidate is frozen; the verdict is the gate's, the writes are the
release office's. A routine cut waits for an open trial. Only a learner that has overtaken its candidate, another teacher or incumbent, an
alarm or an operator closes one before its verdict: as INCONCLUSIVE, which promotes nothing. Evidence is never taken over: what comes after begins anew. Connects the rooms
gates, learner and release for the desk. One thread.
"""

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import structlog

from distill_loop.config import GateSection
from distill_loop.gates.promise import Promise, is_overtaken
from distill_loop.gates.rule import Rule, alpha_of_refresh
from distill_loop.gates.slices import SliceShares
from distill_loop.gates.trial import TrialIdentity, TrialState
from distill_loop.gates.verdict import Decision, decide
from distill_loop.learner.step import Learner
from distill_loop.progress import Progress
from distill_loop.release.office import ReleaseOffice
from distill_loop.telemetry import TRIAL_LOG_EVIDENCE, VERDICTS
from protos.errors import UnavailableError
from protos.tensors import Array
from registry.bundle import version_of
from registry.ledger import Kind, Line, Range
from registry.pointers import Trial

KINDS: dict[str, Kind] = {"PASS": "promote", "FAIL": "reject", "INCONCLUSIVE": "inconclusive"}
#: What closes a trial before its verdict.
Closing = Literal["superseded", "incumbent", "teacher", "alarm", "operator", "upgrade"]
#: Trials' ids begin with this; other lines of the ledger have ids of their own.
PREFIX = "t-"


class Trials:
    """The trials of one student.

    Args:
        observe_only: a PASS is written down, and nothing is promoted.
        learned_from: says which messages were read so far, for the line of what is cut now.
        teacher_away: whether what the teacher says is cut short now.
        now_ns: the time that trials bear; the stream's own where the loop is deterministic.
    """

    def __init__(
        self,
        progress: Progress,
        learner: Learner,
        office: ReleaseOffice,
        *,
        gate: GateSection,
        observe_only: bool,
        promise: Promise,
        slices: SliceShares,
        teacher_away: Callable[[], bool] = lambda: False,
        learned_from: Callable[[], Sequence[Range]] = tuple,
        now_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self._progress = progress
        self._learner = learner
        self._office = office
        self._gate = gate
        self._observe_only = observe_only
        self._promise = promise
        self._slices = slices
        self._teacher_away = teacher_away
        self._learned_from = learned_from
        self._now_ns = now_ns
        self._log = structlog.get_logger()

    def reconcile(self) -> None:
        """After a start or a fault: the ledger has the last word on what was decided, then the pointers are made to agree."""
        self.adopt_live()
        trial = self._progress.trial
        if trial is None:
            self._office.open_trial(None)
            return
        line = self._office.ledger.find(trial.identity.trial_id)
        if line is not None:
            self._settle(line)
        elif trial.identity.rule is None:
            self.close("upgrade", "a version that kept no rule opened it")
        elif not self._close_where_changed(trial):
            self._office.open_trial(_pointer(trial.identity))

    def adopt_live(self) -> None:
        """Make the version live that the ledger says."""
        self._progress.live = self._office.apply_ledger().live

    def was_tried(self, digest: str) -> bool:
        """Whether this candidate is on trial or has been."""
        open_trial = self._progress.trial
        if open_trial is not None and open_trial.identity.candidate == digest:
            return True
        return self._office.ledger.find(f"{PREFIX}{version_of(digest)}") is not None

    def is_overtaken(self, trial: TrialState) -> bool:
        """Whether the learner has overtaken the open trial's candidate by far."""
        duel = self._promise.duel(trial.identity.trial_id)
        return is_overtaken(trial.rule, trial.certain(), trial.num_answered, duel)

    def open(self, live: str, digest: str, rows: dict[str, Array], save: Callable[[], None]) -> None:
        """Open a trial; one that is open ends only now that nothing but these writes stands between it and its successor.

        Args:
            rows: held-out ones, from which the expected disagreement is read.
        """
        rule, share = self._rule(live, digest), self._share(live, digest, rows)
        if self._progress.trial is not None:
            self.close("superseded", "superseded: the learner has overtaken the candidate")
        identity = TrialIdentity(
            f"{PREFIX}{version_of(digest)}", live, digest, share, self._now_ns(), rule, self._learner.teacher_version
        )
        self._progress.trial = TrialState(identity)
        self._progress.learned_from = [one.model_dump() for one in self._learned_from()]
        try:
            save()
        except UnavailableError:
            self._progress.trial = None  # no pointer without a checkpoint that knows the trial
            raise
        self._office.open_trial(_pointer(identity))
        self._log.info("trial opened", trial_id=identity.trial_id, share=share, **_shown(rule))

    def close(self, why: Closing, reason: str) -> None:
        """End the open trial without a verdict, where there is one."""
        trial, decision = self._progress.trial, self.look()
        if trial is None or decision is None:
            return
        said = {"verdict": "INCONCLUSIVE", "final": True, "reason": reason, "closed": why}
        self._write("inconclusive", trial, {**self._evidence(trial, decision), **said})

    def close_decided(self) -> bool:
        """Look at the open trial's evidence; where it decides, write the decision and act on it. True where a trial ended."""
        trial = self._progress.trial
        if trial is None:
            TRIAL_LOG_EVIDENCE.set(0.0)
            return False
        if self._close_where_changed(trial):
            return True
        decision = self.look()
        assert decision is not None
        TRIAL_LOG_EVIDENCE.set(decision.log_e)
        if not decision.final:
            return False
        kind = "observe" if decision.verdict == "PASS" and self._observe_only else KINDS[decision.verdict]
        self._write(kind, trial, self._evidence(trial, decision))
        return True

    def look(self) -> Decision | None:
        """Return what the gate says of the open trial now, or None without one."""
        trial = self._progress.trial
        if trial is None:
            return None
        return decide(trial.rule, trial.tally(), dataclasses.replace(trial.wait, teacher_away=self._teacher_away()))

    def _close_where_changed(self, trial: TrialState) -> bool:
        """End a trial whose question is no longer the one that was asked: evidence of another pair of students, or of another teacher, says nothing."""
        teacher = self._learner.teacher_version
        if self._progress.live != trial.identity.incumbent:
            self.close("incumbent", "the incumbent changed")
        elif teacher and trial.teacher_version and teacher != trial.teacher_version:
            self.close("teacher", f"the teacher changed from {trial.teacher_version} to {teacher}")
        else:
            return False
        return True

    def _write(self, kind: Kind, trial: TrialState, evidence: dict[str, Any]) -> None:
        learned_from = tuple(map(Range.model_validate, self._progress.learned_from)) or None
        teacher = trial.teacher_version or self._learner.teacher_version or None
        line = self._office.decide(kind, _pointer(trial.identity), evidence, trial.rows(), learned_from, teacher)
        self._settle(line)
        VERDICTS.labels(str(evidence["verdict"])).inc()

    def _settle(self, line: Line) -> None:
        """Act on a decision that is in the ledger; may be repeated."""
        self.adopt_live()
        if line.kind == "promote":
            self._promise.promoted(line.trial_id, version_of(line.digest))
        self._office.close_trial(line.trial_id)
        self._progress.trial = None
        self._progress.last_verdict = {"kind": line.kind, "version": version_of(line.digest), **line.evidence}
        self._log.info(
            "trial decided",
            kind=line.kind,
            trial_id=line.trial_id,
            ledger_line=line.number,
            reason=line.evidence.get("reason"),
            lower_bound=line.evidence.get("lower_bound"),
        )

    def _evidence(self, trial: TrialState, decision: Decision) -> dict[str, Any]:
        """Return what the ledger line says: with the kept rows, all that judging again needs."""
        counts = trial.tally().overall
        return {
            **decision.as_evidence(),
            "alpha": trial.rule.alpha,
            "margin": trial.rule.margin,
            **dataclasses.asdict(counts),
            "share": trial.identity.share,
            "teacher_version": trial.teacher_version,
            "rule": dataclasses.asdict(trial.rule),
            "wait": dataclasses.asdict(dataclasses.replace(trial.wait, teacher_away=self._teacher_away())),
        }

    def _rule(self, incumbent: str, candidate: str) -> Rule:
        """Return the rule of a trial that is opened now."""
        gate = self._gate
        margin = max(gate.margin, gate.smaller_margin if self._is_smaller(incumbent, candidate) else 0.0)
        max_rows = gate.cap_of(margin)
        large, small = self._slices.split(max_rows, gate.slice_rows)
        tried = [line for line in self._office.ledger.lines() if line.trial_id.startswith(PREFIX)]
        num_tried = len(tried) + (self._progress.trial is not None)  # one that makes room has its line by then
        alpha = alpha_of_refresh(
            gate.error_rate,
            alpha=gate.alpha,
            fdr=gate.fdr,
            number=num_tried + 1,
            promotions=sum(line.kind in ("promote", "observe") for line in tried),
        )
        return Rule(
            alpha=alpha,
            margin=margin,
            min_gain=gate.min_gain,
            futility_evidence=gate.futility_evidence,
            max_rows=max_rows,
            max_pairs=gate.max_pairs,
            stalled_pairs=gate.stalled_pairs,
            slice_margin=gate.slice_margin,
            large_slices=large,
            small_slices=small,
            veto_evidence=gate.veto_evidence,
            brier_tolerance=gate.brier_tolerance,
        )

    def _is_smaller(self, incumbent: str, candidate: str) -> bool:
        sizes = [self._office.artifact(digest).num_bytes for digest in (incumbent, candidate)]
        return sizes[1] <= self._gate.smaller_ratio * sizes[0]

    def _share(self, incumbent: str, candidate: str, rows: dict[str, Array]) -> float:
        """Return the share of requests whose expected disagreement stays inside the trial's part of the teacher budget."""
        tops = [np.argmax(self._office.artifact(digest).logits(rows), axis=1) for digest in (incumbent, candidate)]
        disagreement = (int((tops[0] != tops[1]).sum()) + 1) / (len(tops[0]) + 2)
        return min(self._gate.max_share, self._gate.teacher_share / disagreement)


def _shown(rule: Rule) -> Mapping[str, Any]:
    """Return what a log line says of a rule."""
    return {"alpha": rule.alpha, "margin": rule.margin, "large_slices": list(rule.large_slices)}


def _pointer(identity: TrialIdentity) -> Trial:
    return Trial(
        trial_id=identity.trial_id,
        incumbent=identity.incumbent,
        candidate=identity.candidate,
        share=identity.share,
        opened_unix_s=identity.opened_unix_ns / 1e9,
    )
