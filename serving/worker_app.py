"""A worker's process: composes slot, loader, batcher and capture of each model, and one servicer behind the callers' port.

Started by the gateway's parent; follows the live versions that the parent names, and opens the port once it serves them; stops
gracefully when told to, or when the parent is gone. Imports no torch.
"""

import functools
import importlib.metadata
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import structlog

from protos.errors import EverstillError, TensorError
from protos.tensors import Array
from registry import logs
from registry.fetching import Policy
from registry.pointers import Trial
from registry.stopping import Stopping
from registry.store import open_store
from serving.config import ServingSettings
from serving.control_channel import ControlChannel
from serving.gateway.refusal import Refusal
from serving.gateway.server import CallersServer
from serving.gateway.servicer import OPERATORS_FIX, ServedModel, Servicer, Student, teacher_away
from serving.shadow.capture import Capture
from serving.shadow.ring import Ring
from serving.shadow.rings import folder_of, path_of
from serving.student.batcher import Batcher, DeadlinePassed
from serving.student.loader import CACHED_VERSIONS, Loader
from serving.student.session import InputRefused, OutOfMemory
from serving.student.slot import NoVersion, Slot
from serving.teacher.client import TeacherAnswer, TeacherClient, TeacherRefused, TeacherUnavailable, TimeTooShort


class ServedHere:
    """One model in this worker: everything between the callers' port and the ring."""

    def __init__(self, settings: ServingSettings, worker: int, num_models: int) -> None:
        gateway, name = settings.gateway, settings.model.name
        self.slot = Slot()
        self.ring = Ring(path_of(folder_of(settings.capture.dir, name), worker))
        self.capture = Capture(settings.capture, settings.teacher, settings.model, self.ring)
        batcher = Batcher(self.slot, max_batch=gateway.max_batch, model=name)
        self._loader = Loader(
            open_store(settings.registry.url),
            self.slot,
            settings.model,
            cache=settings.registry.cache,
            policy=Policy.of(settings.signing, settings.bundles),
            cached_versions=CACHED_VERSIONS * num_models,
            threads=gateway.intra_op_threads,
            drain_deadline_s=gateway.drain_deadline_s,
            recent_shapes=batcher.recent_shapes,
        )
        self._teacher = TeacherClient(settings.teacher) if gateway.pass_through else None
        student = Student(
            run=lambda inputs, deadline, extra: batcher.run(inputs, extra=extra, deadline=deadline),
            version=lambda: self.slot.version,
            no_answer=refusal_of,
        )
        self.served = ServedModel(
            settings.model,
            student,
            capture=self.capture.offer,
            feedback=self.capture.feedback,
            ask_teacher=self._ask_teacher if self._teacher else None,
            teacher_kind=settings.teacher.kind,
            no_teacher_answer=refusal_of_teacher,
        )

    def follow(self, wish: dict[str, Any], emit: Callable[..., None]) -> bool:
        """Serve the wished version and sample for the wished trial; returns whether the version serves, or none is wished."""
        trial = Trial.model_validate(wish["trial"]) if wish["trial"] else None
        digest, serves = wish["live"], True
        if digest is not None and digest != self.slot.digest:
            refused = self._loader.load(digest)
            if refused is None:
                emit("serving", version=self.slot.version, digest=digest)
            else:
                emit("refused", digest=digest, reason=refused)
                serves = False
        self.capture.set_trial(trial.trial_id if trial else "", trial.share if trial else 0.0)
        return serves

    def _ask_teacher(self, inputs: Mapping[str, Array], timeout_s: float) -> TeacherAnswer:
        assert self._teacher is not None
        return self._teacher.ask(inputs, timeout_s=timeout_s, attempts=1)


class Worker:
    """One worker: its models behind the callers' port.

    Args:
        number: from 0; it names the worker's rings.
        listen: addresses that the parent holds for the workers.
    """

    def __init__(self, models: Mapping[str, ServingSettings], number: int, listen: Sequence[str]) -> None:
        gateway = next(iter(models.values())).gateway
        self._listen = listen
        self._models = {name: ServedHere(settings, number, len(models)) for name, settings in models.items()}
        servicer = Servicer(
            {name: model.served for name, model in self._models.items()},
            refuse_nan=gateway.refuse_nan,
            max_message_bytes=gateway.max_message_bytes,
            max_rows=gateway.max_rows,
            server_version=importlib.metadata.version("everstill"),
        )
        self._server = CallersServer(gateway, servicer)
        self._listening = False
        self.failure: EverstillError | None = None

    def follow(self, wish: dict[str, Any], channel: ControlChannel, stop: Callable[[], None]) -> None:
        """Bring every model to where it is wished, then open the port if it isn't open.

        A worker that can't load what is live stays away from the port, unless the parent says that no other worker serves:
        it would answer UNAVAILABLE beside healthy ones.
        """
        ready = True
        for name, model in self._models.items():
            ready &= model.follow(wish["models"][name], functools.partial(channel.emit, model=name))
            self._server.tell_health()
        if not self._listening and (ready or wish["open"]):
            try:
                address = self._server.start(self._listen)
            except EverstillError as error:
                self.failure = error
                stop()
                return
            self._listening = True
            structlog.get_logger().info("worker started", address=address)
            channel.emit("listening", address=address)

    def stop(self, deadline_s: float) -> None:
        """Answer what is inside and close."""
        if self._listening:
            self._server.stop(deadline_s)
        for model in self._models.values():
            model.ring.close()


def main(models: Mapping[str, ServingSettings], number: int, listen: Sequence[str]) -> int:
    """Serve until told to stop; returns the exit code."""
    settings = next(iter(models.values()))
    gateway = settings.gateway
    logs.configure("worker" if gateway.workers == 1 else f"worker-{number}", settings.log)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides the order
    stopping = Stopping(signal.SIGTERM)
    if gateway.pin_workers:
        pin(number)
    worker = Worker(models, number, listen)
    channel = ControlChannel(lambda wish: worker.follow(wish, channel, stopping.tell), stopping.tell)
    channel.emit("started")
    channel.start()
    stopping.wait()
    worker.stop(gateway.drain_deadline_s)
    if worker.failure is not None:
        raise worker.failure
    structlog.get_logger().info("worker stopped")
    channel.emit("stopped")
    return 0


def pin(number: int) -> None:
    """Stay on one of the cores that this process may use, before any thread begins."""
    if not hasattr(os, "sched_setaffinity"):
        structlog.get_logger().warning("workers can't be pinned here: this system has no call for it")
        return
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[number % len(cores)]})


def refusal_of(error: EverstillError) -> Refusal:
    """What a caller is told when the student gave no answer."""
    if isinstance(error, NoVersion):
        return Refusal("UNAVAILABLE", "no_version", error.message, fix=error.fix)
    if isinstance(error, DeadlinePassed):
        return Refusal("DEADLINE_EXCEEDED", "deadline", error.message, fix=error.fix)
    if isinstance(error, TensorError):
        return Refusal("INVALID_ARGUMENT", error.reason, error.message, fix=error.fix)
    if isinstance(error, InputRefused):
        return Refusal("INVALID_ARGUMENT", "student_refused", error.message, fix=error.fix)
    if isinstance(error, OutOfMemory):
        return Refusal("RESOURCE_EXHAUSTED", "out_of_memory", error.message, fix=error.fix)
    structlog.get_logger().error("the student failed on a request", error=str(error))
    return Refusal("INTERNAL", "student_failed", "the student failed on this request; the gateway's log says why")


def refusal_of_teacher(error: EverstillError) -> Refusal:
    """What a caller is told when the teacher gave no answer; what the teacher said, and where it lives, is for the log."""
    if isinstance(error, TimeTooShort):
        return Refusal("DEADLINE_EXCEEDED", "deadline", error.message, fix=error.fix)
    log = structlog.get_logger()
    if isinstance(error, TeacherRefused):
        log.warning("the teacher didn't answer a caller's request", of_values=error.of_values, error=str(error))
        if error.of_values:
            message = "there is no student version yet and the teacher refuses these values"
            return Refusal("INVALID_ARGUMENT", "teacher_refused", message, fix="Send values that the model is made for")
        message = "there is no student version yet and the teacher's answer is not what this gateway is set up for"
        return Refusal("UNAVAILABLE", "teacher_wrong", message, fix=OPERATORS_FIX)
    if not isinstance(error, TeacherUnavailable) or error.attempts:  # an open breaker was told when it opened
        log.warning("the teacher is away", error=str(error))
    return teacher_away()
