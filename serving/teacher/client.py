"""The teacher as the gateway sees it: any Open Inference Protocol server, asked under a deadline, with retries and a breaker.

Decides when a call is retried and when the teacher counts as away. Knows nothing of sampling or budgets beyond the
`before_attempt` hook, which is asked before every attempt, so that a retry is paid for before it is made. Called by the mirror
(shadow samples) and, before the first version, by the worker (pass-through). Thread-safe.
"""

import dataclasses
import random
import threading
import time
from collections.abc import Callable, Mapping

import grpc

from protos import inference_pb2 as pb
from protos.errors import EverstillError, TensorError, UnavailableError
from protos.tensors import Array, datatype_of
from serving.config import TeacherSection
from serving.rpc.convert import infer_request, read_outputs
from serving.rpc.inference_pb2_grpc import GRPCInferenceServiceStub
from serving.teacher.breaker import CircuitBreaker

MAX_MESSAGE_BYTES = 64 * 2**20
#: First wait between two attempts; doubles, with full jitter.
BACKOFF_S = 0.05
RETRIED = {
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.ABORTED,
}
#: Nothing is wrong with these samples: the teacher's address, name or rights are, or this client is closing. Not tried again
#: at once, but kept.
KEPT = {
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.UNAUTHENTICATED,
    grpc.StatusCode.UNIMPLEMENTED,
}


#: What a teacher says of a request whose values it doesn't take.
OF_THE_VALUES = {grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.OUT_OF_RANGE}


class TeacherUnavailable(UnavailableError):
    """No answer: away, too slow, or the breaker is open. `attempts` is the number of calls made."""

    def __init__(self, message: str, attempts: int) -> None:
        super().__init__(message)
        self.attempts = attempts


class TimeTooShort(EverstillError):
    """No answer within a time that is shorter than the teacher is allowed: that says nothing about the teacher."""

    def __init__(self, timeout_s: float) -> None:
        super().__init__(f"the teacher gave no answer within {max(0.0, timeout_s):.3g} s", fix="Allow more time")


class TeacherRefused(EverstillError):
    """The teacher says that this request is wrong; asking again won't help. `attempts` is the number of calls made.

    Args:
        of_values: whether the teacher said so of the values; else it or the configuration is wrong.
    """

    def __init__(self, message: str, attempts: int, *, of_values: bool = False) -> None:
        super().__init__(
            message, fix="Compare [teacher] and [model] in the configuration with what the teacher takes and gives"
        )
        self.attempts = attempts
        self.of_values = of_values


@dataclasses.dataclass(frozen=True)
class TeacherAnswer:
    """output_BC: the teacher's output, float32 [batch, classes]; version: as it names itself; attempts: calls made."""

    output_BC: Array
    version: str
    latency_s: float
    attempts: int


class TeacherClient:
    """A connection to the teacher."""

    def __init__(self, settings: TeacherSection, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._settings = settings
        self.breaker = CircuitBreaker(settings.breaker_failures, settings.breaker_open_s, clock)
        self._stopping = threading.Event()
        self._channel = grpc.insecure_channel(
            settings.address,
            options=[
                ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
                ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
                ("grpc.initial_reconnect_backoff_ms", 100),
                ("grpc.max_reconnect_backoff_ms", 2000),
            ],
        )
        self._stub = GRPCInferenceServiceStub(self._channel)  # type: ignore[no-untyped-call]

    def ask(
        self,
        inputs: Mapping[str, Array],
        *,
        timeout_s: float | None = None,
        attempts: int | None = None,
        before_attempt: Callable[[], bool] = lambda: True,
    ) -> TeacherAnswer:
        """Ask the teacher about rows [batch, ...].

        Every attempt that the breaker allows ends in exactly one word to it, else a half-open breaker would wait for ever.

        Args:
            timeout_s: deadline of one attempt; the configured one where None. A shorter one that passes is no failure of
                the teacher: few impatient callers must not open the breaker for all.
            attempts: most calls to make; the configured number where None.
            before_attempt: asked before each call; False means that the budget doesn't allow it.

        Raises:
            TeacherUnavailable: no answer; the samples are kept for later.
            TeacherRefused: the teacher doesn't take such inputs, or its answer is not what [teacher] declares.
            TimeTooShort: `timeout_s` passed, and is shorter than the configured deadline.
        """
        names = self._settings.inputs
        renamed = {teachers: array for name, array in inputs.items() if (teachers := names.get(name, name))}
        request = infer_request(self._settings.model, renamed, outputs=[self._settings.output])
        num_rows = len(next(iter(inputs.values())))
        timeout_s = self._settings.timeout_s if timeout_s is None else timeout_s
        most = self._settings.attempts if attempts is None else attempts
        made, reason = 0, "the circuit breaker is open"
        while made < most and self.breaker.allow():
            if made and self._stopping.wait(random.uniform(0, BACKOFF_S * 2**made)):
                self.breaker.abandoned()
                break
            if not before_attempt():
                self.breaker.abandoned()
                reason = "the budget allows no call"
                break
            made += 1
            start = time.perf_counter()
            try:
                response = self._stub.ModelInfer(request, timeout=timeout_s)
            except grpc.RpcError as error:
                if timeout_s < self._settings.timeout_s and code_of(error) is grpc.StatusCode.DEADLINE_EXCEEDED:
                    self.breaker.abandoned()
                    raise TimeTooShort(timeout_s) from None
                reason = self._note_failure(error, made)
                continue
            except ValueError:  # what gRPC says of a closed channel
                self.breaker.abandoned()
                reason = "this client is closed"
                break
            self.breaker.succeeded()
            output_BC = self._read_output(response, num_rows, made)
            return TeacherAnswer(output_BC, response.model_version, time.perf_counter() - start, made)
        raise TeacherUnavailable(f"the teacher at {self._settings.address} gave no answer: {reason}", made)

    def close(self) -> None:
        """Stop waiting and close the connection."""
        self._stopping.set()
        self._channel.close()

    def _read_output(self, response: pb.ModelInferResponse, num_rows: int, made: int) -> Array:
        """Return the declared output, float32 [batch, classes].

        Raises:
            TeacherRefused: it isn't there, or has another shape.
        """
        name = self._settings.output
        try:
            output = read_outputs(response).get(name)
        except TensorError as error:
            raise TeacherRefused(f"the teacher's answer can't be read: {error.message}", made) from None
        if output is None:
            raise TeacherRefused(f"the teacher's answer has no output {name!r}", made)
        if output.dtype.kind != "f":
            raise TeacherRefused(
                f"the teacher's output {name!r} has datatype {datatype_of(output)}: it names a class, and no score of "
                "each. Let teacher.output name the one with probabilities or logits",
                made,
            )
        if output.ndim != 2 or len(output) != num_rows:
            shape = list(output.shape)
            raise TeacherRefused(f"the teacher's output {name!r} has shape {shape} for {num_rows} rows", made)
        return output.astype("float32")

    def _note_failure(self, error: grpc.RpcError, made: int) -> str:
        """Return why a call failed, if it may be tried again.

        Raises:
            TeacherUnavailable: it would fail again at once. TeacherRefused: it would always fail.
        """
        code = code_of(error)
        details = error.details() if isinstance(error, grpc.Call) else str(error)
        if code in RETRIED:
            self.breaker.failed()
            return f"{code.name}: {details}"
        if code in KEPT:
            self.breaker.failed()
            raise TeacherUnavailable(f"the teacher at {self._settings.address} said {code.name}: {details}", made)
        self.breaker.succeeded()
        message = f"the teacher at {self._settings.address} refused: {code.name}: {details}"
        raise TeacherRefused(message, made, of_values=code in OF_THE_VALUES) from None


def code_of(error: grpc.RpcError) -> grpc.StatusCode:
    """Return the status of a failed call."""
    return error.code() if isinstance(error, grpc.Call) else grpc.StatusCode.UNKNOWN
