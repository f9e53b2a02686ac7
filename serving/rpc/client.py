"""A small typed client of any Open Inference Protocol server over gRPC: arrays or texts in, arrays out, errors as sentences.

    with InferenceClient("127.0.0.1:8001", retries=2) as client:
        answer = client.infer("my-service", {"text": ["what is my balance"]})
        print(answer.version, answer.outputs["logits"].argmax(axis=1))

Decides deadlines and what is tried again: only where asked for, only UNAVAILABLE and RESOURCE_EXHAUSTED, after a random pause, inside
the deadline, and never what was answered or is too large. A request that is tried again may be sampled twice. Thread-safe. `serving.rpc.aio` is
its twin for asyncio, serving/rpc/errors.py the tree of its errors.
"""

import functools
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any

import grpc

from protos import inference_pb2 as pb
from serving.rpc.answers import CHANNEL_OPTIONS, Answer, Ask, Input, answer_of, feedback_request, requests_of
from serving.rpc.control_pb2_grpc import FeedbackStub
from serving.rpc.convert import Parameter
from serving.rpc.errors import (
    DeadlineExceeded,
    InvalidRequest,
    NotFound,
    Overloaded,
    Retry,
    RpcError,
    Unavailable,
    Unimplemented,
    as_error,
    check_address,
    closed,
)
from serving.rpc.inference_pb2_grpc import GRPCInferenceServiceStub
from serving.rpc.stream import DEFAULT_WINDOW, Stream

__all__ = [
    "Answer",
    "DeadlineExceeded",
    "InferenceClient",
    "InvalidRequest",
    "NotFound",
    "Overloaded",
    "RpcError",
    "Unavailable",
    "Unimplemented",
]


class InferenceClient:
    """A connection to one server; also a context manager, which closes it.

    Args:
        address: host:port.
        timeout_s: deadline of a call that names none, its retries included.
        retries: how often a call is tried again at most.

    Raises:
        InvalidRequest: the address is empty.
    """

    def __init__(self, address: str, *, timeout_s: float = 5.0, retries: int = 0) -> None:
        self.address = check_address(address)
        self._timeout_s = timeout_s
        self._retry = Retry(retries)
        self._channel = grpc.insecure_channel(address, options=list(CHANNEL_OPTIONS))
        self._stub = GRPCInferenceServiceStub(self._channel)  # type: ignore[no-untyped-call]
        self._feedback = FeedbackStub(self._channel)  # type: ignore[no-untyped-call]
        self._closed = False

    def __enter__(self) -> "InferenceClient":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def infer(
        self,
        model: str,
        inputs: Mapping[str, Input],
        *,
        version: str = "",
        outputs: Sequence[str] = (),
        request_id: str = "",
        parameters: Mapping[str, Parameter] | None = None,
        timeout_s: float | None = None,
    ) -> Answer:
        """Ask a model.

        Args:
            inputs: an array [batch, ...] for each input, or texts for a BYTES input.
            version: the only version that may answer; any where empty.
            outputs: names of the outputs wanted; all where empty.

        Raises:
            RpcError: the server refused, was away, or missed the deadline. TensorError: inputs or answer aren't tensors.
        """
        request = Ask(model, version, tuple(outputs), parameters).request(inputs, request_id)
        start = time.monotonic()
        response, retries = self._call(self._stub.ModelInfer, request, timeout_s)
        return answer_of(response, time.monotonic() - start, retries)

    def stream(
        self,
        model: str,
        requests: Iterable[Mapping[str, Input]],
        *,
        version: str = "",
        outputs: Sequence[str] = (),
        parameters: Mapping[str, Parameter] | None = None,
        timeout_s: float | None = None,
        window: int = DEFAULT_WINDOW,
    ) -> Iterator[Answer | RpcError]:
        """Ask many times over one stream, without waiting for one answer before the next request; yield answers in order.

        An error of one request is yielded in its place, and the stream goes on. Leaving the generator ends the stream.

        Args:
            requests: inputs of each request; read in a thread of its own, only `window` ahead of what was yielded.
            timeout_s: longest silence: requests wait, and none of them is answered. A slow server may take longer in all.

        Raises:
            RpcError: the stream broke, and its retries are used up. Whatever `requests` raises.
        """
        stream = Stream(
            functools.partial(self._invoke, self._stub.ModelStreamInfer),
            self.address,
            requests_of(Ask(model, version, tuple(outputs), parameters), requests),
            timeout_s=self._timeout_s if timeout_s is None else timeout_s,
            retry=self._retry,
            window=window,
        )
        return stream.answers()

    def feedback(
        self, model: str, record_id: str | bytes, label: str | int, row: int = 0, *, timeout_s: float | None = None
    ) -> None:
        """Say what was true of one row of an answered request; it may be sent again, and counts once.

        Args:
            model: may be empty where the gateway serves one.
            record_id: as an answer gives it, in hex, or its 16 bytes.
            label: the class's name; its number where the model's classes have no names.
            row: of the request.

        Raises:
            RpcError: as `infer`; Overloaded where the gateway has no room for it now.
        """
        self._call(self._feedback.Send, feedback_request(model, record_id, label, row), timeout_s)

    def ready(self, model: str = "", *, timeout_s: float | None = None) -> bool:
        """Return whether the server, or a model of it, says that it is ready; False where it is away."""
        allowed_s = self._timeout_s if timeout_s is None else timeout_s
        try:
            if model:
                request = pb.ModelReadyRequest(name=model)
                return bool(self._invoke(self._stub.ModelReady, request, timeout=allowed_s).ready)
            return bool(self._invoke(self._stub.ServerReady, pb.ServerReadyRequest(), timeout=allowed_s).ready)
        except (grpc.RpcError, Unavailable):
            return False

    def metadata(self, model: str, *, timeout_s: float | None = None) -> pb.ModelMetadataResponse:
        """Return what the server says of a model; raises RpcError as `infer`."""
        response: pb.ModelMetadataResponse
        response, _ = self._call(self._stub.ModelMetadata, pb.ModelMetadataRequest(name=model), timeout_s)
        return response

    def index(self, *, timeout_s: float | None = None) -> list[pb.RepositoryIndexResponse.ModelIndex]:
        """Return the server's models with version and state; raises RpcError as `infer`."""
        response, _ = self._call(self._stub.RepositoryIndex, pb.RepositoryIndexRequest(), timeout_s)
        return list(response.models)

    def close(self) -> None:
        """Close the connection; calls in flight are cancelled, and later ones raise Unavailable."""
        self._closed = True
        self._channel.close()

    def _invoke(self, method: Callable[..., Any], request: Any, **options: Any) -> Any:
        """Call a method of the stub once; raises Unavailable where this client is closed, which gRPC says with a ValueError."""
        try:
            return method(request, **options)
        except ValueError:
            if self._closed:
                raise closed(self.address) from None
            raise

    def _call(self, method: Callable[..., Any], request: Any, timeout_s: float | None) -> tuple[Any, int]:
        """Call until it is answered, or trying again is over; returns the answer and the number of retries."""
        allowed_s = self._timeout_s if timeout_s is None else timeout_s
        end, retries = time.monotonic() + allowed_s, 0
        while True:
            try:
                return self._invoke(method, request, timeout=max(0.0, end - time.monotonic())), retries
            except grpc.RpcError as caught:
                error = as_error(self.address, caught, timeout_s=allowed_s, retries=retries)
            pause_s = self._retry.pause_s(error, retries, end - time.monotonic())
            if pause_s is None:
                raise error
            time.sleep(pause_s)
            retries += 1
