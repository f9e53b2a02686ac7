"""The built-in teacher server: one ONNX file behind the Open Inference Protocol.

Decides nothing about distillation: it answers what it is asked, and a bundle's student can be served by it as well. One ONNX
Runtime session; runs are one at a time, since two at once on few cores only slow each other. gRPC threads wait their turn, and
a call whose deadline passed while it waited is not run.
"""

import hashlib
import importlib.util
import pathlib
import threading
from concurrent import futures

import grpc
import onnxruntime as ort
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from protos import inference_pb2 as pb
from protos.errors import ConfigurationError, TensorError, UnavailableError
from protos.tensors import Array
from serving.config import TeacherServerSection
from serving.rpc.convert import infer_response, read_inputs
from serving.rpc.inference_pb2_grpc import GRPCInferenceServiceServicer, add_GRPCInferenceServiceServicer_to_server

DATATYPES = {
    "tensor(int32)": "INT32", "tensor(int64)": "INT64", "tensor(float)": "FP32", "tensor(float16)": "FP16", "tensor(double)": "FP64",
    "tensor(uint8)": "UINT8", "tensor(int8)": "INT8", "tensor(bool)": "BOOL", "tensor(uint16)": "UINT16", "tensor(int16)": "INT16",
    "tensor(uint32)": "UINT32", "tensor(uint64)": "UINT64",
}  # fmt: skip
MAGIKA_MODEL = "models/standard_v3_3/model.onnx"
MAX_MESSAGE_BYTES = 64 * 2**20
#: Calls that may wait for their turn; one more is refused, and the asker's samples spool.
MAX_WAITING = 256


def find_onnx(name: str) -> pathlib.Path:
    """Return the path of a teacher's ONNX file; `magika` is the one inside the magika wheel, found without importing it.

    Raises:
        ConfigurationError: there is no such file.
    """
    if name == "magika":
        found = importlib.util.find_spec("magika")
        if found is None or found.origin is None:
            raise ConfigurationError(
                "teacher_server.onnx is `magika`, which is not installed", fix="Install everstill[demo]"
            )
        return pathlib.Path(found.origin).parent / MAGIKA_MODEL
    path = pathlib.Path(name)
    if not path.is_file():
        raise ConfigurationError(f"teacher_server.onnx names {path}, which is not a file", fix="Name an ONNX file")
    return path


class TeacherServicer(GRPCInferenceServiceServicer):
    """Answers the protocol's calls from one session."""

    def __init__(self, settings: TeacherServerSection, path: pathlib.Path) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = settings.threads
        options.inter_op_num_threads = 1
        try:
            self._session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # a supervision point: onnxruntime's errors share no other base class
            raise ConfigurationError(f"{path} can't be loaded by ONNX Runtime: {str(error).splitlines()[0]}") from None
        self._name = settings.name
        with path.open("rb") as file:
            self.version = settings.version or hashlib.file_digest(file, "sha256").hexdigest()[:12]
        self._inputs = {one.name: one for one in self._session.get_inputs()}
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
        for target, nodes in (
            (response.inputs, self._session.get_inputs()),
            (response.outputs, self._session.get_outputs()),
        ):
            for node in nodes:
                shape = [size if isinstance(size, int) else -1 for size in node.shape]
                target.add(name=node.name, datatype=DATATYPES.get(node.type, node.type), shape=shape)
        return response

    def ModelInfer(self, request: pb.ModelInferRequest, context: grpc.ServicerContext) -> pb.ModelInferResponse:
        """Run the model on a request's rows."""
        self._check_model(request.model_name, request.model_version, context)
        try:
            inputs = read_inputs(request)
            self._check_inputs(inputs)
        except TensorError as error:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        names = [one.name for one in request.outputs] or [one.name for one in self._session.get_outputs()]
        known = {one.name for one in self._session.get_outputs()}
        for name in names:
            if name not in known:
                context.abort(
                    grpc.StatusCode.INVALID_ARGUMENT, f"unknown output {name!r}. Known are {', '.join(sorted(known))}"
                )
        with self._turn:
            if not context.is_active():
                context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, "the deadline passed before the model ran")
            outputs = self._run(names, inputs, context)
        return infer_response(self._name, self.version, outputs, request_id=request.id)

    def _run(self, names: list[str], inputs: dict[str, Array], context: grpc.ServicerContext) -> dict[str, Array]:
        try:
            return dict(zip(names, self._session.run(names, inputs), strict=True))
        except Exception as error:  # a supervision point: a bad row must not end the server
            context.abort(
                grpc.StatusCode.INVALID_ARGUMENT, f"the model refused these inputs: {str(error).splitlines()[0]}"
            )
            raise AssertionError("abort raises") from error

    def _check_model(self, name: str, version: str, context: grpc.ServicerContext) -> None:
        if name != self._name:
            context.abort(grpc.StatusCode.NOT_FOUND, f"unknown model {name!r}. This server has {self._name!r}")
        if version not in ("", self.version):
            context.abort(grpc.StatusCode.NOT_FOUND, f"unknown version {version!r}. This server has {self.version!r}")

    def _check_inputs(self, inputs: dict[str, Array]) -> None:
        if missing := self._inputs.keys() - inputs.keys():
            raise TensorError(f"input {sorted(missing)[0]!r} is missing")
        for name, array in inputs.items():
            if name not in self._inputs:
                raise TensorError(f"unknown input {name!r}", fix=f"Known are {', '.join(sorted(self._inputs))}")
            node = self._inputs[name]
            numpy_name = node.type.removeprefix("tensor(").removesuffix(")")
            expected = {"float": "float32", "double": "float64"}.get(numpy_name, numpy_name)
            if array.dtype.name != expected:
                raise TensorError(f"input {name!r} is {array.dtype.name}, the model takes {expected}")
            fits = len(array.shape) == len(node.shape) and all(
                not isinstance(want, int) or want == have for want, have in zip(node.shape, array.shape, strict=True)
            )
            if not fits:
                raise TensorError(f"input {name!r} has shape {list(array.shape)}, the model takes {node.shape}")


def start(settings: TeacherServerSection) -> tuple[grpc.Server, str]:
    """Load the model, open the port and return the running server and its address.

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
    checks.set("", health_pb2.HealthCheckResponse.SERVING)
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
    return server, f"{settings.host}:{port}"
