"""The gRPC server of a worker: which method leads where, message limits, health, and the order of a graceful stop.

The inference service is registered by hand, so that a request that is too large or unreadable is refused with a sentence and
counted, instead of ending inside gRPC.
"""

from concurrent import futures
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from protos import inference_pb2 as pb
from protos.errors import UnavailableError
from serving.config import GatewaySection
from serving.gateway.servicer import Servicer

SERVICE = "inference.GRPCInferenceService"
#: gRPC itself refuses what is larger than this times the limit; below, the refusal is ours and counted.
HARD_LIMIT = 4


class CallersServer:
    """The callers' port. Started and stopped by worker_app.py."""

    def __init__(self, settings: GatewaySection, servicer: Servicer) -> None:
        self._settings = settings
        self._servicer = servicer
        self._health = health.HealthServicer()
        self._server = grpc.server(
            futures.ThreadPoolExecutor(settings.threads, thread_name_prefix="caller"),
            options=[
                ("grpc.so_reuseport", 0),
                ("grpc.max_receive_message_length", settings.max_message_bytes * HARD_LIMIT),
                ("grpc.max_send_message_length", settings.max_message_bytes * HARD_LIMIT),
            ],
        )
        self._server.add_generic_rpc_handlers((_inference_handler(servicer),))
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
                f"port {settings.port} on {settings.host} is taken", fix="Stop what listens there or set gateway.port"
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


def _inference_handler(servicer: Servicer) -> grpc.GenericRpcHandler:
    methods: dict[str, tuple[Any, Any]] = {
        "ServerLive": (servicer.server_live, pb.ServerLiveRequest.FromString),
        "ServerReady": (servicer.server_ready, pb.ServerReadyRequest.FromString),
        "ModelReady": (servicer.model_ready, pb.ModelReadyRequest.FromString),
        "ServerMetadata": (servicer.server_metadata, pb.ServerMetadataRequest.FromString),
        "ModelMetadata": (servicer.model_metadata, pb.ModelMetadataRequest.FromString),
        "ModelInfer": (servicer.model_infer, servicer.read_infer_request),
    }
    handlers: dict[str, Any] = {
        name: grpc.unary_unary_rpc_method_handler(
            method, request_deserializer=parse, response_serializer=lambda message: message.SerializeToString()
        )
        for name, (method, parse) in methods.items()
    }
    return grpc.method_handlers_generic_handler(SERVICE, handlers)
