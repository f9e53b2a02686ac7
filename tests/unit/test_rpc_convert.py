"""Tensors on the wire, raw and typed: what is read is what was meant, and what isn't a tensor is refused with a sentence."""

import contextlib
from typing import Any

import numpy as np
import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from protos import inference_pb2 as pb
from protos.errors import TensorError
from protos.tensors import NUMPY_TYPES
from serving.rpc.convert import (
    CONTENTS_FIELD,
    infer_request,
    infer_response,
    read_inputs,
    read_outputs,
    read_parameters,
)

DTYPES = st.sampled_from(sorted(NUMPY_TYPES.values(), key=str))
TENSORS = DTYPES.flatmap(lambda dtype: arrays.arrays(dtype, arrays.array_shapes(min_dims=1, max_dims=3, min_side=0)))


def typed(datatype: str, values: list[Any], shape: list[int] | None = None) -> pb.ModelInferRequest:
    request = pb.ModelInferRequest(model_name="m")
    tensor = request.inputs.add(name="x", datatype=datatype, shape=shape or [len(values)])
    getattr(tensor.contents, CONTENTS_FIELD[datatype]).extend(values)
    return request


def raw(datatype: str, shape: list[int], content: bytes) -> pb.ModelInferRequest:
    request = pb.ModelInferRequest(model_name="m", raw_input_contents=[content])
    request.inputs.add(name="x", datatype=datatype, shape=shape)
    return request


def complaint(request: pb.ModelInferRequest) -> str:
    with pytest.raises(TensorError) as caught:
        read_inputs(request)
    return str(caught.value)


@given(st.dictionaries(st.text(min_size=1, max_size=8), TENSORS, max_size=3))
def test_what_is_sent_raw_arrives(tensors: dict[str, np.ndarray[Any, Any]]) -> None:
    sent = pb.ModelInferRequest.FromString(infer_request("m", tensors).SerializeToString())

    arrived = read_inputs(sent)

    assert list(arrived) == list(tensors)
    for name, array in tensors.items():
        assert arrived[name].dtype == array.dtype
        np.testing.assert_array_equal(arrived[name], array)


@given(TENSORS.filter(lambda array: array.dtype != np.float16))
def test_typed_contents_give_the_same_array_as_raw_ones(array: np.ndarray[Any, Any]) -> None:
    datatype = next(name for name, dtype in NUMPY_TYPES.items() if dtype == array.dtype)
    request = typed(datatype, array.ravel().tolist(), list(array.shape))

    np.testing.assert_array_equal(read_inputs(request)["x"], array)


@pytest.mark.parametrize(
    ("datatype", "values"),
    [
        ("INT64", [-(2**63), 2**63 - 1, 2**53 + 1]),
        ("UINT64", [0, 2**64 - 1, 2**53 + 1]),
        ("INT8", [-128, 127]),
        ("UINT8", [0, 255]),
        ("BOOL", [True, False]),
        ("FP64", [0.1, float("inf"), -0.0]),
    ],
)
def test_typed_values_at_the_ends_of_their_range_are_exact(datatype: str, values: list[Any]) -> None:
    assert read_inputs(typed(datatype, values))["x"].tolist() == values


@pytest.mark.parametrize(
    ("datatype", "value"), [("INT8", 128), ("INT8", -129), ("INT16", 2**15), ("UINT8", 256), ("UINT16", 2**16)]
)
def test_a_typed_value_outside_its_datatypes_range_is_refused(datatype: str, value: int) -> None:
    assert f"outside the range of {datatype}" in complaint(typed(datatype, [value]))


def test_typed_values_in_another_datatypes_field_are_refused() -> None:
    request = pb.ModelInferRequest(model_name="m")
    request.inputs.add(name="x", datatype="INT64", shape=[2]).contents.int_contents.extend([1, 2])

    assert "Put its values in int64_contents" in complaint(request)


def test_half_precision_has_no_typed_contents() -> None:
    request = pb.ModelInferRequest(model_name="m")
    request.inputs.add(name="x", datatype="FP16", shape=[1]).contents.fp32_contents.append(1.0)

    assert "Send it as raw contents" in complaint(request)


@pytest.mark.parametrize("datatype", ["BF8", "STRING", "int32", ""])
def test_an_unknown_datatype_is_refused_and_the_known_ones_are_named(datatype: str) -> None:
    assert "Use one of BOOL, UINT8" in complaint(raw(datatype, [1], b"1"))


@pytest.mark.parametrize(
    ("shape", "content"),
    [([2], b"1234"), ([2], b"123456789"), ([2**40, 2**40], b""), ([-1], b"1234"), ([1] * 100, b"1234"), ([2], b"")],
)
def test_raw_bytes_that_the_shape_does_not_give_are_refused(shape: list[int], content: bytes) -> None:
    assert "'x'" in complaint(raw("INT32", shape, content))


def test_a_boolean_that_is_neither_0_nor_1_is_refused() -> None:
    assert "neither 0 nor 1" in complaint(raw("BOOL", [2], b"\x01\x02"))


@pytest.mark.parametrize("contents", [0, 1, 3])
def test_a_wrong_number_of_raw_contents_is_refused(contents: int) -> None:
    request = infer_request("m", {"x": np.zeros(1, np.int8), "y": np.zeros(1, np.int8)})
    request.raw_input_contents[:] = [b"\0"] * contents

    assert complaint(request)


def test_raw_and_typed_contents_in_one_message_are_refused() -> None:
    request = infer_request("m", {"x": np.zeros(1, np.int32)})
    request.inputs[0].contents.int_contents.append(0)

    assert "Use one of the two" in complaint(request)


def test_typed_contents_without_values_beside_raw_ones_are_none() -> None:
    request = infer_request("m", {"x": np.ones(1, np.int32)})
    request.inputs[0].contents.SetInParent()

    assert read_inputs(request)["x"].tolist() == [1]


def test_a_tensor_sent_twice_is_refused() -> None:
    request = infer_request("m", {"x": np.zeros(1, np.int32)})
    request.inputs.append(request.inputs[0])
    request.raw_input_contents.append(b"\0" * 4)

    assert "'x' is sent twice" in complaint(request)


@given(st.binary(max_size=200))
def test_any_bytes_that_parse_are_read_or_refused(data: bytes) -> None:
    with contextlib.suppress(DecodeError, TensorError):
        read_inputs(pb.ModelInferRequest.FromString(data))


def test_a_big_endian_array_is_sent_as_the_protocol_says() -> None:
    array = np.arange(6, dtype=">i4").reshape(2, 3)

    np.testing.assert_array_equal(read_inputs(infer_request("m", {"x": array}))["x"], array)


def test_an_array_that_is_not_contiguous_is_sent_in_row_order() -> None:
    array = np.arange(12, dtype=np.float32).reshape(3, 4).T[::2]

    np.testing.assert_array_equal(read_inputs(infer_request("m", {"x": array}))["x"], array)


def test_an_array_without_a_datatype_is_refused_by_the_client() -> None:
    with pytest.raises(TensorError, match="has no datatype"):
        infer_request("m", {"x": np.array(["text"])})


def test_what_is_read_can_not_be_written_to() -> None:
    array = read_inputs(infer_request("m", {"x": np.zeros(3, np.int32)}))["x"]

    assert not array.flags.writeable


def test_an_answer_carries_version_id_and_outputs() -> None:
    response = infer_response("m", "v1", {"y": np.ones((2, 3), np.float32)}, request_id="mine")

    assert (response.model_name, response.model_version, response.id) == ("m", "v1", "mine")
    np.testing.assert_array_equal(read_outputs(response)["y"], np.ones((2, 3), np.float32))


def test_parameters_keep_their_types() -> None:
    sent = {"b": True, "i": -3, "f": 0.5, "s": "text"}

    arrived = read_parameters(infer_request("m", {}, parameters=sent).parameters)

    assert arrived == sent
    assert [type(arrived[name]) for name in "bifs"] == [bool, int, float, str]


def test_a_parameter_without_a_value_is_left_out() -> None:
    request = pb.ModelInferRequest()
    request.parameters["empty"].CopyFrom(pb.InferParameter())

    assert read_parameters(request.parameters) == {}
