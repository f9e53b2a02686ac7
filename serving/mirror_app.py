"""The mirror's process: composes rings, budget, teacher client, spools, publisher and, for trials, the two students of each model.

Started by the gateway's parent beside its workers; stops when told to, or when the parent is gone, after emptying the rings. One
thread for each model; they share nothing but the stream's file. The control channel's thread loads the students of trials.
"""

import gc
import os
import signal
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import structlog

from protos.errors import EverstillError
from registry import logs
from registry.at_rest import AtRest, KeyMissing
from registry.bundle import BundleError
from registry.fetching import Policy, fetch_bundle
from registry.pointers import Trial
from registry.stopping import Stopping
from registry.store import ObjectStore, open_store
from serving.config import ServingSettings
from serving.control_channel import ControlChannel
from serving.shadow.asking import Asking
from serving.shadow.budget import Budget
from serving.shadow.capture import KINDS
from serving.shadow.journal import Journal
from serving.shadow.judging import Judging
from serving.shadow.message import Publisher
from serving.shadow.mirror import Identity, Mirror
from serving.shadow.placing import Placing
from serving.shadow.publishers import open_publisher
from serving.shadow.rings import Rings, folder_of
from serving.shadow.spool import Spool
from serving.shadow.trial import OpenTrial
from serving.student.loader import check_belongs
from serving.student.session import StudentError, StudentSession
from serving.teacher.client import TeacherClient
from serving.telemetry import REFUSED


class MirroredModel:
    """One model: its mirror with what it needs, in a thread of its own."""

    def __init__(self, settings: ServingSettings) -> None:
        self._teacher = TeacherClient(settings.teacher)
        self._publisher = open_publisher(settings.stream, settings.model.name)
        try:
            self.mirror = compose(settings, self._teacher, self._publisher)
        except KeyMissing:
            self._close()
            raise
        self.follower = TrialFollower(open_store(settings.registry.url), settings, self.mirror)
        self._drain_deadline_s = settings.gateway.drain_deadline_s
        self._log = structlog.get_logger(model=settings.model.name)

    def run(self, stopping: threading.Event) -> None:
        """Mirror until told to stop, then empty the rings."""
        self.mirror.run(stopping.is_set, stopping.wait)
        emptied = self.mirror.empty(self._drain_deadline_s)
        self._log.info("mirror stopped", ring_empty=emptied)
        self._close()

    def _close(self) -> None:
        self._teacher.close()
        self._publisher.close()


class Threads:
    """The models' threads. One that fails ends the process, which is started again: what it read is still in the rings."""

    def __init__(self, models: Mapping[str, MirroredModel], stopping: Stopping) -> None:
        self.failed = False
        self._stopping = stopping
        self._threads = [
            threading.Thread(target=self._run, args=(model,), name=f"mirror-{name}") for name, model in models.items()
        ]

    def run(self) -> None:
        """Run until told to stop, or until one fails."""
        for thread in self._threads:
            thread.start()
        self._stopping.wait()
        for thread in self._threads:
            thread.join()

    def _run(self, model: MirroredModel) -> None:
        try:
            model.run(self._stopping.event)
        except Exception:  # a supervision point: the process ends, so that the parent knows
            structlog.get_logger().exception("a mirror failed")
            self.failed = True
            self._stopping.tell()


def main(models: Mapping[str, ServingSettings]) -> int:
    """Mirror every model until told to stop; returns the exit code."""
    settings = next(iter(models.values()))
    logs.configure("mirror", settings.log)
    os.nice(settings.capture.mirror_nice)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides the order
    stopping = Stopping(signal.SIGTERM)
    mirrored = open_models(models)
    channel = ControlChannel(lambda wish: _follow(mirrored, channel, wish), stopping.tell)
    channel.start()
    channel.emit("started")
    # A step makes thousands of objects, none of them in circles, and lets them go at its end: the collector would walk over them again and again.
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
    threads = Threads(mirrored, stopping)
    threads.run()
    channel.emit("stopped")
    return 1 if threads.failed else 0


def open_models(models: Mapping[str, ServingSettings]) -> dict[str, MirroredModel]:
    """Return what mirrors each model, but those whose journal is sealed with a key that isn't configured.

    These wait, whole, for a gateway that is started with the key: their rings fill, and the workers drop and count.
    """
    mirrored = {}
    for name, settings in models.items():
        try:
            mirrored[name] = MirroredModel(settings)
        except KeyMissing as error:
            structlog.get_logger().error(
                "a model isn't mirrored until its key is configured", model=name, error=error.message, fix=error.fix
            )
    return mirrored


def compose(settings: ServingSettings, teacher: TeacherClient, publisher: Publisher) -> Mirror:
    """Return the mirror of one model."""
    model, capture = settings.model.name, settings.capture
    folder = folder_of(capture.dir, model)
    at_rest = AtRest.of(settings.at_rest)
    max_message_bytes = settings.stream.max_message_bytes

    def open_spool(name: str, position: Sequence[int] | None) -> Spool:
        return Spool(
            folder / f"spool-{name}",
            max_bytes=capture.spool_bytes // 2,  # each of the two has half of the bound
            retention_s=capture.spool_retention_s,
            position=position,
            at_rest=at_rest,
        )

    rings = Rings.open(folder)
    budget = Budget(settings.teacher, rings)
    return Mirror(
        Identity(
            gateway=settings.gateway.id,
            model=model,
            partitions=settings.stream.partitions,
            report_interval_s=capture.report_interval_s,
            max_message_bytes=max_message_bytes,
        ),
        rings,
        budget,
        Judging(budget, capture.key),
        Asking(
            teacher,
            budget,
            model=model,
            kind=KINDS[settings.teacher.kind],
            max_batch=settings.teacher.max_batch,
            breaker_open=lambda: teacher.breaker.is_open,
            breaker_spans=lambda: teacher.breaker.spans,
        ),
        Placing(model, rings, Journal(folder, at_rest), publisher, open_spool, max_message_bytes=max_message_bytes),
    )


class TrialFollower:
    """Loads the two students of the trial that the registry names. The control channel's thread."""

    def __init__(self, store: ObjectStore, settings: ServingSettings, mirror: Mirror) -> None:
        self._store = store
        self._settings = settings
        self._policy = Policy.of(settings.signing, settings.bundles)
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
                OpenTrial(
                    trial.trial_id,
                    incumbent,
                    candidate,
                    inputs_are_whole=whole,
                    model=self._settings.model.name,
                    rate=self._settings.capture.rate,
                    share=trial.share,
                )
            )
            self._open = trial.trial_id
            structlog.get_logger().info("trial opened", trial_id=trial.trial_id, candidate=candidate.version)

    def _load(self, digest: str) -> StudentSession:
        bundle = fetch_bundle(self._store, digest, self._settings.registry.cache, self._policy)
        check_belongs(bundle, self._settings.model)
        return StudentSession.load(bundle, threads=self._settings.gateway.intra_op_threads)


def _follow(mirrored: Mapping[str, MirroredModel], channel: ControlChannel, wish: dict[str, Any]) -> None:
    for name, model in mirrored.items():
        wished = wish["models"][name]["trial"]
        trial = Trial.model_validate(wished) if wished else None
        try:
            model.follower.follow(trial)
        except EverstillError as error:
            reason = error.reason if isinstance(error, BundleError | StudentError) else "unavailable"
            REFUSED.labels(reason, name).inc()
            structlog.get_logger().error(
                "trial can't be run", model=name, trial_id=wished["trial_id"], reason=reason, error=str(error)
            )
            channel.emit("refused", model=name, digest=wished["candidate"], reason=f"trial: {reason}: {error}")
