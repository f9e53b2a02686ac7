"""Validation: whatever arrives is either what the model declares, or refused with a status, a reason and a sentence. Nothing else."""

import numpy as np
import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from protos import inference_pb2 as pb
from protos.tensors import NUMPY_TYPES
from serving.gateway.refusal import MAX_MESSAGE_CHARACTERS, Refusal
from serving.gateway.validation import (
    check_answer_size,
    check_inputs,
    check_version,
    time_allowed,
    wanted_outputs,
)
from tests.support.callers import MORE_OUTPUTS, TWO_INPUTS, good_inputs, good_request

#: Reasons are labels of a metric: a caller must not be able to make new ones.
REASONS = {
    "bad_tensor",
    "missing_input",
    "not_finite",
    "unknown_input",
    "wrong_bytes",
    "wrong_datatype",
    "wrong_shape",
}
NAMES = st.sampled_from(["bytes", "weights", "colour", ""])
SIZES = st.integers(-2, 6) | st.sampled_from([2**31, 2**62])


@st.composite
def tensors(draw: st.DrawFn) -> pb.ModelInferRequest.InferInputTensor:
    tensor = pb.ModelInferRequest.InferInputTensor(
        name=draw(NAMES),
        datatype=draw(st.sampled_from([*NUMPY_TYPES, "BYTES", ""])),
        shape=draw(st.lists(SIZES, max_size=4)),
    )
    if draw(st.booleans()):
        tensor.contents.int_contents.extend(draw(st.lists(st.integers(-(2**31), 2**31 - 1), max_size=8)))
        tensor.contents.fp32_contents.extend(draw(st.lists(st.floats(width=32), max_size=4)))
    return tensor


@given(st.lists(tensors(), max_size=3), st.lists(st.binary(max_size=20), max_size=3), st.booleans())
def test_any_request_is_either_as_declared_or_refused(
    inputs: list[pb.ModelInferRequest.InferInputTensor], raw: list[bytes], refuse_nan: bool
) -> None:
    request = pb.ModelInferRequest(model_name="two", inputs=inputs, raw_input_contents=raw)

    try:
        arrays = check_inputs(TWO_INPUTS, request, refuse_nan=refuse_nan)
    except Refusal as refusal:
        assert (refusal.code, refusal.reason in REASONS) == ("INVALID_ARGUMENT", True)  # noqa: PT017
        assert refusal.message  # noqa: PT017
    else:
        assert set(arrays) == {"bytes", "weights"}
        assert len(arrays["bytes"]) == len(arrays["weights"]) >= 1


@given(st.binary(max_size=200))
def test_any_bytes_that_parse_are_either_as_declared_or_refused(data: bytes) -> None:
    request = pb.ModelInferRequest()
    try:
        request.ParseFromString(good_request().SerializeToString() + data)
    except DecodeError:  # not a request: the servicer refuses it before
        return

    try:
        check_inputs(TWO_INPUTS, request, refuse_nan=True)
    except Refusal as refusal:
        assert refusal.reason in REASONS  # noqa: PT017


@given(st.integers(1, 5))
def test_what_is_declared_comes_through_unchanged(num_rows: int) -> None:
    arrays = check_inputs(TWO_INPUTS, good_request(num_rows), refuse_nan=True)

    for name, array in good_inputs(num_rows).items():
        assert np.array_equal(arrays[name], array)
        assert arrays[name].dtype == array.dtype


def test_outputs_are_given_in_the_order_asked_for_and_all_where_none_is_named() -> None:
    request = good_request()
    assert wanted_outputs(MORE_OUTPUTS, request) == ["logits", "double", "text"]

    for name in ("text", "logits"):
        request.outputs.add(name=name)

    assert wanted_outputs(MORE_OUTPUTS, request) == ["text", "logits"]


@pytest.mark.parametrize(("remaining_s", "timeout", "allowed"), [(None, 0, None), (5.0, 0, 5.0), (5.0, 2_000_000, 2.0)])
def test_the_sooner_of_deadline_and_timeout_holds(
    remaining_s: float | None, timeout: int, allowed: float | None
) -> None:
    assert time_allowed({"timeout": timeout}, remaining_s) == allowed


def test_an_answer_that_would_be_too_large_is_refused_before_it_is_made() -> None:
    check_answer_size(TWO_INPUTS, ["logits"], 8, 100)

    with pytest.raises(Refusal, match="9 rows has 108 bytes") as caught:
        check_answer_size(TWO_INPUTS, ["logits"], 9, 100)
    assert caught.value.code == "RESOURCE_EXHAUSTED"


@pytest.mark.parametrize(("live", "version"), [("v1", ""), ("v1", "v1"), (None, "")])
def test_a_version_that_serves_or_none_is_accepted(live: str | None, version: str) -> None:
    check_version(live, version)


@pytest.mark.parametrize("live", ["v1", None])
def test_a_version_that_does_not_serve_is_not_found(live: str | None) -> None:
    with pytest.raises(Refusal, match="'v2' is not serving") as caught:
        check_version(live, "v2")

    assert caught.value.code == "NOT_FOUND"


def test_a_refusal_that_quotes_a_long_name_stays_short_and_keeps_its_advice() -> None:
    refusal = Refusal("INVALID_ARGUMENT", "unknown_input", "n" * 10_000, fix="Send it")

    assert len(str(refusal)) < MAX_MESSAGE_CHARACTERS + 20
    assert str(refusal).endswith("Send it")
