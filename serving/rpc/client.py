"""A small typed client of any Open Inference Protocol server over gRPC: arrays in, arrays out, errors as sentences.

Decides deadlines and how a status becomes an error. Retries nothing. Used by the command line and the demo; thread-safe.
"""

import dataclasses
import time
from collections.abc import Mapping

import grpc

from protos import inference_pb2 as pb
from protos.errors import UnavailableError
from protos.tensors import Array
from serving.rpc.convert import Parameter, infer_request, read_outputs, read_parameters
from serving.rpc.inference_pb2_grpc import GRPCInferenceServiceStub

MAX_MESSAGE_BYTES = 64 * 2**20


class RpcError(UnavailableError):
    """A call that got no answer. `code` is the gRPC status code's name."""

    def __init__(self, message: str, code: str) -> None:
        super().__init__(message)
        self.code = code


@dataclasses.dataclass(frozen=True)
class Answer:
    """One answered call. `outputs` are read-only arrays [batch, ...]; `latency_s` is as the caller saw it."""

    outputs: dict[str, Array]
    version: str
    parameters: dict[str, Parameter]
    latency_s: float


class InferenceClient:
    """A connection to one server.

    Args:
        address: host:port.
        timeout_s: deadline of every call.
    """

    def __init__(self, address: str, *, timeout_s: float = 5.0) -> None:
        self._timeout_s = timeout_s
        self.address = address
        self._channel = grpc.insecure_channel(
            address,
            options=[
                ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
                ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
                ("grpc.initial_reconnect_backoff_ms", 100),
                ("grpc.max_reconnect_backoff_ms", 1000),
            ],
        )
        self._stub = GRPCInferenceServiceStub(self._channel)  # type: ignore[no-untyped-call]

    def infer(
        self, model: str, inputs: Mapping[str, Array], *, parameters: Mapping[str, Parameter] | None = None
    ) -> Answer:
        """Ask a model.

        Raises:
            RpcError: the server refused, was away, or missed the deadline.
        """
        start = time.perf_counter()
        try:
            response = self._stub.ModelInfer(
                infer_request(model, inputs, parameters=parameters), timeout=self._timeout_s
            )
        except grpc.RpcError as error:
            raise _as_error(self.address, error) from None
        latency_s = time.perf_counter() - start
        return Answer(read_outputs(response), response.model_version, read_parameters(response.parameters), latency_s)

    def ready(self) -> bool:
        """Return whether the server says that it is ready; False where it is away."""
        try:
            return bool(self._stub.ServerReady(pb.ServerReadyRequest(), timeout=self._timeout_s).ready)
        except grpc.RpcError:
            return False

    def metadata(self, model: str) -> pb.ModelMetadataResponse:
        """Return what the server says of a model; raises RpcError as `infer`."""
        try:
            response: pb.ModelMetadataResponse = self._stub.ModelMetadata(
                pb.ModelMetadataRequest(name=model), timeout=self._timeout_s
            )
        except grpc.RpcError as error:
            raise _as_error(self.address, error) from None
        return response

    def close(self) -> None:
        """Close the connection; calls in flight are cancelled."""
        self._channel.close()


def _as_error(address: str, error: grpc.RpcError) -> RpcError:
    code = error.code().name if isinstance(error, grpc.Call) else "UNKNOWN"
    details = error.details() if isinstance(error, grpc.Call) else str(error)
    return RpcError(f"{address} answered {code}: {details}", code)
