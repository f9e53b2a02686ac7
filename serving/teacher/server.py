"""The built-in teacher server: one ONNX file behind the Open Inference Protocol.

Decides nothing about distillation: it answers what it is asked, and a bundle's student can be served by it as well. Runs are one
at a time, since two at once on few cores only slow each other. gRPC threads wait their turn, and a call whose deadline passed
while it waited is not run.
"""

import importlib.util
import pathlib
import threading
from concurrent import futures

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from protos import inference_pb2 as pb
from protos.errors import ConfigurationError, TensorError, UnavailableError
from protos.tensors import quoted
from serving.config import TeacherServerSection
from serving.rpc.convert import infer_response, read_inputs
from serving.rpc.inference_pb2_grpc import GRPCInferenceServiceServicer, add_GRPCInferenceServiceServicer_to_server
from serving.teacher.graph import OnnxGraph

MAGIKA = "magika"
MAGIKA_MODEL = "models/standard_v3_3/model.onnx"
MAX_MESSAGE_BYTES = 64 * 2**20
#: Calls that may wait for their turn; one more is refused, and the asker's samples spool.
MAX_WAITING = 256
VERSION_DIGITS = 12


def find_onnx(name: str | pathlib.Path) -> pathlib.Path:
    """Return the path of a teacher's ONNX file; `magika` is the one inside the magika wheel, found without importing it.

    Raises:
        ConfigurationError: there is no such file.
    """
    if name == MAGIKA:
        found = importlib.util.find_spec("magika")
        if found is None or found.origin is None:
            raise ConfigurationError(
                "teacher_server.onnx is `magika`, which is not installed", fix="Install everstill[demo]"
            )
        return pathlib.Path(found.origin).parent / MAGIKA_MODEL
    path = pathlib.Path(name)
    if not path.is_file():
        raise ConfigurationError(f"{path} is not a file", fix="Name an ONNX file (teacher_server.onnx)")
    return path


class TeacherServicer(GRPCInferenceServiceServicer):
    """Answers the protocol's calls from one session."""

    def __init__(self, settings: TeacherServerSection, path: pathlib.Path) -> None:
        self._graph = OnnxGraph(path, threads=settings.threads)
        if not self._graph.wanted(()):
            kinds = ", ".join(f"{one.name} ({one.datatype})" for one in self._graph.outputs)
            raise ConfigurationError(
                f"{path} has no output that is a tensor: {kinds}",
                fix="Export it without zipmap: skl2onnx's options={'zipmap': False}",
            )
        self._name = settings.name
        self.version = settings.version or self._graph.sha256[:VERSION_DIGITS]
        self._turn = threading.Lock()

    def ServerLive(self, request: pb.ServerLiveRequest, context: grpc.ServicerContext) -> pb.ServerLiveResponse:
        """Say that the process lives."""
        return pb.ServerLiveResponse(live=True)

    def ServerReady(self, request: pb.ServerReadyRequest, context: grpc.ServicerContext) -> pb.ServerReadyResponse:
        """Say that the model is loaded, which it is before the port opens."""
        return pb.ServerReadyResponse(ready=True)

    def ModelReady(self, request: pb.ModelReadyRequest, context: grpc.ServicerContext) -> pb.ModelReadyResponse:
        """Say whether this is the model, and the version where one is asked for."""
        known = request.name == self._name and request.version in ("", self.version)
        return pb.ModelReadyResponse(ready=known)

    def ServerMetadata(
        self, request: pb.ServerMetadataRequest, context: grpc.ServicerContext
    ) -> pb.ServerMetadataResponse:
        """Name the server."""
        return pb.ServerMetadataResponse(name="everstill teacher", version=self.version)

    def ModelMetadata(
        self, request: pb.ModelMetadataRequest, context: grpc.ServicerContext
    ) -> pb.ModelMetadataResponse:
        """Name inputs and outputs; -1 is any size."""
        self._check_model(request.name, request.version, context)
        response = pb.ModelMetadataResponse(name=self._name, versions=[self.version], platform="onnxruntime_onnx")
        for target, tensors in ((response.inputs, self._graph.inputs), (response.outputs, self._graph.outputs)):
            for tensor in tensors:
                if tensor.served:
                    target.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
        return response

    def ModelInfer(self, request: pb.ModelInferRequest, context: grpc.ServicerContext) -> pb.ModelInferResponse:
        """Run the model on a request's rows."""
        self._check_model(request.model_name, request.model_version, context)
        try:
            inputs = read_inputs(request)
            self._graph.check(inputs)
            names = self._graph.wanted([one.name for one in request.outputs])
            with self._turn:
                if not context.is_active():
                    context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, "the deadline passed before the model ran")
                outputs = self._graph.run(names, inputs)
        except TensorError as error:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        return infer_response(self._name, self.version, outputs, request_id=request.id)

    def _check_model(self, name: str, version: str, context: grpc.ServicerContext) -> None:
        if name != self._name:
            context.abort(grpc.StatusCode.NOT_FOUND, f"unknown model {quoted(name)}. This server has {self._name!r}")
        if version not in ("", self.version):
            context.abort(
                grpc.StatusCode.NOT_FOUND, f"unknown version {quoted(version)}. This server has {self.version!r}"
            )


class RunningTeacher:
    """An open port with a teacher behind it."""

    def __init__(self, server: grpc.Server, checks: health.HealthServicer, address: str) -> None:
        self._server = server
        self._checks = checks
        self.address = address

    def stop(self, grace_s: float) -> None:
        """Tell health first, so that balancers turn away; let calls inside end; close."""
        self._checks.enter_graceful_shutdown()
        self._server.stop(grace_s).wait(2 * grace_s)


def start(settings: TeacherServerSection) -> RunningTeacher:
    """Load the model, open the port and return the running server.

    Raises:
        ConfigurationError: no such file, or not a model. UnavailableError: the port is taken.
    """
    servicer = TeacherServicer(settings, find_onnx(settings.onnx))
    server = grpc.server(
        futures.ThreadPoolExecutor(16, thread_name_prefix="teacher"),
        maximum_concurrent_rpcs=MAX_WAITING,
        options=[
            ("grpc.so_reuseport", 0),
            ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
            ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
        ],
    )
    add_GRPCInferenceServiceServicer_to_server(servicer, server)  # type: ignore[no-untyped-call]
    checks = health.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(checks, server)
    for service in ("", settings.name):
        checks.set(service, health_pb2.HealthCheckResponse.SERVING)
    try:
        port = server.add_insecure_port(f"{settings.host}:{settings.port}")
    except RuntimeError:
        port = 0
    if not port:
        raise UnavailableError(
            f"port {settings.port} on {settings.host} is taken",
            fix="Stop what listens there or set teacher_server.port",
        )
    server.start()
    return RunningTeacher(server, checks, f"{settings.host}:{port}")
