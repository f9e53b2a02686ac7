"""What a gateway says of its models: index, metadata, readiness, health by service and by model, and reflection."""

import queue

import pytest
from google.protobuf import descriptor_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from protos import inference_pb2 as pb
from protos.pool import POOL
from serving.gateway.servicer import ServedModel
from tests.support.callers import Callers, FakeSession, callers, refused
from tests.support.kinds import KINDS

SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


def index(served: Callers, **request: object) -> list[tuple[str, str, str, str]]:
    answer = served.stub.RepositoryIndex(pb.RepositoryIndexRequest(**request), timeout=5)
    return [(one.name, one.version, one.state, one.reason) for one in answer.models]


def health_of(served: Callers, service: str) -> int:
    stub = health_pb2_grpc.HealthStub(served.channel)
    return int(stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=5).status)


def reflected(served: Callers, version: str, **question: str) -> reflection_pb2.ServerReflectionResponse:
    call = served.channel.stream_stream(
        f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
        reflection_pb2.ServerReflectionRequest.SerializeToString,
        reflection_pb2.ServerReflectionResponse.FromString,
    )
    (answer,) = call(iter([reflection_pb2.ServerReflectionRequest(**question)]), timeout=5)
    return answer


def test_the_index_names_every_model_with_its_version_and_state() -> None:
    with callers(FakeSession("v1"), others=[(KINDS, None)]) as served:
        assert index(served) == [
            ("two", "v1", "READY", ""),
            ("more", "v1", "READY", ""),
            ("kinds", "", "UNAVAILABLE", "no version yet"),
        ]
        assert [name for name, *_ in index(served, ready=True)] == ["two", "more"]


def test_the_index_says_where_the_teacher_answers() -> None:
    with callers(None, ask_teacher=lambda inputs, timeout_s: pytest.fail("asked")) as served:
        assert index(served, ready=True)[0] == ("two", "", "READY", "no version yet: the teacher answers")


def test_a_bug_in_a_call_about_models_says_no_more_than_that(monkeypatch: pytest.MonkeyPatch) -> None:
    with callers(FakeSession("v1")) as served:
        with monkeypatch.context() as patched:
            patched.setattr(ServedModel, "ready", property(lambda self: {}["/a/path"]))
            code, sentence = refused(lambda: index(served))
        assert index(served)[0] == ("two", "v1", "READY", "")

    assert (code, sentence) == ("INTERNAL", "this gateway failed on the call; its log says why")


def test_there_is_one_repository_and_it_has_no_name() -> None:
    with callers(FakeSession()) as served:
        code, sentence = refused(lambda: index(served, repository_name="other"))

    assert (code, "'other'" in sentence) == ("NOT_FOUND", True)


def test_a_gateway_is_ready_when_every_model_is_and_health_tells_them_apart() -> None:
    with callers(FakeSession(), others=[(KINDS, None)]) as served:
        assert not served.stub.ServerReady(pb.ServerReadyRequest(), timeout=5).ready
        assert [
            served.stub.ModelReady(pb.ModelReadyRequest(name=name), timeout=5).ready for name in ("two", "kinds")
        ] == [True, False]
        services = ("", "inference.GRPCInferenceService", "two", "kinds")
        assert [health_of(served, one) for one in services] == [NOT_SERVING, NOT_SERVING, SERVING, NOT_SERVING]
        assert refused(lambda: health_of(served, "other"))[0] == "NOT_FOUND"


def test_metadata_names_further_outputs_and_extensions() -> None:
    with callers(FakeSession()) as served:
        model = served.stub.ModelMetadata(pb.ModelMetadataRequest(name="more"), timeout=5)
        server = served.stub.ServerMetadata(pb.ServerMetadataRequest(), timeout=5)

    assert [(one.name, one.datatype, list(one.shape)) for one in model.outputs] == [
        ("logits", "FP32", [-1, 3]),
        ("double", "INT64", [-1]),
        ("text", "BYTES", [-1]),
    ]
    assert list(server.extensions) == ["model_repository", "binary_tensor_data", "parameters"]


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
def test_reflection_lists_the_services_and_gives_our_messages(version: str) -> None:
    with callers(FakeSession()) as served:
        listed = reflected(served, version, list_services="")
        found = reflected(served, version, file_containing_symbol="inference.GRPCInferenceService.ModelStreamInfer")
        health = reflected(served, version, file_containing_symbol="grpc.health.v1.Health")
        missing = reflected(served, version, file_containing_symbol="nothing.Here")

    names = {one.name for one in listed.list_services_response.service}
    assert {"inference.GRPCInferenceService", "everstill.v1.Feedback", "grpc.health.v1.Health"} < names
    file = descriptor_pb2.FileDescriptorProto.FromString(found.file_descriptor_response.file_descriptor_proto[0])
    assert file.name == POOL.FindFileContainingSymbol("inference.ModelInferRequest").name
    assert health.file_descriptor_response.file_descriptor_proto
    assert missing.error_response.error_code == 5  # NOT_FOUND


def test_reflection_takes_no_thread_from_callers() -> None:
    asked: queue.SimpleQueue[reflection_pb2.ServerReflectionRequest | None] = queue.SimpleQueue()
    with callers(FakeSession(), threads=1) as served:
        held = reflection_pb2_grpc.ServerReflectionStub(served.channel).ServerReflectionInfo(
            iter(asked.get, None), timeout=20
        )
        asked.put(reflection_pb2.ServerReflectionRequest(list_services=""))
        assert next(held).list_services_response.service

        assert served.stub.ServerLive(pb.ServerLiveRequest(), timeout=5).live
        asked.put(None)
        assert list(held) == []
