"""The books of a rig at rest, read by nobody's word: what callers were answered, what lies on the topics, what the loop remembers.

Which rows were sampled is computed from the ids in the callers' answers (the sampler's coin is a function of the id), the topics are read with bare
kafka-python from their beginning, and what the loop learned is in its checkpoint. Decides what must agree (the equations of docs/architecture.md,
"Accounting") of pairs; of feedback and of a trial labels.py and trials.py do. Reads, changes nothing.
"""

import collections
import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
from kafka import KafkaConsumer, TopicPartition

from benchmarks.chaos import labels, trials
from benchmarks.chaos.callers import Records
from benchmarks.chaos.labels import LabelBooks
from benchmarks.chaos.rig import Rig
from benchmarks.chaos.trials import TrialBooks
from benchmarks.harness import Check
from benchmarks.pairs import MODEL
from benchmarks.processes import wait_until
from distill_loop.gates.trial import TrialState
from distill_loop.progress import Progress
from distill_loop.stream.dedupe import Dedupe
from distill_loop.stream.reports import Reports
from distill_loop.telling import accounts_of
from protos import records_pb2 as records
from protos.records import ARM_UNIFORM, ID_BYTES, coin
from protos.topics import LABELS, PAIRS, REPORTS, TRIALS, topic
from serving.config import CaptureSection
from serving.shadow.journal import Journal

MAX_RECORDS = 10**7
CLOSE_S = 30.0


def read_topic(bootstrap: str, kind: str) -> Iterator[bytes]:
    """Yield every message of a topic of the model, from its beginning to where it ends now."""
    consumer = KafkaConsumer(bootstrap_servers=bootstrap, enable_auto_commit=False, auto_offset_reset="earliest")
    try:
        name = topic(MODEL, kind)
        places = [TopicPartition(name, number) for number in sorted(consumer.partitions_for_topic(name) or ())]
        consumer.assign(places)
        ends = consumer.end_offsets(places)
        consumer.seek_to_beginning(*places)
        while any(consumer.position(place) < end for place, end in ends.items()):
            for found in consumer.poll(500).values():
                yield from (message.value for message in found)
    finally:
        consumer.close()


@dataclasses.dataclass(frozen=True)
class Shadow:
    """What mirror and workers say of themselves, in rows."""

    sampled: int
    published: int
    missing: int
    pending: int
    spooled: int
    dropped: int
    gaps: int

    @property
    def closes(self) -> bool:
        """Equation A."""
        return self.sampled == self.published + self.missing + self.pending + self.spooled + self.dropped + self.gaps


def shadow_of(reports: list[records.CaptureReport]) -> list[Shadow]:
    """Return what each report of a mirror says, in their order, with the gaps of the workers' reports before it."""
    gaps: dict[int, int] = {}
    told = []
    for report in reports:
        if not report.mirror:
            gaps[report.worker] = report.gaps
            continue
        sums = {
            name: sum(getattr(one, name) for one in report.strata)
            for name in Shadow.__dataclass_fields__
            if name != "gaps"
        }
        told.append(Shadow(**sums, gaps=report.gaps or sum(gaps.values())))
    return told


@dataclasses.dataclass(frozen=True)
class Books:
    """Everything that was read. sampled: ids that the coin took; on_topic: how often each id lies there; trial: None where none is to be open."""

    calls: Records
    sampled: frozenset[str]
    on_topic: dict[str, int]
    shadow: list[Shadow]
    learned: frozenset[str]
    held_out: frozenset[str]
    counted: dict[str, int]
    labels: LabelBooks
    trial: TrialBooks | None = None

    def figures(self) -> dict[str, float]:
        """Return what a result shows."""
        last = self.shadow[-1] if self.shadow else None
        return {
            "requests": len(self.calls),
            "rows_sampled": len(self.sampled),
            "pairs_on_topic": sum(self.on_topic.values()),
            "repeats_on_topic": sum(self.on_topic.values()) - len(self.on_topic),
            "pairs_learned": len(self.learned),
            "pairs_held_out": len(self.held_out),
            "rows_missing": last.missing if last else 0,
            "rows_dropped": last.dropped if last else 0,
            "mirror_reports": len(self.shadow),
            **self.labels.figures(),
            **(self.trial.figures() if self.trial else {}),
        }

    def checks(self) -> list[Check]:
        """Return what must hold."""
        last = self.shadow[-1] if self.shadow else Shadow(*[0] * 7)
        lost = last.missing + last.dropped + last.gaps
        counted = self.counted
        kept = counted["learned"] + counted["held_out"]
        passed = kept + counted["repeats"] + counted["dead"] + counted["refused"] + counted["gaps"]
        dead = len(self.on_topic) - len(self.learned | self.held_out)
        return [
            Check("mirror_reports", len(self.shadow), ">=", 1),
            Check("failed_requests", int((self.calls["code"] != "OK").sum()), "==", 0),
            Check("reports_in_which_equation_a_is_open", sum(not one.closes for one in self.shadow), "==", 0),
            Check("rows_sampled_reported_less_computed", last.sampled - len(self.sampled), "==", 0),
            Check("rows_on_topic_that_nobody_sampled", len(self.on_topic.keys() - self.sampled), "==", 0),
            Check("rows_sampled_that_nobody_accounts_for", len(self.sampled - self.on_topic.keys()) - lost, "==", 0),
            Check("pairs_on_topic_less_counted_by_the_loop", sum(self.on_topic.values()) - passed, "==", 0),
            Check("pairs_on_topic_less_taken_by_the_status", sum(self.on_topic.values()) - counted["taken"] - counted["gaps"], "==", 0),
            Check("pairs_open_in_the_status", counted["open"], "==", 0),
            Check("pairs_on_topic_that_were_not_learned", dead - counted["dead"], "==", 0),
            Check("pairs_learned_that_are_not_on_topic", len((self.learned | self.held_out) - self.on_topic.keys()), "==", 0),
            Check("pairs_learned_twice", kept - len(self.learned | self.held_out), "==", 0),
            *self.labels.checks(),
            *(self.trial.checks() if self.trial else []),
        ]  # fmt: skip

    @property
    def close(self) -> bool:
        """Whether all holds."""
        return bool(self.shadow) and all(check.holds for check in self.checks())


def read_books(rig: Rig) -> Books:
    """Read the books of a rig at rest, once its last reports and its last checkpoint have come; as they are, where they never close."""
    found: list[Books] = []

    def closed() -> bool:
        found[:] = [_read(rig)]
        return found[0].close

    with contextlib.suppress(TimeoutError):
        wait_until(closed, "the books to close", deadline_s=CLOSE_S, every_s=0.5)
    return found[0]


def _read(rig: Rig) -> Books:
    calls = np.concatenate(rig.calls)
    key = CaptureSection().key
    ids = (one.decode() for one in calls["record_id"][calls["code"] == "OK"])
    state = rig.loop.checkpoint()
    progress = state.get("progress", {})
    trial = progress.get("trial") or {}
    trial_id = trial["identity"]["trial_id"] if trial else ""
    on_topic: collections.Counter[str] = collections.Counter()
    answers: dict[str, str] = {}
    for value in read_topic(rig.cluster.bootstrap, PAIRS):
        batch = records.PairBatch.FromString(value)
        on_topic.update(pair.record_id.hex() for pair in batch.pairs)
        answers.update(trials.answers_in(batch, trial_id))
    reports = [records.CaptureReport.FromString(value) for value in read_topic(rig.cluster.bootstrap, REPORTS)]
    dedupe = Dedupe(MAX_RECORDS)
    if state:
        dedupe.load_state_dict(state["dedupe"])
    learned, held_out = (frozenset(one.hex() for one in dedupe.records(fate)) for fate in ("learned", "held_out"))
    names = ("learned", "held_out", "repeats", "dead", "refused")
    accounts = _accounts(state)
    return Books(
        calls=calls,
        sampled=frozenset(one for one in ids if coin(key, ARM_UNIFORM, bytes.fromhex(one)) < rig.plan.sampling),
        on_topic=dict(on_topic),
        shadow=shadow_of(reports),
        learned=learned,
        held_out=held_out,
        counted={name: progress.get(name, 0) for name in names}
        | {"gaps": progress.get("gaps", {}).get(PAIRS, 0), "taken": accounts["taken"], "open": accounts["open"] or 0},
        labels=_read_labels(rig, state, learned | held_out),
        trial=_read_trial(rig, trial, answers, progress.get("trial_rows", 0)) if rig.plan.trial else None,
    )


def _read_labels(rig: Rig, state: dict[str, Any], kept: frozenset[str]) -> LabelBooks:
    on_topic: collections.Counter[str] = collections.Counter()
    for value in read_topic(rig.cluster.bootstrap, LABELS):
        on_topic.update(one.record_id.hex() for one in records.LabelBatch.FromString(value).labels)
    progress = state.get("progress", {})
    journal = Journal(rig.capture_folder)  # as the next mirror would find it
    journal.close()
    return LabelBooks(
        sent=np.concatenate(rig.feedback),
        on_topic=dict(on_topic),
        kept=kept,
        counted=labels.counted_of(state["labels"], ID_BYTES) if state else {},
        removed=sum(progress.get(name, {}).get(LABELS, 0) for name in ("dead_others", "gaps")),
        lost=labels.lost_of(journal.state) if journal.state else 0,
    )


def _read_trial(rig: Rig, trial: dict[str, Any], answers: dict[str, str], rows_read: int) -> TrialBooks:
    if not trial:
        return trials.NONE
    gate = TrialState.from_state_dict(trial)
    identity, told = gate.identity, gate.cautious()
    return TrialBooks(
        opened_unix_ns=identity.opened_unix_ns,
        on_topic=[
            row
            for value in read_topic(rig.cluster.bootstrap, TRIALS)
            for row in trials.rows_in(value, identity.trial_id)
        ],
        answers=answers,
        counted=trials.counted_of(gate.rows()),
        told=(told.wins, told.losses, told.total),
        rows_read=rows_read,
    )


def _accounts(state: dict[str, Any]) -> dict[str, Any]:
    """Return the accounts that a loop with this checkpoint tells in its status object."""
    progress, reports = Progress(), Reports()
    if state:
        progress.load_state_dict(state["progress"])
        reports.load_state_dict(state["reports"])
    return accounts_of(progress, reports)
