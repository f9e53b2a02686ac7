"""The demo's caller: every input once, in order, never again where it failed, and no call outlives an interruption."""

import threading
import time

import grpc
import numpy as np
import pytest

from everstill.demo.client import ALONE, ask_all, lots, send_all
from everstill.demo.score import Sent
from protos import inference_pb2 as pb
from serving.rpc.client import RpcError
from serving.rpc.convert import infer_response, read_inputs
from tests.support.teachers import NUM_CLASSES, OUTPUT, FakeTeacher, serving

INPUTS = [{"bytes": np.full((1, 4), number % NUM_CLASSES, np.int32)} for number in range(30)]


def echo(request: pb.ModelInferRequest) -> pb.ModelInferResponse:
    """Answer with the class that each input names."""
    wanted = read_inputs(request)["bytes"][:, 0].tolist()
    return infer_response(request.model_name, "v-7", {OUTPUT: np.eye(NUM_CLASSES, dtype=np.float32)[wanted]})


def send(address: str, *, noted: list[Sent] | None = None) -> list[Sent]:
    def note(one: Sent) -> None:
        if noted is not None:
            noted.append(one)

    return send_all(address, "m", INPUTS, 1000.0, on_sent=note, before_each=lambda _: 0.0)


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

    def interrupted_at_the_fifth(index: int) -> float:
        nonlocal asked
        asked += 1
        if asked == 5:
            raise KeyboardInterrupt
        return 0.0

    teacher = FakeTeacher(answer=echo)
    with serving(teacher) as address, pytest.raises(KeyboardInterrupt):
        send_all(address, "m", INPUTS, 1000.0, on_sent=lambda _: None, before_each=interrupted_at_the_fifth)

    assert len(teacher.requests) <= 4
    assert not [one for one in threading.enumerate() if one.name.startswith("demo-caller")]


def test_scoring_asks_about_each_input_alone_and_tells_how_far_it_is() -> None:
    told: list[int] = []
    teacher = FakeTeacher(answer=echo)
    with serving(teacher) as address:
        tops, latencies = ask_all(address, "m", OUTPUT, INPUTS[:5], told.append)

    assert tops == [0, 1, 2, 0, 1]
    assert len(latencies) == 5
    assert told == [1, 2, 3, 4, 5]


def test_a_score_with_holes_is_refused() -> None:
    with serving(FakeTeacher((grpc.StatusCode.UNAVAILABLE,), echo)) as address, pytest.raises(RpcError):
        ask_all(address, "m", OUTPUT, INPUTS[:5], lambda _: None)


def test_time_that_the_client_waits_on_purpose_moves_everything_after_it() -> None:
    times: list[float] = []

    def wait_at_the_tenth(index: int) -> float:
        times.append(time.monotonic())
        return 0.2 if index == 10 else 0.0

    with serving(FakeTeacher(answer=echo)) as address:
        send_all(address, "m", INPUTS[:20], 50.0, on_sent=lambda _: None, before_each=wait_at_the_tenth)

    assert times[19] - times[0] >= 19 / 50 + 0.2


def test_inputs_of_one_shape_are_asked_about_together_after_the_first_few() -> None:
    rows = [{"ids": np.zeros((1, 1 + place % 2), np.int64)} for place in range(ALONE + 10)]

    parts = lots(rows, 4)

    assert parts[:ALONE] == [[place] for place in range(ALONE)]
    assert sorted(map(len, parts[ALONE:])) == [1, 1, 4, 4]
    assert all(len({rows[place]["ids"].shape for place in part}) == 1 for part in parts)
    assert sorted(place for part in parts for place in part) == list(range(ALONE + 10))


def test_batched_answers_come_back_at_the_places_of_their_inputs() -> None:
    rows = INPUTS * 11
    with serving(FakeTeacher(answer=echo)) as address:
        tops, latencies = ask_all(address, "m", OUTPUT, rows, lambda _: None, batch=8)

    assert tops == [number % 30 % NUM_CLASSES for number in range(330)]
    assert len(latencies) == ALONE
