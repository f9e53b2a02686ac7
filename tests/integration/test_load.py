"""The benchmarks' load generator against a real server: what it says of the calls is what happened."""

import pathlib

import grpc
import numpy as np

from benchmarks.load import Load
from benchmarks.students import MODEL_SETTINGS, make_inputs
from protos import inference_pb2 as pb
from serving.rpc.convert import infer_response, read_inputs
from tests.support.teachers import FakeTeacher, serving
from tests.support.waiting import wait_for

INPUTS = make_inputs(16, 1)


def first_byte(request: pb.ModelInferRequest) -> pb.ModelInferResponse:
    """Answer with the input's first byte as first logit, and class 2 on top."""
    row = read_inputs(request)["bytes"]
    logits_BC = np.array([[row[0, 0], 0, 1000]], np.float32)
    return infer_response(MODEL_SETTINGS.name, "v7", {MODEL_SETTINGS.output: logits_BC})


def test_every_call_is_recorded_with_its_input_version_and_answer(tmp_path: pathlib.Path) -> None:
    server = FakeTeacher(answer=first_byte)
    with serving(server) as address, Load(address, tmp_path, 2, len(INPUTS), 1) as load:
        load.start()
        wait_for(lambda: len(server.requests) > 40, what="some calls")
        records = load.stop()

    assert len(records) == len(server.requests)
    assert set(records["input"]) == set(range(len(INPUTS)))
    assert (records["version"] == "v7").all()
    assert (records["top"] == 2).all()
    np.testing.assert_array_equal(records["first_logit"], INPUTS[records["input"], 0])


def test_failures_are_recorded_by_status_and_the_load_goes_on(tmp_path: pathlib.Path) -> None:
    server = FakeTeacher((grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.INTERNAL), answer=first_byte)
    with serving(server) as address, Load(address, tmp_path, 1, len(INPUTS), 1) as load:
        load.start()
        wait_for(lambda: len(server.requests) > 10, what="some calls")
        records = load.stop()

    assert records["code"].tolist()[:3] == ["RESOURCE_EXHAUSTED", "INTERNAL", "OK"]


def test_a_stopped_load_asks_nothing_and_can_be_started_again(tmp_path: pathlib.Path) -> None:
    server = FakeTeacher(answer=first_byte)
    with serving(server) as address, Load(address, tmp_path, 2, len(INPUTS), 1) as load:
        first = load.run(0.2)
        after_first = len(server.requests)
        second = load.run(0.2)

    assert len(first) == after_first
    assert len(first) + len(second) == len(server.requests)


def test_a_load_ends_by_itself(tmp_path: pathlib.Path) -> None:
    server = FakeTeacher(answer=first_byte)
    with serving(server) as address, Load(address, tmp_path, 1, len(INPUTS), 1, limit_s=0.2) as load:
        records = load.run(0.6)

    assert records["start_s"].max() - records["start_s"].min() <= 0.25
