"""A worker's process: composes slot, loader, batcher, servicer and capture behind the callers' port.

Started by the gateway's parent; follows the live version that the parent names; stops gracefully when told to, or when the
parent is gone. Imports no torch.
"""

import importlib.metadata
import signal
import threading
from collections.abc import Mapping
from typing import Any

import structlog

from protos.errors import EverstillError, TensorError
from protos.tensors import Array
from registry import logs
from registry.pointers import Trial
from registry.store import open_store
from serving.config import ServingSettings
from serving.control_channel import ControlChannel
from serving.gateway.refusal import Refusal
from serving.gateway.server import CallersServer
from serving.gateway.servicer import ServedModel, Servicer, Student
from serving.shadow.capture import Capture
from serving.shadow.ring import RING_FILE, Ring
from serving.student.batcher import Batcher, DeadlinePassed
from serving.student.loader import Loader
from serving.student.session import InputRefused, OutOfMemory
from serving.student.slot import NoVersion, Slot
from serving.teacher.client import TeacherAnswer, TeacherClient

#: How often the main thread wakes up, in seconds: Python runs signal handlers only there.
WAKE_S = 1.0


class Worker:
    """One worker: everything between the callers' port and the ring."""

    def __init__(self, settings: ServingSettings) -> None:
        gateway = settings.gateway
        self.slot = Slot()
        self.ring = Ring(settings.capture.dir / RING_FILE)
        self.capture = Capture(settings.capture, settings.teacher, settings.model, self.ring)
        batcher = Batcher(self.slot, max_batch=gateway.max_batch, model=settings.model.name)
        self.loader = Loader(
            open_store(settings.registry.url),
            self.slot,
            settings.model,
            cache=settings.registry.cache,
            threads=gateway.intra_op_threads,
            drain_deadline_s=gateway.drain_deadline_s,
            recent_shapes=batcher.recent_shapes,
        )
        self.teacher = TeacherClient(settings.teacher) if gateway.pass_through else None
        student = Student(
            run=lambda inputs, deadline, extra: batcher.run(inputs, extra=extra, deadline=deadline),
            version=lambda: self.slot.version,
            no_answer=refusal_of,
        )
        model = ServedModel(
            settings.model,
            student,
            capture=self.capture.offer,
            ask_teacher=self._ask_teacher if self.teacher else None,
            teacher_kind=settings.teacher.kind,
        )
        servicer = Servicer(
            {settings.model.name: model},
            refuse_nan=gateway.refuse_nan,
            max_message_bytes=gateway.max_message_bytes,
            server_version=importlib.metadata.version("everstill"),
        )
        self.server = CallersServer(gateway, servicer)

    def follow(self, wish: dict[str, Any], channel: ControlChannel) -> None:
        """Serve the wished version and sample for the wished trial; tell the parent what became of it."""
        trial = Trial.model_validate(wish["trial"]) if wish["trial"] else None
        digest = wish["live"]
        if digest is not None and digest != self.slot.digest:
            refused = self.loader.load(digest)
            if refused is None:
                channel.emit("serving", version=self.slot.version, digest=digest)
            else:
                channel.emit("refused", digest=digest, reason=refused)
            self.server.tell_health()
        self.capture.set_trial(trial.trial_id if trial else "", trial.share if trial else 0.0)

    def _ask_teacher(self, inputs: Mapping[str, Array], timeout_s: float) -> TeacherAnswer:
        assert self.teacher is not None
        return self.teacher.ask(inputs, timeout_s=timeout_s, attempts=1)


def main(settings: ServingSettings) -> int:
    """Serve until told to stop; returns the exit code."""
    logs.configure("worker", settings.log)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides the order
    stopping = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopping.set())
    worker = Worker(settings)
    channel = ControlChannel(lambda wish: worker.follow(wish, channel), stopping.set)
    address = worker.server.start()
    structlog.get_logger().info("worker started", address=address)
    channel.emit("started", address=address)
    channel.start()
    while not stopping.wait(WAKE_S):
        pass  # a signal that another thread received is seen here, at the latest
    worker.server.stop(settings.gateway.drain_deadline_s)
    worker.ring.close()
    structlog.get_logger().info("worker stopped")
    channel.emit("stopped")
    return 0


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
