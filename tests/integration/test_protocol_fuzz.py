"""Requests that nobody thought of: whatever arrives, the answer is right or the status is one that a caller can act on."""

import contextlib
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protos import inference_pb2 as pb
from protos.tensors import KNOWN_DATATYPES
from serving.rpc.convert import CONTENTS_FIELD, infer_request, read_outputs
from tests.support.callers import Callers, FakeSession, callers, good_request
from tests.support.kinds import INPUTS, KINDS, TABLE, kinds_graph, kinds_inputs, session_of

#: Statuses that say what to do.
FINE = {"INVALID_ARGUMENT", "NOT_FOUND", "RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED"}
GOOD = infer_request("kinds", kinds_inputs(2))
NAMES = st.sampled_from([*INPUTS, "logits", "text_back", "", "\N{SNOWMAN}"])
SIZES = st.integers(-2, 4) | st.sampled_from([2**31, 2**62, 2**63 - 1, -(2**63)])
VALUES: dict[str, Any] = {
    "bool_contents": st.booleans(),
    "int_contents": st.integers(-(2**31), 2**31 - 1),
    "int64_contents": st.integers(-(2**63), 2**63 - 1),
    "uint_contents": st.integers(0, 2**32 - 1),
    "uint64_contents": st.integers(0, 2**64 - 1),
    "fp32_contents": st.floats(width=32),
    "fp64_contents": st.floats(),
    "bytes_contents": st.binary(max_size=5),
}
PARAMETERS = st.sampled_from(["timeout", "sequence_id", "slice", "no_capture", "subject_key", "priority", ""])


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callers]:
    kinds = session_of(tmp_path_factory.mktemp("kinds"), KINDS, kinds_graph())
    with callers(FakeSession(), others=[(KINDS, kinds)]) as open_port:
        yield open_port


@st.composite
def spoilt(draw: st.DrawFn) -> pb.ModelInferRequest:
    """Return a good request for `kinds` after some changes; it may still be good."""
    request = pb.ModelInferRequest()
    request.CopyFrom(GOOD)
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.integers(0, len(INPUTS) - 1))
        tensor = request.inputs[place]
        change = draw(st.sampled_from(["name", "datatype", "shape", "raw", "typed", "output", "parameter", "version"]))
        if change == "name":
            tensor.name = draw(NAMES)
        elif change == "datatype":
            tensor.datatype = draw(st.sampled_from([*KNOWN_DATATYPES, "BF16", "INT", ""]))
        elif change == "shape":
            tensor.shape[:] = draw(st.lists(SIZES, max_size=4))
        elif change == "raw":
            _set_raw(request, place, draw(st.binary(max_size=20)))
        elif change == "typed":
            del request.raw_input_contents[:]
            field = draw(st.sampled_from(sorted({*CONTENTS_FIELD.values()})))
            getattr(tensor.contents, field).extend(draw(st.lists(VALUES[field], max_size=5)))
        elif change == "output":
            request.outputs.add(name=draw(NAMES))
        elif change == "parameter":
            request.parameters[draw(PARAMETERS)].CopyFrom(draw(parameters()))
        else:
            request.model_version = draw(st.sampled_from(["", "ffffffffffff", "v9", "teacher"]))
    return request


@st.composite
def parameters(draw: st.DrawFn) -> pb.InferParameter:
    """Return a parameter of any kind."""
    return draw(
        st.sampled_from(
            [
                pb.InferParameter(),
                pb.InferParameter(bool_param=True),
                pb.InferParameter(int64_param=-1),
                pb.InferParameter(int64_param=10**9),
                pb.InferParameter(uint64_param=2**64 - 1),
                pb.InferParameter(double_param=float("nan")),
                pb.InferParameter(double_param=float("inf")),
                pb.InferParameter(string_param="\N{SNOWMAN}"),
            ]
        )
    )


def _set_raw(request: pb.ModelInferRequest, place: int, content: bytes) -> None:
    with contextlib.suppress(IndexError):
        request.raw_input_contents[place] = content


def ask(served: Callers, data: bytes) -> pb.ModelInferResponse | None:
    """Return the answer to a request's bytes, or None where a status is the right answer."""
    call: Any = served.channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
    try:
        return pb.ModelInferResponse.FromString(call(data, timeout=10))
    except grpc.RpcError as error:
        assert error.code().name in FINE, error.details()  # noqa: PT017
        assert error.details()  # noqa: PT017
        return None


def assert_right(request: pb.ModelInferRequest, answer: pb.ModelInferResponse) -> None:
    outputs = read_outputs(answer)
    wanted = [one.name for one in request.outputs] or ["logits", *(spec.name for spec in KINDS.extra_outputs)]
    assert list(outputs) == wanted
    if "logits" in outputs and request.raw_input_contents[: len(INPUTS)] == GOOD.raw_input_contents:
        assert outputs["logits"].tolist() == TABLE[[0, 1]].tolist()


@settings(max_examples=300, deadline=None)
@given(spoilt())
def test_a_request_with_any_mistakes_is_answered_right_or_refused(served: Callers, wrong: pb.ModelInferRequest) -> None:
    answer = ask(served, wrong.SerializeToString())

    if answer is not None:
        assert_right(wrong, answer)


@settings(max_examples=300, deadline=None)
@given(st.integers(0, len(GOOD.SerializeToString()) - 1), st.binary(max_size=6), st.integers(0, 6))
def test_a_request_with_any_bytes_changed_is_answered_or_refused(
    served: Callers, place: int, put: bytes, cut: int
) -> None:
    data = GOOD.SerializeToString()

    ask(served, data[:place] + put + data[place + cut :])


@settings(max_examples=30, deadline=None)
@given(st.lists(spoilt(), max_size=8))
def test_a_stream_of_any_requests_is_answered_one_by_one(served: Callers, requests: list[pb.ModelInferRequest]) -> None:
    answers = list(served.stream([*requests, good_request()]))

    assert len(answers) == len(requests) + 1
    assert not answers[-1].error_message
    assert all(one.error_message.partition(":")[0] in FINE | {""} for one in answers)


def test_the_good_request_is_good(served: Callers) -> None:
    answer = ask(served, GOOD.SerializeToString())

    assert answer is not None
    assert_right(GOOD, answer)
