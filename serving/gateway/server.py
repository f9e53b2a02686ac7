"""The gRPC server of a worker: which method leads where, admission, message limits, health, and the order of a graceful stop.

The services are registered by hand, so that a request that is too large, unreadable, one too many or for a method that
isn't answered is refused with a sentence, instead of ending inside gRPC.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent import futures
from typing import Any

import grpc
import structlog
from google.protobuf.message import DecodeError
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from protos import inference_pb2 as pb
from protos.errors import UnavailableError
from protos.tensors import quoted
from serving.config import GatewaySection
from serving.gateway import feedback
from serving.gateway.admission import Admission
from serving.gateway.catalogue import Catalogue
from serving.gateway.reflection import Reflection
from serving.gateway.refusal import Refusal, overload, stopping
from serving.gateway.servicer import Servicer, abort, counted, unreadable
from serving.gateway.stream import Streams

SERVICE = "inference.GRPCInferenceService"
MODEL_INFER, MODEL_STREAM_INFER = f"/{SERVICE}/ModelInfer", f"/{SERVICE}/ModelStreamInfer"
SERVICES = (SERVICE, feedback.SERVICE)
#: gRPC itself refuses what is larger than this times the limit; below, the refusal is ours and counted.
HARD_LIMIT = 4
#: While stopping: no new call for this long is quiet; it is waited for this long at most. In seconds.
QUIET_S, MOST_QUIET_S = 0.1, 1.0
#: Time that the last answers have to reach the network, in seconds.
LINGER_S = 2.0


class CallersServer:
    """The callers' port. Started and stopped by worker_app.py."""

    def __init__(self, settings: GatewaySection, servicer: Servicer) -> None:
        self._settings = settings
        self._servicer = servicer
        self._health = health.HealthServicer()
        self._admission = admission = Admission(settings.threads, settings.max_in_flight)
        self._streams = Streams(servicer, admission, settings.max_streams)
        options = [
            ("grpc.so_reuseport", 1),  # the parent holds the port, and has seen that nobody else listens there
            ("grpc.max_receive_message_length", settings.max_message_bytes * HARD_LIMIT),
            ("grpc.max_send_message_length", settings.max_message_bytes * HARD_LIMIT),
        ]
        if settings.max_connection_age_s:  # calls inside are answered: the grace after that age has no end
            options.append(("grpc.max_connection_age_ms", round(settings.max_connection_age_s * 1000)))
        self._server = grpc.server(admission, options=options)
        told = feedback.Feedback(servicer.models, max_rows=settings.max_rows)
        self._service = CallersService(servicer, told, admission, self._streams)
        self._server.add_generic_rpc_handlers((self._service,))
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        self._server.add_generic_rpc_handlers((Reflection((*SERVICES, health.SERVICE_NAME)),))

    def start(self, listen: Sequence[str] = ()) -> str:
        """Open the port and return host:port.

        Args:
            listen: addresses to open, as the parent holds them; without any, the host and port of the settings.

        Raises:
            UnavailableError: the port is taken.
        """
        port = 0
        for address in listen or (self._settings.address,):
            try:
                port = self._server.add_insecure_port(address)
            except RuntimeError:
                port = 0
            if not port:
                raise UnavailableError(
                    f"{address} is taken or not this machine's",
                    fix="Stop what listens there, or set gateway.port and gateway.host",
                )
        self.tell_health()
        self._server.start()
        return f"{self._settings.address.rpartition(':')[0]}:{port}"

    def tell_health(self) -> None:
        """Bring gRPC health up to date: of the server, of its services, and of each model by its name.

        Feedback needs no version: it is taken as soon as the port is open.
        """
        models = {name: model.ready for name, model in self._servicer.models.items()}
        every = all(models.values())
        for service, ready in {**models, "": every, SERVICE: every, feedback.SERVICE: True}.items():
            status = health_pb2.HealthCheckResponse
            self._health.set(service, status.SERVING if ready else status.NOT_SERVING)

    def stop(self, deadline_s: float) -> None:
        """Stop gracefully: tell health, so that balancers turn away; refuse new calls; let those inside end; close.

        gRPC cancels a call that arrives while it closes, and a caller can't tell that from an answer that was lost. So new calls
        are refused with UNAVAILABLE until none has come for a moment, and only then does it close. Calls that never end by
        themselves (a balancer that watches health) are cut off once every answer has had time to leave.
        """
        end = time.monotonic() + deadline_s
        self._health.enter_graceful_shutdown()
        self._service.stopping = True
        self._streams.stop()
        quiet_by = time.monotonic() + min(MOST_QUIET_S, deadline_s)
        turned_away = -1
        while time.monotonic() < quiet_by and turned_away != self._service.num_turned_away:
            turned_away = self._service.num_turned_away
            time.sleep(QUIET_S)
        closed = self._server.stop(max(end - time.monotonic(), 0.0))
        while not closed.wait(QUIET_S):
            if not self._admission.inside and not self._streams.num_open:
                self._server.stop(LINGER_S).wait()


class CallersService(grpc.GenericRpcHandler):
    """Leads a call to the method that answers it, or to a refusal. `service` is called in gRPC's own thread, one call at a time."""

    def __init__(self, servicer: Servicer, told: feedback.Feedback, admission: Admission, streams: Streams) -> None:
        self.stopping = False
        self.num_turned_away = 0
        self._admission = admission
        self._streams = streams
        self._handlers = {
            MODEL_INFER: grpc.unary_unary_rpc_method_handler(
                servicer.model_infer, servicer.read_infer_request, _serialized
            ),
            MODEL_STREAM_INFER: grpc.stream_stream_rpc_method_handler(
                streams, servicer.read_infer_request, _serialized
            ),
            feedback.SEND: grpc.unary_unary_rpc_method_handler(told.send, None, _serialized),
            **_catalogue_handlers(Catalogue(servicer)),
        }
        pool = futures.ThreadPoolExecutor(1, thread_name_prefix="refusal")
        self._one_too_many = {
            MODEL_INFER: _refusing(lambda: counted(overload(admission.inside)), pool),
            MODEL_STREAM_INFER: _refusing(lambda: counted(streams.too_many()), pool),
            feedback.SEND: _refusing(lambda: feedback.counted(overload(admission.inside)), pool),
        }
        self._too_late = {
            MODEL_INFER: _refusing(lambda: counted(stopping()), pool),
            MODEL_STREAM_INFER: _refusing(lambda: counted(stopping()), pool),
            feedback.SEND: _refusing(lambda: feedback.counted(stopping()), pool),
        }
        self._refusals = pool

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> "grpc.RpcMethodHandler[Any, Any] | None":
        """Return who answers a call; None is a method of another service."""
        method = handler_call_details.method
        if method in self._too_late:
            if self.stopping:
                self.num_turned_away += 1
                return self._too_late[method]
            full = self._streams.full if method == MODEL_STREAM_INFER else self._admission.full
            if full:
                return self._one_too_many[method]
        service, _, name = method[1:].rpartition("/")
        if method not in self._handlers and service in SERVICES:
            refusal = _unknown(name, [known for known in self._handlers if known.startswith(f"/{service}/")])
            return _refusing(lambda: refusal, self._refusals)
        return self._handlers.get(method)


class Refusing:
    """Refuses a call unread, in a thread kept for that: it must not wait behind the calls that are inside."""

    def __init__(self, why: Callable[[], Refusal], pool: futures.ThreadPoolExecutor) -> None:
        self._why = why
        #: gRPC's name for "run this in that pool".
        self.experimental_thread_pool = pool

    def __call__(self, requests: object, context: grpc.ServicerContext) -> Iterator[bytes]:
        """Refuse; gRPC calls this in place of the method."""
        abort(self._why(), context)


def _refusing(why: Callable[[], Refusal], pool: futures.ThreadPoolExecutor) -> "grpc.RpcMethodHandler[Any, Any]":
    """To a caller of a method with one request, an error without an answer looks the same from a stream."""
    return grpc.stream_stream_rpc_method_handler(Refusing(why, pool))


def _unknown(name: str, known: Iterable[str]) -> Refusal:
    names = ", ".join(sorted(method.rpartition("/")[2] for method in known))
    return Refusal(
        "UNIMPLEMENTED", "unknown_call", f"this gateway has no call {quoted(name)}", fix=f"It answers {names}"
    )


def _catalogue_handlers(catalogue: Catalogue) -> "dict[str, grpc.RpcMethodHandler[Any, Any]]":
    methods: dict[str, tuple[Callable[..., Any], Any]] = {
        "ServerLive": (catalogue.server_live, pb.ServerLiveRequest),
        "ServerReady": (catalogue.server_ready, pb.ServerReadyRequest),
        "ModelReady": (catalogue.model_ready, pb.ModelReadyRequest),
        "ServerMetadata": (catalogue.server_metadata, pb.ServerMetadataRequest),
        "ModelMetadata": (catalogue.model_metadata, pb.ModelMetadataRequest),
        "RepositoryIndex": (catalogue.repository_index, pb.RepositoryIndexRequest),
        "RepositoryModelLoad": (catalogue.repository_model_load, pb.RepositoryModelLoadRequest),
        "RepositoryModelUnload": (catalogue.repository_model_unload, pb.RepositoryModelUnloadRequest),
    }
    return {f"/{SERVICE}/{name}": _unary(*method) for name, method in methods.items()}


def _unary(method: Callable[..., Any], message: Any) -> "grpc.RpcMethodHandler[Any, Any]":
    def answer(data: bytes, context: grpc.ServicerContext) -> Any:
        try:
            request = message.FromString(data)
        except DecodeError:
            abort(unreadable(message.DESCRIPTOR.name), context)
        try:
            return method(request, context)
        except Exception:  # a supervision point, as for inference: never UNKNOWN, never a traceback
            if context.code() is not None:  # type: ignore[attr-defined]
                raise  # gRPC's abort: refused already
            structlog.get_logger().exception("a call about models failed unexpectedly", call=message.DESCRIPTOR.name)
            abort(Refusal("INTERNAL", "bug", "this gateway failed on the call; its log says why"), context)

    return grpc.unary_unary_rpc_method_handler(answer, None, _serialized)


def _serialized(message: Any) -> bytes:
    data: bytes = message.SerializeToString()
    return data
