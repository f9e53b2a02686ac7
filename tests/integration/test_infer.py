"""`everstill infer` against a server: a line for each row, in order, whatever fails."""

import io
import json
import pathlib
from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest

from everstill.infer.run import Infer, Order
from protos import inference_pb2 as pb
from protos.errors import EverstillError
from serving.rpc.client import InferenceClient, NotFound
from serving.rpc.convert import infer_response, read_inputs
from serving.rpc.inference_pb2_grpc import GRPCInferenceServiceServicer
from tests.support.teachers import serving

LABELS = ("no", "yes")


class FakeGateway(GRPCInferenceServiceServicer):
    """Takes x FP32 [-1, 1]; class 1 is as likely as sigmoid(x); refuses what is over 100."""

    def __init__(self) -> None:
        self.num_requests = 0

    def ModelMetadata(self, request: Any, context: grpc.ServicerContext) -> pb.ModelMetadataResponse:
        if request.name != "m":
            context.abort(grpc.StatusCode.NOT_FOUND, f"unknown model {request.name!r}")
        response = pb.ModelMetadataResponse(name="m")
        response.inputs.add(name="x", datatype="FP32", shape=[-1, 1])
        return response

    def ModelInfer(self, request: pb.ModelInferRequest, context: grpc.ServicerContext) -> pb.ModelInferResponse:
        self.num_requests += 1
        x = read_inputs(request)["x"]
        if x.max() > 100:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "too large")
        logits = np.concatenate([np.zeros_like(x), x], axis=1)
        outputs = {"logits": logits, "length": np.ones((len(x),), np.int64)}
        return infer_response("m", "v1", outputs, request_id=request.id, parameters={"record_id": "r-1"})

    def ModelStreamInfer(self, requests: Any, context: grpc.ServicerContext) -> Iterator[pb.ModelStreamInferResponse]:
        for request in requests:
            yield pb.ModelStreamInferResponse(infer_response=self.ModelInfer(request, context))


def infer(
    given: str, *, gateway: FakeGateway | None = None, **order: Any
) -> tuple[int, list[dict[str, Any]], list[str]]:
    out, said = io.StringIO(), list[str]()
    options = {"model": "m", "labels": LABELS, **order}
    with serving(gateway or FakeGateway()) as address, InferenceClient(address, timeout_s=10) as client:
        code = Infer(client, Order(**options), out, said.append).run(io.BytesIO(given.encode()))
    return code, [json.loads(line) for line in out.getvalue().splitlines()], said


@pytest.mark.parametrize("stream", [False, True])
def test_each_row_gets_a_line_in_order_with_labels_and_probabilities(stream: bool) -> None:
    code, lines, said = infer("\n".join(f"[{x}]" for x in range(50)), stream=stream)

    assert code == 0
    assert [line["line"] for line in lines] == list(range(1, 51))
    assert lines[0] == {
        "source": "-", "line": 1, "version": "v1", "record_id": "r-1",
        "top": [{"class": 0, "label": "no", "probability": 0.5}],
    }  # fmt: skip
    assert lines[5]["top"] == [{"class": 1, "label": "yes", "probability": 0.993307}]
    assert said[-1].startswith("50 answered, 0 failed in ")


@pytest.mark.parametrize("stream", [False, True])
def test_a_row_that_does_not_fit_is_a_line_and_the_others_are_answered(stream: bool) -> None:
    code, lines, _ = infer('[1]\noops\n{"id": "mine", "x": [2]}\n[1, 2]', stream=stream)

    assert code == 1
    assert ["error" in line for line in lines] == [False, True, False, True]
    assert lines[2]["id"] == "mine"


def test_a_row_that_the_server_refuses_is_a_line_too() -> None:
    code, lines, said = infer("[1]\n[101]\n[2]")

    assert code == 1
    assert lines[1]["code"] == "INVALID_ARGUMENT"
    assert lines[1]["error"].endswith("too large")
    assert said[-1].startswith("2 answered, 1 failed")


def test_batches_ask_less_often_and_print_the_same() -> None:
    gateway = FakeGateway()

    code, lines, _ = infer("\n".join(f"[{x}]" for x in range(10)), gateway=gateway, batch=4, top=2)

    assert (code, gateway.num_requests, len(lines)) == (0, 3, 10)
    assert [one["class"] for one in lines[9]["top"]] == [1, 0]


def test_raw_prints_every_output_as_it_is() -> None:
    _, lines, _ = infer("[3]", raw=True)
    _, chosen, _ = infer("[3]", output="length")

    assert lines[0]["outputs"] == {"logits": [0.0, 3.0], "length": 1}
    assert chosen[0]["outputs"] == {"length": 1}


def test_an_unknown_output_or_model_ends_it_with_a_sentence() -> None:
    with pytest.raises(EverstillError, match=r"no output 'scores'\. It has logits, length"):
        infer("[3]", output="scores")
    with pytest.raises(NotFound, match="unknown model 'n'"):
        infer("[3]", model="n")


def test_a_file_that_is_away_ends_it(tmp_path: pathlib.Path) -> None:
    with pytest.raises(EverstillError, match="cannot read"):
        infer("", files=(str(tmp_path / "gone.jsonl"),))


def test_nothing_to_ask_is_nothing_printed() -> None:
    assert infer("")[:2] == (0, [])
