"""The mirror's process: composes ring, budget, teacher client, spools, publisher and, for trials, the two students.

Started by the gateway's parent beside its workers; stops when told to, or when the parent is gone, after emptying the ring.
"""

import os
import signal
import threading
from collections.abc import Callable
from typing import Any

import structlog

from protos import records_pb2 as records
from protos.errors import EverstillError
from registry import logs
from registry.bundle import fetch_bundle
from registry.pointers import Trial
from registry.store import ObjectStore, open_store
from serving.config import ServingSettings
from serving.control_channel import ControlChannel
from serving.shadow.budget import Budget
from serving.shadow.mirror import Identity, Mirror
from serving.shadow.publisher import EmbeddedPublisher, Message
from serving.shadow.ring import RING_FILE, Ring
from serving.shadow.spool import Spool
from serving.shadow.trial import OpenTrial
from serving.student.session import StudentSession
from serving.teacher.client import TeacherClient
from serving.telemetry import DROPPED

KINDS = {"logits": records.OUTPUT_KIND_LOGITS, "probabilities": records.OUTPUT_KIND_PROBABILITIES}


def main(settings: ServingSettings) -> int:
    """Mirror until told to stop; returns the exit code."""
    logs.configure("mirror", settings.log)
    os.nice(settings.capture.mirror_nice)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides the order
    stopping = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopping.set())
    teacher = TeacherClient(settings.teacher)
    publisher = EmbeddedPublisher(settings.stream.path, retention_s=settings.stream.retention_s)
    mirror = _compose(settings, teacher, publisher)
    follower = TrialFollower(open_store(settings.registry.url), settings, mirror)
    channel = ControlChannel(lambda wish: _follow(follower, channel, wish), stopping.set)
    channel.start()
    channel.emit("started")
    mirror.run(stopping.is_set, stopping.wait)
    emptied = mirror.empty(settings.gateway.drain_deadline_s)
    structlog.get_logger().info("mirror stopped", ring_empty=emptied)
    teacher.close()
    publisher.close()
    channel.emit("stopped")
    return 0


def _compose(settings: ServingSettings, teacher: TeacherClient, publisher: EmbeddedPublisher) -> Mirror:
    ring = Ring(settings.capture.dir / RING_FILE)
    return Mirror(
        Identity(
            gateway=settings.gateway.id,
            model=settings.model.name,
            partitions=settings.stream.partitions,
            teacher_kind=KINDS[settings.teacher.kind],
            max_batch=settings.teacher.max_batch,
            report_interval_s=settings.capture.report_interval_s,
        ),
        ring,
        Budget(settings.teacher, ring),
        teacher,
        publisher,
        waiting_teacher=_spool(settings, "teacher", rows_of=lambda payload: 1),
        waiting_stream=_spool(settings, "stream", rows_of=lambda payload: Message.from_spool(payload).num_rows),
        breaker_open=lambda: teacher.breaker.is_open,
    )


def _spool(settings: ServingSettings, name: str, *, rows_of: Callable[[bytes], int]) -> Spool:
    """Each of the two spools has half of the bound."""

    def count_dropped(payloads: list[bytes], reason: str) -> None:
        DROPPED.labels("served", reason, settings.model.name).inc(sum(map(rows_of, payloads)))

    return Spool(
        settings.capture.dir / f"spool-{name}",
        max_bytes=settings.capture.spool_bytes // 2,
        retention_s=settings.capture.spool_retention_s,
        on_dropped=count_dropped,
    )


class TrialFollower:
    """Loads the two students of the trial that the registry names. The control channel's thread."""

    def __init__(self, store: ObjectStore, settings: ServingSettings, mirror: Mirror) -> None:
        self._store = store
        self._settings = settings
        self._mirror = mirror
        self._open = ""

    def follow(self, trial: Trial | None) -> None:
        """Run this trial, or none.

        Raises:
            EverstillError: one of its students can't be loaded; the trial gets no rows and stays inconclusive.
        """
        if (trial.trial_id if trial else "") == self._open:
            return
        self._mirror.set_trial(None)
        self._open = ""
        if trial is not None:
            incumbent, candidate = self._load(trial.incumbent), self._load(trial.candidate)
            whole = not self._settings.capture.redact
            self._mirror.set_trial(
                OpenTrial(trial.trial_id, incumbent, candidate, inputs_are_whole=whole, model=self._settings.model.name)
            )
            self._open = trial.trial_id
            structlog.get_logger().info("trial opened", trial_id=trial.trial_id, candidate=candidate.version)

    def _load(self, digest: str) -> StudentSession:
        bundle = fetch_bundle(self._store, digest, self._settings.registry.cache)
        return StudentSession.load(bundle, threads=self._settings.gateway.intra_op_threads)


def _follow(follower: TrialFollower, channel: ControlChannel, wish: dict[str, Any]) -> None:
    trial = Trial.model_validate(wish["trial"]) if wish["trial"] else None
    try:
        follower.follow(trial)
    except EverstillError as error:
        structlog.get_logger().error("trial can't be run", trial_id=wish["trial"]["trial_id"], error=str(error))
        channel.emit("refused", digest=wish["trial"]["candidate"], reason=f"trial: {error}")
