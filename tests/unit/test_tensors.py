"""Tensors on the wire: laws of the round trip, and what is refused."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from protos import tensors
from protos.errors import TensorError

SHAPES = arrays.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5)
ANY_ARRAY = st.sampled_from(sorted(tensors.NUMPY_TYPES)).flatmap(
    lambda name: arrays.arrays(tensors.NUMPY_TYPES[name], SHAPES)
)


@given(ANY_ARRAY)
def test_an_array_comes_back_bit_by_bit(array: np.ndarray) -> None:
    back = tensors.from_record(tensors.to_record("x", array))

    assert back.dtype == array.dtype
    assert back.shape == array.shape
    assert back.tobytes() == array.tobytes()


@given(ANY_ARRAY)
def test_memory_layout_and_byte_order_leave_no_trace_on_the_wire(array: np.ndarray) -> None:
    plain = tensors.to_record("x", array)

    assert tensors.to_record("x", array.copy(order="F")) == plain
    assert tensors.to_record("x", array.astype(array.dtype.newbyteorder(">"))) == plain


def test_a_big_endian_array_arrives_with_its_values() -> None:
    array = np.array([1, 256, 65_536], dtype=">i4")

    assert tensors.from_record(tensors.to_record("x", array)).tolist() == [1, 256, 65_536]


@given(ANY_ARRAY, st.integers(-8, 8).filter(bool))
def test_a_wrong_number_of_bytes_is_refused(array: np.ndarray, difference: int) -> None:
    raw = array.tobytes()
    wrong = raw + b"\0" * difference if difference > 0 else raw[:difference]
    if len(wrong) == len(raw):
        return

    with pytest.raises(TensorError, match=f"takes {len(raw)} bytes, got {len(wrong)}"):
        tensors.decode("x", tensors.datatype_of(array), array.shape, wrong)


def test_what_is_decoded_is_read_only_and_not_copied() -> None:
    raw = np.arange(4, dtype=np.int32).tobytes()

    array = tensors.decode("x", "INT32", (2, 2), raw)

    assert not array.flags.writeable
    assert not array.flags.owndata


@pytest.mark.parametrize("datatype", ["BF16", "STRING", "int32", ""])
def test_an_unknown_datatype_is_refused_with_the_known_ones(datatype: str) -> None:
    with pytest.raises(TensorError, match="Use one of BOOL, UINT8"):
        tensors.decode("x", datatype, (1,), b"")


def test_a_negative_dimension_is_refused_even_where_the_product_fits() -> None:
    with pytest.raises(TensorError, match="negative dimension"):
        tensors.decode("x", "UINT8", (-2, -2), b"four")


@pytest.mark.parametrize("array", [np.array(["text"]), np.array([1j])])
def test_a_numpy_type_without_a_datatype_is_refused(array: np.ndarray) -> None:
    with pytest.raises(TensorError, match="has no datatype"):
        tensors.to_record("x", array)


@given(st.lists(st.binary(max_size=20), max_size=6))
def test_strings_come_back_byte_by_byte(texts: list[bytes]) -> None:
    array = tensors.strings(texts)

    back = tensors.from_record(tensors.to_record("x", array))

    assert tensors.datatype_of(back) == "BYTES"
    assert back.tolist() == texts


def test_text_is_sent_as_utf_8() -> None:
    assert tensors.encode(tensors.strings(["ü", b"\xff"])) == b"\x02\x00\x00\x00\xc3\xbc\x01\x00\x00\x00\xff"


@pytest.mark.parametrize(
    ("raw", "sentence"),
    [
        (b"\x01\x00", "ends inside its string 0"),
        (b"\x02\x00\x00\x00a", "ends inside its string 0"),
        (b"\x00\x00\x00\x00\xff\xff\xff\xff", "ends inside its string 1"),
        (b"", "takes 2 values, got 0"),
        (b"\x00\x00\x00\x00" * 3, "takes 2 values, got 3"),
    ],
)
def test_strings_that_are_cut_or_too_few_are_refused(raw: bytes, sentence: str) -> None:
    with pytest.raises(TensorError, match=sentence):
        tensors.decode("x", "BYTES", [2], raw)


def test_an_array_of_other_objects_is_refused() -> None:
    with pytest.raises(TensorError, match="holds int"):
        tensors.encode(np.array([1], object))


def test_a_text_window_is_cut_and_filled_up() -> None:
    windows = tensors.text_window(tensors.strings(["ab", b"", "abcde"]).reshape(3, 1), 4)

    assert windows.tolist() == [[97, 98, 256, 256], [256] * 4, [97, 98, 99, 100]]
