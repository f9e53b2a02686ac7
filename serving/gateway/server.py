"""The gRPC server of a worker: which method leads where, admission, message limits, health, and the order of a graceful stop.

The inference service is registered by hand, so that a request that is too large, unreadable or one too many is refused with a
sentence and counted, instead of ending inside gRPC.
"""

from collections.abc import Callable
from concurrent import futures
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from protos import inference_pb2 as pb
from protos.errors import UnavailableError
from serving.config import GatewaySection
from serving.gateway.admission import Admission
from serving.gateway.servicer import Servicer

SERVICE = "inference.GRPCInferenceService"
MODEL_INFER = f"/{SERVICE}/ModelInfer"
#: gRPC itself refuses what is larger than this times the limit; below, the refusal is ours and counted.
HARD_LIMIT = 4


class CallersServer:
    """The callers' port. Started and stopped by worker_app.py."""

    def __init__(self, settings: GatewaySection, servicer: Servicer) -> None:
        self._settings = settings
        self._servicer = servicer
        self._health = health.HealthServicer()
        admission = Admission(settings.threads, settings.max_in_flight)
        self._server = grpc.server(
            admission,
            options=[
                ("grpc.so_reuseport", 0),
                ("grpc.max_receive_message_length", settings.max_message_bytes * HARD_LIMIT),
                ("grpc.max_send_message_length", settings.max_message_bytes * HARD_LIMIT),
            ],
        )
        self._server.add_generic_rpc_handlers((InferenceService(servicer, admission),))
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)

    def start(self) -> str:
        """Open the port and return host:port.

        Raises:
            UnavailableError: the port is taken.
        """
        settings = self._settings
        try:
            port = self._server.add_insecure_port(f"{settings.host}:{settings.port}")
        except RuntimeError:
            port = 0
        if not port:
            raise UnavailableError(
                f"port {settings.port} on {settings.host} is taken or not this machine's",
                fix="Stop what listens there, or set gateway.port and gateway.host",
            )
        self.tell_health()
        self._server.start()
        return f"{settings.host}:{port}"

    def tell_health(self) -> None:
        """Bring gRPC health up to date with whether requests are answered."""
        status = (
            health_pb2.HealthCheckResponse.SERVING
            if self._servicer.ready
            else health_pb2.HealthCheckResponse.NOT_SERVING
        )
        for service in ("", SERVICE):
            self._health.set(service, status)

    def stop(self, deadline_s: float) -> None:
        """Stop gracefully: tell health, so that balancers turn away; take no new calls; let those inside end; close."""
        self._health.enter_graceful_shutdown()
        self._server.stop(deadline_s).wait()


class InferenceService(grpc.GenericRpcHandler):
    """Leads a call to the servicer's method, or, where it is one too many, to its refusal. Called in gRPC's own thread."""

    def __init__(self, servicer: Servicer, admission: Admission) -> None:
        self._admission = admission
        methods: dict[str, tuple[Any, Any]] = {
            "ServerLive": (servicer.server_live, pb.ServerLiveRequest.FromString),
            "ServerReady": (servicer.server_ready, pb.ServerReadyRequest.FromString),
            "ModelReady": (servicer.model_ready, pb.ModelReadyRequest.FromString),
            "ServerMetadata": (servicer.server_metadata, pb.ServerMetadataRequest.FromString),
            "ModelMetadata": (servicer.model_metadata, pb.ModelMetadataRequest.FromString),
            "ModelInfer": (servicer.model_infer, servicer.read_infer_request),
        }
        self._handlers = {f"/{SERVICE}/{name}": _unary(*method) for name, method in methods.items()}
        self._one_too_many = _unary(OneTooMany(servicer, admission), bytes)

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> "grpc.RpcMethodHandler[Any, Any] | None":
        """Return who answers a call; None is an unknown method."""
        method = handler_call_details.method
        if method == MODEL_INFER and self._admission.full:
            return self._one_too_many
        return self._handlers.get(method)


class OneTooMany:
    """Refuses a call, in a thread of its own: it must not wait behind the calls that are too many."""

    def __init__(self, servicer: Servicer, admission: Admission) -> None:
        self._servicer = servicer
        self._admission = admission
        #: gRPC's name for "run this in that pool".
        self.experimental_thread_pool = futures.ThreadPoolExecutor(1, thread_name_prefix="refusal")

    def __call__(self, request: bytes, context: grpc.ServicerContext) -> None:
        """Refuse; gRPC calls this in place of ModelInfer."""
        self._servicer.refuse_overload(self._admission.inside, context)


def _unary(method: Callable[..., Any], parse: Callable[[bytes], Any]) -> "grpc.RpcMethodHandler[Any, Any]":
    return grpc.unary_unary_rpc_method_handler(
        method, request_deserializer=parse, response_serializer=lambda message: message.SerializeToString()
    )
