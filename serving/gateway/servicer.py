"""The callers' inference calls: a servicer converts in, asks the model that is named, converts out.

Decides statuses and what an answer carries. Refuses to know how a student runs, where samples go or what a teacher is: those
are callables from worker_app.py, one `ServedModel` for each model. Called by gRPC's threads. Refusals never reach a student;
nothing here waits for anything but the student (or, before the first version and where the configuration says so, the teacher).
"""

import dataclasses
import functools
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, NoReturn, Protocol

import grpc
import numpy as np
import structlog
from google.protobuf.message import DecodeError
from prometheus_client import Counter, Histogram

from protos import inference_pb2 as pb
from protos.errors import EverstillError
from protos.records import mint_record_id
from protos.tensors import Array, quoted
from registry.sections import ModelSection
from serving.gateway import validation
from serving.gateway.refusal import Refusal
from serving.rpc.convert import Parameter, infer_response
from serving.served import Served, StudentAnswer, Truth
from serving.telemetry import PASS_THROUGH_ROWS, REQUEST_SECONDS, REQUESTS, ROWS

#: What an answer's model_version says when the teacher gave it.
TEACHER_VERSION = "teacher"
#: Time that a pass-through call without a deadline may take, in seconds.
PASS_THROUGH_TIMEOUT_S = 10.0
#: What mends `teacher_wrong`: nothing that a caller can send.
OPERATORS_FIX = "Whoever runs this gateway must correct [teacher] or [model] in its configuration"
#: A probability below this counts as this much when it becomes a logit.
LEAST_PROBABILITY = 1e-12


@functools.lru_cache(1024)  # finding a metric by its labels costs as much as reading a request
def _metrics_of(model: str, version: str) -> tuple[Counter, Histogram, Counter]:
    """Return what is counted and observed for an answer: requests, seconds, rows."""
    return REQUESTS.labels("OK", "", model), REQUEST_SECONDS.labels(model), ROWS.labels(version, model)


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
        run: (inputs, deadline on time.monotonic or None, names of further outputs) -> answer.
        version: the serving version's name, or None.
        no_answer: maps an error of `run` to a refusal.
    """

    run: Callable[[Mapping[str, Array], float | None, Sequence[str]], StudentAnswer]
    version: Callable[[], str | None]
    no_answer: Callable[[EverstillError], Refusal]


@dataclasses.dataclass(frozen=True)
class ServedModel:
    """One model of the gateway.

    Args:
        settings: its name and tensors.
        student: who answers.
        capture: told about every answered request; must neither raise nor wait.
        feedback: hands over what was true of a row; False where there is no room. Must not wait.
        ask_teacher: (inputs, timeout_s) -> answer while there is no version, or None where that is off.
        teacher_kind: what the teacher's output is; callers get logits whoever answers.
        no_teacher_answer: maps an error of `ask_teacher` to a refusal, which quotes nothing that the teacher said.
    """

    settings: ModelSection
    student: Student
    capture: Callable[[Served], None]
    feedback: Callable[[Truth], bool]
    ask_teacher: Callable[[Mapping[str, Array], float], TeacherAnswer] | None = None
    teacher_kind: Literal["logits", "probabilities"] = "probabilities"
    no_teacher_answer: Callable[[EverstillError], Refusal] = lambda error: teacher_away()

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
        raise Refusal(
            "NOT_FOUND", "unknown_model", f"unknown model {quoted(name)}", fix=f"This gateway serves {served}"
        )
    return model


class Servicer:
    """Answers inference requests for several models, each by its name."""

    def __init__(
        self,
        models: Mapping[str, ServedModel],
        *,
        refuse_nan: bool,
        max_message_bytes: int,
        max_rows: int,
        server_version: str,
    ) -> None:
        self.models = models
        self.server_version = server_version
        self._refuse_nan = refuse_nan
        self._max_message_bytes = max_message_bytes
        self._max_rows = max_rows
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
        outcome = self.respond(request, context.time_remaining())
        if isinstance(outcome, Refusal):
            abort(outcome, context)
        return outcome

    def respond(self, request: Arrived, remaining_s: float | None) -> pb.ModelInferResponse | Refusal:
        """Return a request's answer, or why there is none; either is counted."""
        start = time.perf_counter()
        name = self._counted_as(request)
        try:
            response = self._answer(request, remaining_s)
        except Refusal as refusal:
            return counted(refusal, name)
        except MemoryError:
            message = "this gateway has no memory for the request"
            return counted(
                Refusal("RESOURCE_EXHAUSTED", "out_of_memory", message, fix="Send fewer rows in a request"), name
            )
        except Exception:  # a supervision point: the caller gets a status, never a traceback, and the process lives
            self._log.exception("a request failed unexpectedly")
            message = "this gateway failed on the request; its log says why"
            return counted(Refusal("INTERNAL", "bug", message), name)
        requests, seconds, rows = _metrics_of(name, response.model_version)
        requests.inc()
        seconds.observe(time.perf_counter() - start)
        rows.inc(response.outputs[0].shape[0])
        return response

    def _counted_as(self, request: Arrived) -> str:
        """Return the model that a request counts for: none where it names none that is served, lest callers make up names."""
        name = request.model_name if isinstance(request, pb.ModelInferRequest) else ""
        return name if name in self.models else ""

    def _answer(self, request: Arrived, remaining_s: float | None) -> pb.ModelInferResponse:
        request = self._readable(request)
        model = find_model(self.models, request.model_name)
        live = model.student.version()
        validation.check_version(live, request.model_version)
        parameters = validation.check_parameters(request)
        remaining_s = validation.time_allowed(parameters, remaining_s)
        wanted = validation.wanted_outputs(model.settings, request)
        inputs = validation.check_inputs(model.settings, request, refuse_nan=self._refuse_nan)
        num_rows = len(next(iter(inputs.values())))
        validation.check_rows(num_rows, self._max_rows)
        validation.check_answer_size(model.settings, wanted, num_rows, self._max_message_bytes)
        record_id = mint_record_id()
        if live is None and model.ask_teacher is not None:
            if request.outputs and wanted != [model.settings.output]:
                raise _student_only(next(name for name in wanted if name != model.settings.output))
            served = _pass_through(model, inputs, record_id, parameters, remaining_s)
            outputs = {model.settings.output: _logits_of(model, served)}
        else:
            answer, served = _run_student(model, inputs, wanted, record_id, parameters, remaining_s)
            outputs = {model.settings.output: answer.logits_BC, **answer.extra}
        validation.check_version(served.version, request.model_version)  # a swap may have come between
        version = served.version or TEACHER_VERSION
        response = infer_response(
            model.settings.name,
            version,
            {name: outputs[name] for name in wanted if name in outputs},
            request_id=request.id,
            parameters={"record_id": record_id.hex()},
        )
        if (num_bytes := response.ByteSize()) > self._max_message_bytes:
            raise validation.oversized_answer(num_rows, num_bytes, "Send fewer rows in a request")
        model.capture(served)
        return response

    def _readable(self, request: Arrived) -> pb.ModelInferRequest:
        if isinstance(request, Oversize):
            raise Refusal(
                "RESOURCE_EXHAUSTED",
                "oversize",
                f"the request has {request.num_bytes} bytes",
                fix=f"Send at most {self._max_message_bytes}",
            )
        if isinstance(request, Unreadable):
            raise unreadable("ModelInferRequest")
        return request


def _run_student(
    model: ServedModel,
    inputs: Mapping[str, Array],
    wanted: Sequence[str],
    record_id: bytes,
    parameters: Mapping[str, Parameter],
    remaining_s: float | None,
) -> tuple[StudentAnswer, Served]:
    start = time.perf_counter()
    deadline = None if remaining_s is None else time.monotonic() + remaining_s
    extra = [name for name in wanted if name != model.settings.output]
    try:
        answer = model.student.run(inputs, deadline, extra)
    except EverstillError as error:
        raise model.student.no_answer(error) from None
    latency_s = time.perf_counter() - start
    return answer, Served(record_id, inputs, answer.version, answer.logits_BC, latency_s, None, "", 0.0, parameters)


def _pass_through(
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
        raise model.no_teacher_answer(error) from None
    return Served(record_id, inputs, "", None, 0.0, answer.output_BC, answer.version, answer.latency_s, parameters)


def _logits_of(model: ServedModel, served: Served) -> Array:
    """Return the teacher's answer as what the output is named: raw logits, as a student gives them."""
    output_BC = served.teacher_output_BC
    assert output_BC is not None
    if output_BC.shape[1] != model.settings.num_classes:
        raise Refusal(
            "UNAVAILABLE",
            "teacher_wrong",
            f"the teacher answered with {output_BC.shape[1]} classes, the model has {model.settings.num_classes}",
            fix=OPERATORS_FIX,
        )
    if model.teacher_kind == "logits":
        return output_BC
    logits_BC: Array = np.log(np.clip(output_BC, LEAST_PROBABILITY, None))
    return logits_BC


def teacher_away() -> Refusal:
    """Return the refusal of a request that the teacher didn't answer, where no version serves yet."""
    message = "there is no student version yet and the teacher gave no answer"
    return Refusal("UNAVAILABLE", "teacher_away", message, fix="Try again")


def _student_only(name: str) -> Refusal:
    message = f"the output {name!r} is the student's, and there is no student version yet"
    return Refusal("UNAVAILABLE", "no_version", message, fix="Ask again later, or without it")


def unreadable(message: str) -> Refusal:
    """Return the refusal of bytes that are not the message that a call takes."""
    return Refusal(
        "INVALID_ARGUMENT",
        "unreadable",
        f"the message is not a {message} in protobuf, or has a string that is not UTF-8",
        fix="Send protobuf",
    )


def counted(refusal: Refusal, model: str = "") -> Refusal:
    """Count a refusal for its model and return it."""
    REQUESTS.labels(refusal.code, refusal.reason, model).inc()
    return refusal


def abort(refusal: Refusal, context: grpc.ServicerContext) -> NoReturn:
    """End the call with the refusal's status; gRPC's abort raises."""
    context.abort(getattr(grpc.StatusCode, refusal.code), str(refusal))
    raise AssertionError("abort returned")
