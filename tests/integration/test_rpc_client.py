"""The typed client: arrays in, arrays out, and every way in which a call may fail as one sentence with a status."""

import contextlib
from collections.abc import Iterator

import grpc
import pytest

from protos.errors import UnavailableError
from serving.rpc.client import InferenceClient, RpcError
from serving.rpc.convert import read_inputs, read_parameters
from tests.support.teachers import OUTPUT, FakeTeacher, rows, serving


@contextlib.contextmanager
def asking(teacher: FakeTeacher, *, timeout_s: float = 10.0) -> Iterator[InferenceClient]:
    with serving(teacher) as address:
        client = InferenceClient(address, timeout_s=timeout_s)
        try:
            yield client
        finally:
            client.close()


def test_an_answer_has_outputs_version_and_latency() -> None:
    with asking(FakeTeacher()) as client:
        answer = client.infer("m", rows(2))

    assert answer.outputs[OUTPUT].shape == (2, 3)
    assert answer.version == "teacher-7"
    assert answer.latency_s > 0


def test_inputs_and_parameters_arrive_as_they_were_sent() -> None:
    with asking(teacher := FakeTeacher()) as client:
        client.infer("m", rows(2), parameters={"no_capture": True, "slice": "eu"})

    (request,) = teacher.requests
    assert request.model_name == "m"
    assert read_inputs(request)["bytes"].tolist() == rows(2)["bytes"].tolist()
    assert read_parameters(request.parameters) == {"no_capture": True, "slice": "eu"}


@pytest.mark.parametrize(
    "code", [grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.INTERNAL, grpc.StatusCode.NOT_FOUND]
)
def test_a_refusal_names_server_status_and_sentence(code: grpc.StatusCode) -> None:
    with asking(FakeTeacher((code,))) as client, pytest.raises(RpcError) as caught:
        client.infer("m", rows())

    assert caught.value.code == code.name
    assert caught.value.message == f"{client.address} answered {code.name}: as the test says"


def test_nothing_is_tried_twice() -> None:
    with asking(teacher := FakeTeacher((grpc.StatusCode.UNAVAILABLE,))) as client, pytest.raises(RpcError):
        client.infer("m", rows())

    assert len(teacher.requests) == 1


def test_a_call_ends_at_its_deadline() -> None:
    teacher = FakeTeacher()
    teacher.dawdle.clear()

    with asking(teacher, timeout_s=0.2) as client, pytest.raises(RpcError) as caught:
        client.infer("m", rows())

    assert caught.value.code == "DEADLINE_EXCEEDED"


def test_a_server_that_is_away_is_unavailable_and_not_ready() -> None:
    client = InferenceClient("127.0.0.1:1", timeout_s=2.0)
    try:
        with pytest.raises(UnavailableError) as caught:
            client.infer("m", rows())
        assert isinstance(caught.value, RpcError)
        assert caught.value.code == "UNAVAILABLE"
        assert not client.ready()
        with pytest.raises(RpcError):
            client.metadata("m")
    finally:
        client.close()
