"""What a loop says of itself: its status object and its gauges.

Decides nothing; it reads what the loop's parts know, and does the sums of the accounts: what the stream took is what became of it. The process calls
it once a turn. One thread.
"""

import dataclasses
import os
import time
from typing import Any

from distill_loop.desk import Desk
from distill_loop.gates.agreement import ProgressiveAgreement
from distill_loop.labels import Labels
from distill_loop.learner.step import Learner
from distill_loop.progress import Progress
from distill_loop.release.office import ReleaseOffice
from distill_loop.stream.consumer import Consumer
from distill_loop.stream.reports import Reports
from distill_loop.telemetry import AGREEMENT, BREAKER_OPEN, LAG, OLDEST_WAITING, SPOILT_STEPS, STALENESS
from protos.errors import UnavailableError
from protos.topics import LABELS, PAIRS, REPORTS
from registry.bundle import version_of
from registry.status import write_status
from registry.store import ObjectStore
from registry.witnesses import seen

FATES = ("read", "learned", "held_out", "repeats", "dead", "refused")


class Telling:
    """Writes the status object of one model's loop.

    Args:
        epoch: of the lease.
        every_s: time between two status objects.
    """

    def __init__(
        self,
        store: ObjectStore,
        model: str,
        progress: Progress,
        learner: Learner,
        agreement: ProgressiveAgreement,
        desk: Desk,
        office: ReleaseOffice,
        consumer: Consumer,
        reports: Reports,
        labels: Labels,
        *,
        epoch: int,
        every_s: float,
    ) -> None:
        self._store = store
        self._model = model
        self._progress = progress
        self._learner = learner
        self._agreement = agreement
        self._desk = desk
        self._office = office
        self._consumer = consumer
        self._reports = reports
        self._labels = labels
        self._epoch = epoch
        self._every_s = every_s
        self._told_at = 0.0

    def tell(self, *, stopped: bool = False) -> None:
        """Write the status object and set the gauges when it is time to; raises UnavailableError where the store is away.

        Where the stream is away, it says that.
        """
        if not stopped and time.monotonic() - self._told_at < self._every_s:
            return
        self._told_at = time.monotonic()
        progress, learner = self._progress, self._learner
        estimate, staleness_s = self._agreement.estimate(), self._staleness_s()
        lag, waiting_s, away = None, None, ""
        try:
            lag, waiting_s = self._consumer.lag(), self._oldest_waiting_s()
        except UnavailableError as error:
            away = str(error)
        else:
            LAG.set(lag)
            OLDEST_WAITING.set(waiting_s or 0.0)
        STALENESS.set(staleness_s or 0.0)
        SPOILT_STEPS.set(learner.num_spoilt_steps)
        BREAKER_OPEN.set(self._reports.breakers.open_s)
        if estimate:
            for bound in ("estimate", "low", "high"):
                AGREEMENT.labels(bound).set(getattr(estimate, bound))
        body: dict[str, Any] = {
            "process": "loop",
            "stopped": stopped,
            "pid": os.getpid(),
            "epoch": self._epoch,
            "ledger": seen(self._office.tip),
            "live": version_of(progress.live) if progress.live else None,
            "pairs": {name: getattr(progress, name) for name in FATES},
            "accounts": accounts_of(progress, self._reports),
            "capture": self._reports.strata(),
            "breaker": {"open_s": self._reports.breakers.open_s, "open_now": self._reports.breakers.open_now},
            "gaps": sum(num for kind, num in progress.gaps.items() if kind != REPORTS),
            "lag": lag,
            "away": away,
            "oldest_waiting_s": waiting_s,
            "staleness_s": staleness_s,
            "steps": learner.num_steps,
            "steps_due": progress.steps_due,
            "spoilt_steps": learner.num_spoilt_steps,
            "student": learner.student.name,
            "agreement": vars(estimate) if estimate else None,
            "labels": self._labels.status(accepted=self._reports.accepted().get(LABELS)),
            "trial": self._trial(),
            "last_cut": progress.last_cut,
            "last_verdict": progress.last_verdict,
        }
        write_status(self._store, self._model, "loop", body)

    def _oldest_waiting_s(self) -> float | None:
        """Return how long the oldest message that wasn't read yet has waited on the stream; None where none waits."""
        taken = self._consumer.oldest_waiting_unix_ns()
        return None if taken is None else max(0.0, time.time() - taken / 1e9)

    def _staleness_s(self) -> float | None:
        """Return the age of the newest pair that the live version knows; None before the first."""
        newest = self._office.newest_pair_unix_s(self._progress.live) if self._progress.live else 0.0
        return max(0.0, time.time() - newest) if newest else None

    def _trial(self) -> dict[str, Any] | None:
        trial, decision = self._progress.trial, self._desk.trials.look()
        if trial is None or decision is None:
            return None
        identity, counts = trial.identity, trial.tally().overall
        return {
            "trial_id": identity.trial_id,
            "candidate": version_of(identity.candidate),
            "incumbent": version_of(identity.incumbent),
            "share": identity.share,
            "alpha": trial.rule.alpha,
            "margin": trial.rule.margin,
            **dataclasses.asdict(counts),
            "reason": decision.reason,
            "log_e": decision.log_e,
            "criteria": [one.words for one in decision.criteria],
            "requests_needed": decision.requests_needed,
        }


def accounts_of(progress: Progress, reports: Reports) -> dict[str, Any]:
    """Return what became of the pairs that the stream took, beside what reports say that it took.

    What was taken from the stream is what was read: those two the loop counts itself, and they are equal. What mirrors say is beside them: `open`, what
    they had accepted and the loop has not read, waits or was removed by retention; `unconfirmed`, what the loop has read and no mirror knows of. Of the two
    one is 0: they are a difference. Reports come a moment after what they speak of, so pairs that just arrived are unconfirmed; those stay so that the
    stream took from a mirror that was killed, or cut off, before it heard. None where no report says what was accepted.
    """
    accepted = reports.accepted().get(PAIRS)
    ahead = None if accepted is None else accepted + progress.replayed - progress.read
    return {
        "accepted": accepted,
        "replayed": progress.replayed,
        "taken": progress.taken,
        "read": progress.read,
        "open": None if ahead is None else max(0, ahead),
        "unconfirmed": None if ahead is None else max(0, -ahead),
        "gap_messages": dict(progress.gaps),
        "trial_rows": progress.trial_rows,
        "dead_messages_of_others": dict(progress.dead_others),
        "reported_unix_s": reports.newest_unix_ns / 1e9,
    }
