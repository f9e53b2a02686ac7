"""The callers' inference calls: a servicer converts in, asks the model that is named, converts out.

Decides statuses and what an answer carries. Refuses to know how a student runs, where samples go or what a teacher is: those
are callables from worker_app.py, one `ServedModel` for each model. Called by gRPC's threads. Refusals never reach a student;
nothing here waits for anything but the student (or, before the first version and where the configuration says so, the teacher).
"""

import dataclasses
import time
from collections.abc import Callable, Mapping
from typing import Literal, NoReturn, Protocol

import grpc
import structlog
from google.protobuf.message import DecodeError

from protos import inference_pb2 as pb
from protos.errors import EverstillError
from protos.records import mint_record_id
from protos.tensors import Array
from registry.config import ModelSection
from serving.gateway.refusal import Refusal
from serving.gateway.validation import check_inputs, check_version
from serving.rpc.convert import Parameter, infer_response, read_parameters
from serving.served import Served
from serving.telemetry import PASS_THROUGH_ROWS, REQUEST_SECONDS, REQUESTS, ROWS

#: What an answer's model_version says when the teacher gave it.
TEACHER_VERSION = "teacher"
#: Time that a pass-through call without a deadline may take, in seconds.
PASS_THROUGH_TIMEOUT_S = 10.0


class TeacherAnswer(Protocol):
    """What pass-through needs of a teacher's answer."""

    @property
    def output_BC(self) -> Array: ...
    @property
    def version(self) -> str: ...
    @property
    def latency_s(self) -> float: ...


class Oversize:
    """Stands for a request that is larger than allowed; it was not parsed."""

    def __init__(self, num_bytes: int) -> None:
        self.num_bytes = num_bytes


class Unreadable:
    """Stands for bytes that are not a request."""


Arrived = pb.ModelInferRequest | Oversize | Unreadable


@dataclasses.dataclass(frozen=True)
class Student:
    """How the servicer reaches a model's student.

    Args:
        run: (inputs, deadline on time.monotonic or None) -> (logits [batch, classes], version).
        version: the serving version's name, or None.
        no_answer: maps an error of `run` to a refusal.
    """

    run: Callable[[Mapping[str, Array], float | None], tuple[Array, str]]
    version: Callable[[], str | None]
    no_answer: Callable[[EverstillError], Refusal]


@dataclasses.dataclass(frozen=True)
class ServedModel:
    """One model of the gateway.

    Args:
        settings: its name and tensors.
        student: who answers.
        capture: told about every answered request; must neither raise nor wait.
        ask_teacher: (inputs, timeout_s) -> answer while there is no version, or None where that is off.
        teacher_kind: what the teacher's output is; callers get logits whoever answers.
    """

    settings: ModelSection
    student: Student
    capture: Callable[[Served], None]
    ask_teacher: Callable[[Mapping[str, Array], float], TeacherAnswer] | None = None
    teacher_kind: Literal["logits", "probabilities"] = "probabilities"

    @property
    def ready(self) -> bool:
        """Whether a good request for this model would be answered now."""
        return self.student.version() is not None or self.ask_teacher is not None


def find_model(models: Mapping[str, ServedModel], name: str) -> ServedModel:
    """Return the model of a name.

    Raises:
        Refusal: NOT_FOUND, with the names that are served.
    """
    model = models.get(name)
    if model is None:
        served = ", ".join(map(repr, models))
        raise Refusal("NOT_FOUND", "unknown_model", f"unknown model {name[:64]!r}", fix=f"This gateway serves {served}")
    return model


class Servicer:
    """Answers inference calls for several models, each by its name."""

    def __init__(
        self, models: Mapping[str, ServedModel], *, refuse_nan: bool, max_message_bytes: int, server_version: str
    ) -> None:
        self.models = models
        self.server_version = server_version
        self._refuse_nan = refuse_nan
        self._max_message_bytes = max_message_bytes
        self._log = structlog.get_logger()

    @property
    def ready(self) -> bool:
        """Whether every model answers requests."""
        return all(model.ready for model in self.models.values())

    def read_infer_request(self, data: bytes) -> Arrived:
        """Parse a request, unless it is too large to."""
        if len(data) > self._max_message_bytes:
            return Oversize(len(data))
        try:
            return pb.ModelInferRequest.FromString(data)
        except DecodeError:
            return Unreadable()

    def model_infer(self, request: Arrived, context: grpc.ServicerContext) -> pb.ModelInferResponse:
        """Answer a request from the student."""
        start = time.perf_counter()
        name = self._counted_as(request)
        try:
            response = self._infer(request, context)
        except Refusal as refusal:
            refuse(refusal, context, name)
        except Exception:  # a supervision point: the caller gets a status, never a traceback, and the process lives
            REQUESTS.labels("INTERNAL", "bug", name).inc()
            self._log.exception("a request failed unexpectedly")
            context.abort(grpc.StatusCode.INTERNAL, "this gateway failed on the request; its log says why")
        REQUESTS.labels("OK", "", name).inc()
        REQUEST_SECONDS.labels(name).observe(time.perf_counter() - start)
        return response

    def _counted_as(self, request: Arrived) -> str:
        """Return the model that a call counts for: none where it names none that is served, lest callers make up names."""
        name = request.model_name if isinstance(request, pb.ModelInferRequest) else ""
        return name if name in self.models else ""

    def refuse_overload(self, num_inside: int, context: grpc.ServicerContext) -> NoReturn:
        """Refuse a call that is one too many; it was not read."""
        message = f"{num_inside} requests are running or waiting already"
        refuse(Refusal("RESOURCE_EXHAUSTED", "overload", message, fix="Send fewer at once, or later"), context)

    def refuse_stopping(self, context: grpc.ServicerContext) -> NoReturn:
        """Refuse a call that came after the word to stop; it was not read."""
        refusal = Refusal("UNAVAILABLE", "stopping", "this gateway is stopping", fix="Try again, there or elsewhere")
        refuse(refusal, context)

    def _infer(self, request: Arrived, context: grpc.ServicerContext) -> pb.ModelInferResponse:
        if isinstance(request, Oversize):
            limit = self._max_message_bytes
            raise Refusal(
                "RESOURCE_EXHAUSTED",
                "oversize",
                f"the request has {request.num_bytes} bytes",
                fix=f"Send at most {limit}",
            )
        if isinstance(request, Unreadable):
            raise Refusal(
                "INVALID_ARGUMENT", "unreadable", "the message is not a ModelInferRequest", fix="Send protobuf"
            )
        remaining_s = context.time_remaining()
        if remaining_s is not None and remaining_s <= 0:
            raise Refusal(
                "DEADLINE_EXCEEDED",
                "deadline",
                "the deadline passed before the request was read",
                fix="Allow more time",
            )
        model = find_model(self.models, request.model_name)
        live = model.student.version()
        check_version(live, request.model_version)
        inputs = check_inputs(model.settings, request, refuse_nan=self._refuse_nan)
        record_id = mint_record_id()
        parameters = read_parameters(request.parameters)
        if live is None and model.ask_teacher is not None:
            served = self._pass_through(model, inputs, record_id, parameters, remaining_s)
        else:
            served = self._run_student(model, inputs, record_id, parameters, remaining_s)
        check_version(served.version, request.model_version)  # a swap may have come between
        output_BC = served.teacher_output_BC if served.logits_BC is None else served.logits_BC
        assert output_BC is not None
        version = served.version or TEACHER_VERSION
        response = infer_response(
            model.settings.name,
            version,
            {model.settings.output: output_BC},
            request_id=request.id,
            parameters={"record_id": record_id.hex()},
        )
        ROWS.labels(version, model.settings.name).inc(len(output_BC))
        model.capture(served)
        return response

    def _run_student(
        self,
        model: ServedModel,
        inputs: Mapping[str, Array],
        record_id: bytes,
        parameters: Mapping[str, Parameter],
        remaining_s: float | None,
    ) -> Served:
        start = time.perf_counter()
        deadline = None if remaining_s is None else time.monotonic() + remaining_s
        try:
            logits_BC, version = model.student.run(inputs, deadline)
        except EverstillError as error:
            raise model.student.no_answer(error) from None
        latency_s = time.perf_counter() - start
        return Served(record_id, inputs, version, logits_BC, latency_s, None, "", 0.0, parameters)

    def _pass_through(
        self,
        model: ServedModel,
        inputs: Mapping[str, Array],
        record_id: bytes,
        parameters: Mapping[str, Parameter],
        remaining_s: float | None,
    ) -> Served:
        assert model.ask_teacher is not None
        PASS_THROUGH_ROWS.labels(model.settings.name).inc(len(next(iter(inputs.values()))))
        timeout_s = PASS_THROUGH_TIMEOUT_S if remaining_s is None else min(remaining_s, PASS_THROUGH_TIMEOUT_S)
        try:
            answer = model.ask_teacher(inputs, timeout_s)
        except EverstillError as error:
            raise Refusal(
                "UNAVAILABLE", "teacher_away", f"there is no student version yet and {error.message}", fix="Try again"
            ) from None
        return Served(record_id, inputs, "", None, 0.0, answer.output_BC, answer.version, answer.latency_s, parameters)


def refuse(refusal: Refusal, context: grpc.ServicerContext, model: str = "") -> NoReturn:
    """End the call, and count it for its model."""
    REQUESTS.labels(refusal.code, refusal.reason, model).inc()
    abort(refusal, context)


def abort(refusal: Refusal, context: grpc.ServicerContext) -> NoReturn:
    """End the call with the refusal's status; gRPC's abort raises."""
    context.abort(getattr(grpc.StatusCode, refusal.code), str(refusal))
    raise AssertionError("abort returned")
