"""What clients send and get, without a connection: requests from arrays or strings, answers, and a stream's requests in flight.

Decides the order of a stream's answers: that of its requests. Used by the two clients; `InFlight` belongs to one thread at a time.
"""

import dataclasses
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from protos import control_pb2
from protos import inference_pb2 as pb
from protos.errors import TensorError
from protos.tensors import Array, strings
from serving.rpc.convert import Parameter, infer_request, read_outputs, read_parameters
from serving.rpc.errors import RpcError, error_in_stream, error_of

#: What an input may be given as: an array, or texts for a BYTES input.
Input = Array | Sequence[str] | Sequence[bytes]
MAX_MESSAGE_BYTES = 64 * 2**20
CHANNEL_OPTIONS = (
    ("grpc.use_local_subchannel_pool", 1),  # a connection of its own: else all clients of a process land on one worker
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
)


@dataclasses.dataclass(frozen=True)
class Answer:
    """One answered call. `outputs` are read-only arrays [batch, ...]; `latency_s` is as the caller saw it, retries included."""

    outputs: dict[str, Array]
    version: str
    parameters: dict[str, Parameter]
    latency_s: float
    request_id: str = ""
    retries: int = 0

    @property
    def record_id(self) -> str:
        """The gateway's own name for the request; empty from a server that gives none."""
        return str(self.parameters.get("record_id", ""))


@dataclasses.dataclass(frozen=True)
class Ask:
    """What is the same for each request of a call or stream.

    Args:
        outputs: names of the outputs to answer with; all where empty.
    """

    model: str
    version: str = ""
    outputs: tuple[str, ...] = ()
    parameters: Mapping[str, Parameter] | None = None

    def request(self, inputs: Mapping[str, Input], request_id: str = "") -> pb.ModelInferRequest:
        """Return a request; raises TensorError where an input has no datatype in the protocol."""
        arrays = {name: as_array(name, one) for name, one in inputs.items()}
        request = infer_request(
            self.model, arrays, outputs=self.outputs, request_id=request_id, parameters=self.parameters
        )
        request.model_version = self.version
        return request


def feedback_request(model: str, record_id: str | bytes, label: str | int, row: int) -> control_pb2.FeedbackRequest:
    """Return feedback on one row of an answered request.

    Raises:
        InvalidRequest: the record id is not hex, or the row is no row's number.
    """
    try:
        raw = bytes.fromhex(record_id) if isinstance(record_id, str) else record_id
    except ValueError:
        raise error_of(
            "INVALID_ARGUMENT", f"the record id {record_id!r} is not hex; give an answer's record_id"
        ) from None
    if not 0 <= row < 2**32:
        raise error_of("INVALID_ARGUMENT", f"row {row} is no row of a request; rows are numbered from 0")
    return control_pb2.FeedbackRequest(record_id=raw, label=str(label), model_name=model, row=row)


def as_array(name: str, values: Input) -> Array:
    """Return an input as an array of the protocol; texts become a BYTES array of UTF-8.

    Raises:
        TensorError: numbers that aren't an array: their datatype would be a guess.
    """
    if isinstance(values, np.ndarray):
        if values.dtype.kind not in "US":
            return values
        texts: list[str | bytes] = values.reshape(-1).tolist()
        return strings(texts).reshape(values.shape)
    if isinstance(values, str | bytes) or not all(isinstance(one, str | bytes) for one in values):
        raise TensorError(
            f"input {name!r} is no array", fix="Give a numpy array of the model's type, or a list of texts"
        )
    return strings(values)


def answer_of(response: pb.ModelInferResponse, latency_s: float, retries: int = 0) -> Answer:
    """Return an answer; raises TensorError where the server's tensors can't be read."""
    return Answer(
        read_outputs(response),
        response.model_version,
        read_parameters(response.parameters),
        latency_s,
        response.id,
        retries,
    )


class InFlight:
    """The requests of one stream that aren't answered yet, and answers that wait for an earlier request's.

    Args:
        address: named in errors.
    """

    def __init__(self, address: str) -> None:
        self._address = address
        self._next_id = 0
        self._waiting: dict[str, tuple[pb.ModelInferRequest, float]] = {}
        self._answered: dict[str, Answer | RpcError] = {}
        self._last_answer_at = 0.0
        self._num_answered = 0

    def __len__(self) -> int:
        return len(self._waiting) + len(self._answered)

    @property
    def silent_s(self) -> float:
        """How long requests have waited without any answer on the stream; 0 where none waits."""
        if not self._waiting:
            return 0.0
        _, oldest_at = next(iter(self._waiting.values()))
        return time.monotonic() - max(oldest_at, self._last_answer_at)

    @property
    def num_unanswered(self) -> int:
        """How many requests have no answer."""
        return len(self._waiting)

    def add(self, request: pb.ModelInferRequest) -> pb.ModelInferRequest:
        """Note a request that is about to be sent, under an id that its answer will carry."""
        request.id = str(self._next_id)
        self._next_id += 1
        self._waiting[request.id] = (request, time.monotonic())
        return request

    def unanswered(self) -> list[pb.ModelInferRequest]:
        """Return what has to be sent again after a stream broke: nothing that was answered."""
        return [request for request, _ in self._waiting.values()]

    def take(self, response: pb.ModelStreamInferResponse) -> None:
        """Note an answer; one without a known id belongs to the oldest request. One that nobody waits for is dropped."""
        name = response.infer_response.id
        if name not in self._waiting:
            if name in self._answered or not self._waiting:
                return
            name = next(iter(self._waiting))
        request, sent_at = self._waiting.pop(name)
        self._last_answer_at = time.monotonic()
        self._num_answered += 1
        self._answered[name] = (
            error_in_stream(self._address, request.model_name, response)
            if response.error_message
            else answer_of(response.infer_response, self._last_answer_at - sent_at)
        )

    def silence(self, timeout_s: float) -> RpcError:
        """Return the error of a server that has answered nothing on the stream for too long."""
        last = "" if not self._num_answered else " since its last one"
        return error_of("DEADLINE_EXCEEDED", f"{self._address} gave no answer within {timeout_s:g} s{last}")

    def given_up(self, error: RpcError, retries: int) -> RpcError:
        """Return the error of a stream that isn't tried again: what broke it, and how far it had come."""
        sent = self._num_answered + len(self._waiting)
        told = f"{error.message} ({self._num_answered} of {sent} requests sent on this stream were answered)"
        return error_of(error.code, told, retries=retries)

    def in_order(self) -> Iterator[Answer | RpcError]:
        """Yield, and forget, the answers that no earlier request holds back."""
        for name in sorted(self._answered, key=int):
            if self._waiting and int(next(iter(self._waiting))) < int(name):
                return
            yield self._answered.pop(name)


def requests_of(ask: Ask, many: Iterable[Mapping[str, Input]]) -> Iterator[pb.ModelInferRequest]:
    """Return each inputs' request."""
    return (ask.request(inputs) for inputs in many)
