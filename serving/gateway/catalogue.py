"""What the gateway says of itself: liveness, readiness and metadata of the server and of each of its models, and their index.

Decides what counts as ready, and that nobody loads or unloads a model through this port: the registry's pointers do. Runs nothing and waits for nothing. Called by gRPC's threads.
"""

import grpc

from protos import inference_pb2 as pb
from protos.tensors import quoted
from serving.gateway.refusal import Refusal
from serving.gateway.servicer import ServedModel, Servicer, abort, find_model
from serving.gateway.validation import check_version

#: Extensions of the protocol that are answered, by Triton's names.
EXTENSIONS = ("model_repository", "binary_tensor_data", "parameters")
READY, UNAVAILABLE = "READY", "UNAVAILABLE"


class Catalogue:
    """Answers the calls that ask about models instead of asking them."""

    def __init__(self, servicer: Servicer) -> None:
        self._servicer = servicer
        self._models = servicer.models

    def server_live(self, request: pb.ServerLiveRequest, context: grpc.ServicerContext) -> pb.ServerLiveResponse:
        """Say that the process lives."""
        return pb.ServerLiveResponse(live=True)

    def server_ready(self, request: pb.ServerReadyRequest, context: grpc.ServicerContext) -> pb.ServerReadyResponse:
        """Say whether every model answers requests."""
        return pb.ServerReadyResponse(ready=self._servicer.ready)

    def model_ready(self, request: pb.ModelReadyRequest, context: grpc.ServicerContext) -> pb.ModelReadyResponse:
        """Say whether this model (and version) answers requests."""
        model = self._models.get(request.name)
        ready = model is not None and model.ready and request.version in ("", model.student.version())
        return pb.ModelReadyResponse(ready=ready)

    def server_metadata(
        self, request: pb.ServerMetadataRequest, context: grpc.ServicerContext
    ) -> pb.ServerMetadataResponse:
        """Name the server."""
        return pb.ServerMetadataResponse(name="everstill", version=self._servicer.server_version, extensions=EXTENSIONS)

    def model_metadata(
        self, request: pb.ModelMetadataRequest, context: grpc.ServicerContext
    ) -> pb.ModelMetadataResponse:
        """Name a model's tensors and its serving version."""
        try:
            model = find_model(self._models, request.name)
            live = model.student.version()
            check_version(live, request.version)
        except Refusal as refusal:
            abort(refusal, context)
        settings = model.settings
        response = pb.ModelMetadataResponse(
            name=settings.name, versions=[live] if live else [], platform="onnxruntime_onnx"
        )
        for spec in settings.inputs:
            response.inputs.add(name=spec.name, datatype=spec.datatype, shape=spec.shape)
        response.outputs.add(name=settings.output, datatype="FP32", shape=[-1, settings.num_classes])
        for spec in settings.extra_outputs:
            response.outputs.add(name=spec.name, datatype=spec.datatype, shape=spec.shape)
        return response

    def repository_index(
        self, request: pb.RepositoryIndexRequest, context: grpc.ServicerContext
    ) -> pb.RepositoryIndexResponse:
        """List the models, each with its serving version and whether it answers; `ready` leaves the others out."""
        if request.repository_name:
            name = quoted(request.repository_name)
            abort(Refusal("NOT_FOUND", "unknown_repository", f"unknown repository {name}", fix="Name none"), context)
        response = pb.RepositoryIndexResponse()
        for name, model in self._models.items():
            if model.ready or not request.ready:
                state = READY if model.ready else UNAVAILABLE
                version = model.student.version() or ""
                response.models.add(name=name, version=version, state=state, reason=_reason(model))
        return response

    def repository_model_load(
        self, request: pb.RepositoryModelLoadRequest, context: grpc.ServicerContext
    ) -> pb.RepositoryModelLoadResponse:
        """Refuse: what serves is what the registry names."""
        abort(_registry_decides("loaded", request.model_name), context)

    def repository_model_unload(
        self, request: pb.RepositoryModelUnloadRequest, context: grpc.ServicerContext
    ) -> pb.RepositoryModelUnloadResponse:
        """Refuse: what serves is what the registry names."""
        abort(_registry_decides("unloaded", request.model_name), context)


def _reason(model: ServedModel) -> str:
    if model.student.version():
        return ""
    return "no version yet: the teacher answers" if model.ready else "no version yet"


def _registry_decides(done: str, name: str) -> Refusal:
    return Refusal(
        "UNIMPLEMENTED",
        "registry_decides",
        f"model {quoted(name)} can't be {done} by a call: this gateway serves the version that the registry's live pointer names",
        fix="Move the pointer: everstill's loop does by promoting a version",
    )
