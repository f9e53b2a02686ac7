"""The demo's caller: every input once, in order, never again where it failed, and no call outlives an interruption."""

import threading

import grpc
import numpy as np
import pytest

from everstill.demo.client import ask_each, send_all
from everstill.demo.score import Sent
from protos import inference_pb2 as pb
from serving.rpc.client import RpcError
from serving.rpc.convert import infer_response, read_inputs
from tests.support.teachers import NUM_CLASSES, OUTPUT, FakeTeacher, serving

INPUTS = [np.full((1, 4), number % NUM_CLASSES, np.int32) for number in range(30)]


def echo(request: pb.ModelInferRequest) -> pb.ModelInferResponse:
    """Answer with the class that the input names."""
    wanted = int(read_inputs(request)["bytes"][0, 0])
    return infer_response(request.model_name, "v-7", {OUTPUT: np.eye(NUM_CLASSES, dtype=np.float32)[[wanted]]})


def send(address: str, *, noted: list[Sent] | None = None) -> list[Sent]:
    def note(one: Sent) -> None:
        if noted is not None:
            noted.append(one)

    return send_all(address, "m", INPUTS, 1000.0, on_sent=note, keep_going=lambda: True)


def test_answers_come_back_in_the_order_of_the_inputs() -> None:
    noted: list[Sent] = []
    with serving(FakeTeacher(answer=echo)) as address:
        sent = send(address, noted=noted)

    assert [one.index for one in sent] == list(range(30))
    assert [one.top_class for one in sent] == [number % NUM_CLASSES for number in range(30)]
    assert {one.version for one in sent} == {"v-7"}
    assert sorted(one.index for one in noted) == list(range(30))


def test_a_failed_request_is_noted_and_never_sent_again() -> None:
    teacher = FakeTeacher((grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED), echo)
    with serving(teacher) as address:
        sent = send(address)

    assert sorted(one.error for one in sent if one.error) == ["RESOURCE_EXHAUSTED", "UNAVAILABLE"]
    assert len(teacher.requests) == 30


def test_an_interruption_between_requests_ends_the_sending() -> None:
    asked = 0

    def interrupted_at_the_fifth() -> bool:
        nonlocal asked
        asked += 1
        if asked == 5:
            raise KeyboardInterrupt
        return True

    teacher = FakeTeacher(answer=echo)
    with serving(teacher) as address, pytest.raises(KeyboardInterrupt):
        send_all(address, "m", INPUTS, 1000.0, on_sent=lambda _: None, keep_going=interrupted_at_the_fifth)

    assert len(teacher.requests) <= 4
    assert not [one for one in threading.enumerate() if one.name.startswith("demo-caller")]


def test_scoring_asks_about_each_input_alone_and_tells_how_far_it_is() -> None:
    told: list[int] = []
    teacher = FakeTeacher(answer=echo)
    with serving(teacher) as address:
        tops, latencies = ask_each(address, "m", OUTPUT, INPUTS[:5], told.append)

    assert tops == [0, 1, 2, 0, 1]
    assert len(latencies) == 5
    assert told == [1, 2, 3, 4, 5]


def test_a_score_with_holes_is_refused() -> None:
    with serving(FakeTeacher((grpc.StatusCode.UNAVAILABLE,), echo)) as address, pytest.raises(RpcError):
        ask_each(address, "m", OUTPUT, INPUTS[:5], lambda _: None)
