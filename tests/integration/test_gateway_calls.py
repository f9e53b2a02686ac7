"""The calls of the Open Inference Protocol and of gRPC health, as a client sees them: answers, metadata, readiness, pass-through."""

from collections.abc import Mapping
from concurrent import futures

import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from protos import inference_pb2 as pb
from protos.errors import UnavailableError
from protos.tensors import Array
from serving.rpc.convert import infer_request, read_outputs, read_parameters
from tests.support.callers import Answer, Callers, FakeSession, Gate, callers, count, good_inputs, good_request, refused
from tests.support.waiting import wait_for


def health_of(served: Callers, service: str = "") -> int:
    stub = health_pb2_grpc.HealthStub(served.channel)
    return int(stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=5).status)


def ready(served: Callers) -> tuple[bool, bool]:
    server = served.stub.ServerReady(pb.ServerReadyRequest(), timeout=5).ready
    model = served.stub.ModelReady(pb.ModelReadyRequest(name="two"), timeout=5).ready
    return server, model


def test_an_answer_carries_its_rows_and_the_callers_own_id() -> None:
    with callers(FakeSession()) as served:
        answer = served.infer(infer_request("two", good_inputs(3), request_id="mine"))

    assert (answer.id, answer.model_name, answer.model_version) == ("mine", "two", "fake")
    assert read_outputs(answer)["logits"][:, 0].tolist() == [0.0, 1.0, 2.0]


def test_every_answer_has_a_record_id_of_its_own() -> None:
    with callers(FakeSession()) as served:
        ids = {str(read_parameters(served.infer(good_request()).parameters)["record_id"]) for _ in range(20)}

    assert len(ids) == 20
    assert all(len(bytes.fromhex(one)) == 16 for one in ids)


def test_what_was_answered_is_captured_with_the_callers_parameters() -> None:
    with callers(FakeSession()) as served:
        answer = served.infer(infer_request("two", good_inputs(2), parameters={"no_capture": True, "slice": "eu"}))

    (captured,) = served.captured
    assert captured.record_id.hex() == read_parameters(answer.parameters)["record_id"]
    assert captured.parameters == {"no_capture": True, "slice": "eu"}
    assert (captured.version, len(captured.inputs["bytes"])) == ("fake", 2)
    assert captured.logits_BC is not None
    assert captured.logits_BC[:, 0].tolist() == [0.0, 1.0]
    assert captured.teacher_output_BC is None


def test_what_was_refused_is_not_captured() -> None:
    with callers(FakeSession()) as served:
        served.refusal(infer_request("three", good_inputs()))

    assert not served.captured


def test_callers_at_once_each_see_their_own_rows() -> None:
    with callers(FakeSession(), max_batch=8) as served, futures.ThreadPoolExecutor(16) as pool:

        def ask(first: int) -> bool:
            inputs = {**good_inputs(2), "bytes": np.array([[first] * 4, [first + 1] * 4], np.int32)}
            return bool(
                read_outputs(served.infer(infer_request("two", inputs)))["logits"][:, 0].tolist() == [first, first + 1]
            )

        assert all(pool.map(ask, range(200)))


def test_metadata_names_the_tensors_and_the_serving_version() -> None:
    with callers(FakeSession()) as served:
        metadata = served.stub.ModelMetadata(pb.ModelMetadataRequest(name="two"), timeout=5)
        server = served.stub.ServerMetadata(pb.ServerMetadataRequest(), timeout=5)

    assert list(metadata.versions) == ["fake"]
    assert [(one.name, one.datatype, list(one.shape)) for one in metadata.inputs] == [
        ("bytes", "INT32", [-1, 4]),
        ("weights", "FP32", [-1, 2]),
    ]
    assert [(one.name, one.datatype, list(one.shape)) for one in metadata.outputs] == [("logits", "FP32", [-1, 3])]
    assert (server.name, server.version) == ("everstill", "test")


@pytest.mark.parametrize(("name", "version"), [("three", ""), ("two", "v9")])
def test_metadata_of_what_is_not_served_is_not_found(name: str, version: str) -> None:
    with callers(FakeSession()) as served:
        request = pb.ModelMetadataRequest(name=name, version=version)

        assert refused(lambda: served.stub.ModelMetadata(request, timeout=5))[0] == "NOT_FOUND"
        assert not served.stub.ModelReady(pb.ModelReadyRequest(name=name, version=version), timeout=5).ready


def test_readiness_and_health_follow_the_first_version() -> None:
    with callers(None) as served:
        assert served.stub.ServerLive(pb.ServerLiveRequest(), timeout=5).live
        assert ready(served) == (False, False)
        assert health_of(served) == health_pb2.HealthCheckResponse.NOT_SERVING

        served.slot.swap(FakeSession(), drain_deadline_s=1.0)
        served.server.tell_health()

        assert ready(served) == (True, True)
        assert health_of(served) == health_of(served, "inference.GRPCInferenceService") == 1


def test_a_call_for_one_version_is_never_answered_by_the_next() -> None:
    gate = Gate()
    with callers(FakeSession("one", then=gate.wait)) as served:
        pinned = good_request()
        pinned.model_version = "one"
        first = served.stub.ModelInfer.future(good_request(), timeout=20)
        assert gate.entered.acquire(timeout=10)
        waiting = served.stub.ModelInfer.future(pinned, timeout=20)
        with futures.ThreadPoolExecutor(1) as pool:
            swap = pool.submit(served.slot.swap, FakeSession("two"), drain_deadline_s=10.0)
            wait_for(lambda: served.slot.version == "two", what="the swap")
            gate.open()

            assert swap.result(20)
        assert first.result(20).model_version == "one"
        assert refused(lambda: waiting.result(20))[0] == "NOT_FOUND"


def test_before_the_first_version_the_teacher_answers_where_that_is_wished() -> None:
    def ask(inputs: Mapping[str, Array], timeout_s: float) -> Answer:
        assert 0 < timeout_s <= 10
        return Answer(np.full((len(inputs["bytes"]), 3), 0.25, np.float32))

    with callers(None, ask_teacher=ask) as served:
        assert ready(served) == (True, True)
        answer = served.infer(good_request(2))

    (captured,) = served.captured
    assert answer.model_version == "teacher"
    assert read_outputs(answer)["logits"].tolist() == [[0.25] * 3] * 2
    assert (captured.version, captured.logits_BC, captured.teacher_version) == ("", None, "teacher-7")
    assert captured.teacher_output_BC is not None


def test_the_teacher_is_not_asked_on_the_path_once_a_version_serves() -> None:
    def ask(inputs: Mapping[str, Array], timeout_s: float) -> Answer:
        raise AssertionError("asked")

    with callers(FakeSession(), ask_teacher=ask) as served:
        assert served.infer(good_request()).model_version == "fake"


def test_passing_through_to_a_teacher_that_is_away_says_so() -> None:
    def ask(inputs: Mapping[str, Array], timeout_s: float) -> Answer:
        raise UnavailableError("the teacher gave no answer")

    before = count("UNAVAILABLE", "teacher_away")
    with callers(None, ask_teacher=ask) as served:
        status, sentence = served.refusal(good_request())

    assert status == "UNAVAILABLE"
    assert "the teacher gave no answer" in sentence
    assert count("UNAVAILABLE", "teacher_away") == before + 1


def test_a_graceful_stop_answers_what_is_inside_and_takes_no_more() -> None:
    gate = Gate()
    with callers(FakeSession(then=gate.wait)) as served, futures.ThreadPoolExecutor(1) as pool:
        inside = served.stub.ModelInfer.future(good_request(), timeout=20)
        assert gate.entered.acquire(timeout=10)

        stopping = pool.submit(served.server.stop, 10.0)
        wait_for(
            lambda: served.refusal(good_request(), timeout_s=0.2)[0] == "UNAVAILABLE",
            what="new calls to be turned away",
        )
        gate.open()
        stopping.result(20)

        assert inside.result(20).model_version == "fake"
