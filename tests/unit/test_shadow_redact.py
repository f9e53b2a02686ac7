"""Redaction: what is declared never leaves, what is not is untouched, and a rule that protects nothing is refused."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from protos.errors import ConfigurationError
from protos.tensors import NUMPY_TYPES, Array
from registry.sections import TensorSpec
from serving.config import RedactionRule
from serving.shadow.redact import check_rules, redact

KEY = b"key"
SPECS = (
    TensorSpec(name="bytes", datatype="INT32", shape=(-1, 4)),
    TensorSpec(name="text", datatype="UINT8", shape=(-1, -1)),
)
SHAPES = arrays.array_shapes(min_dims=2, max_dims=4, min_side=1, max_side=5)
ARRAYS = st.sampled_from(sorted(NUMPY_TYPES)).flatmap(lambda name: arrays.arrays(NUMPY_TYPES[name], SHAPES))


def rule(action: str, *columns: int, tensor: str = "bytes") -> RedactionRule:
    return RedactionRule.model_validate({"tensor": tensor, "action": action, "columns": columns})


@given(ARRAYS, st.data())
def test_zeroed_columns_are_zero_and_the_others_are_what_they_were(array: Array, data: st.DataObject) -> None:
    columns = data.draw(st.lists(st.integers(0, array.shape[-1] - 1), min_size=1, unique=True))
    before = array.copy()

    left = redact([rule("zero", *columns)], KEY, {"bytes": array})["bytes"]

    assert not left[..., columns].any()
    assert same(np.delete(left, columns, -1), np.delete(before, columns, -1))
    assert same(array, before)


@given(ARRAYS, st.data())
def test_a_hash_depends_on_the_value_and_the_key_alone(array: Array, data: st.DataObject) -> None:
    columns = data.draw(st.lists(st.integers(0, array.shape[-1] - 1), unique=True))

    left = redact([rule("hash", *columns)], KEY, {"bytes": array})["bytes"]

    hashed = left[..., columns] if columns else left
    values = array[..., columns] if columns else array
    for value, one in zip(values.reshape(-1), hashed.reshape(-1), strict=True):
        alone = redact([rule("hash")], KEY, {"bytes": value.reshape(1, 1)})["bytes"]
        assert same(one.reshape(1, 1), alone)
    if columns:
        assert same(np.delete(left, columns, -1), np.delete(array, columns, -1))
    assert left.dtype == array.dtype
    assert left.shape == array.shape


def test_hashes_tell_values_apart_and_need_the_key() -> None:
    values = np.arange(1000, dtype=np.int32).reshape(1, 1000)

    one, other = (redact([rule("hash")], key, {"bytes": values})["bytes"] for key in (b"one", b"other"))

    assert len(np.unique(one)) == 1000
    assert (one != other).mean() > 0.99
    assert (one != values).mean() > 0.99


def test_secret_bytes_are_nowhere_in_what_is_left() -> None:
    secret = np.frombuffer(b"4111-1111-1111-1111!", np.int32).reshape(1, 5)
    inputs: dict[str, Array] = {"bytes": secret, "text": secret.view(np.uint8), "more": secret.copy()}

    rules = [rule("hash"), rule("zero", tensor="text"), rule("drop", tensor="more")]
    left = redact(rules, KEY, inputs)

    assert "more" not in left
    assert not any(array.tobytes().find(piece) >= 0 for array in left.values() for piece in (b"4111", b"1111", b"111!"))


def test_the_student_sees_what_the_caller_sent() -> None:
    sent = np.arange(4, dtype=np.int32).reshape(1, 4)
    sent.flags.writeable = False

    redact([rule("zero")], KEY, {"bytes": sent})

    assert sent.tolist() == [[0, 1, 2, 3]]


@pytest.mark.parametrize(
    ("rules", "said"),
    [
        ([rule("zero", tensor="byte")], "names the tensor"),
        ([rule("zero", 4)], "column 4"),
        ([rule("hash", -1)], "column -1"),
        ([rule("drop", 1)], "drops columns"),
        ([rule("drop"), rule("drop", tensor="text")], "drops every input"),
    ],
)
def test_a_rule_that_protects_nothing_or_leaves_nothing_is_refused(rules: list[RedactionRule], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        check_rules(rules, SPECS)


def test_rules_that_fit_are_accepted() -> None:
    check_rules([rule("zero", 0, 3), rule("drop", tensor="text"), rule("hash")], SPECS)
    check_rules([rule("hash", 99, tensor="text")], SPECS)


def same(one: Array, other: Array) -> bool:
    """Whether two arrays are equal bit by bit."""
    return one.shape == other.shape and one.dtype == other.dtype and one.tobytes() == other.tobytes()


TEXTS = np.array([b"a secret", b"", b"a secret"], object)


def test_zeroed_strings_are_empty() -> None:
    assert redact([rule("zero")], KEY, {"bytes": TEXTS})["bytes"].tolist() == [b"", b"", b""]
    assert TEXTS[0] == b"a secret"


def test_hashed_strings_are_digits_that_depend_on_string_and_key_alone() -> None:
    left = redact([rule("hash")], KEY, {"bytes": TEXTS})["bytes"]
    other = redact([rule("hash")], b"other", {"bytes": TEXTS.reshape(3, 1)})["bytes"]

    assert left[0] == left[2] != left[1]
    assert other.shape == (3, 1)
    assert {len(string) for string in (*left, *other[:, 0])} == {16}
    assert not set(left) & {*other[:, 0], *TEXTS}


def test_columns_of_a_tensor_with_one_value_a_row_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="one value a row"):
        check_rules(
            [rule("hash", 0)],
            (
                TensorSpec(name="bytes", datatype="BYTES", shape=(-1,)),
                TensorSpec(name="n", datatype="FP32", shape=(-1, 2)),
            ),
        )
