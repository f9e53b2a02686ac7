"""What the gateway says of itself: liveness, readiness and metadata of the server and of each of its models.

Decides what counts as ready. Runs nothing and waits for nothing. Called by gRPC's threads.
"""

import grpc

from protos import inference_pb2 as pb
from serving.gateway.refusal import Refusal
from serving.gateway.servicer import Servicer, abort, find_model
from serving.gateway.validation import check_version


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
        return pb.ServerMetadataResponse(name="everstill", version=self._servicer.server_version)

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
        return response
