"""Golden answers: the round trip of every kind of input, and what is refused."""

import pathlib

import numpy as np
import pytest

from protos.errors import FormatError
from protos.tensors import strings
from registry.golden import pack_golden, unpack_golden
from registry.sections import TensorSpec

TEXT = TensorSpec(name="text", datatype="BYTES", shape=(-1, 1))
NUMBERS = TensorSpec(name="numbers", datatype="FP32", shape=(-1, 3))
INPUTS = {"text": strings(["grüß", b"", b"\x00\xff\x00"]).reshape(3, 1), "numbers": np.eye(3, dtype=np.float32)}
LOGITS = np.array([[1.0, -1.0]] * 3, np.float32)


def test_inputs_and_logits_come_back(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "golden.npz"
    path.write_bytes(pack_golden(INPUTS, LOGITS))

    inputs, logits_BC = unpack_golden(path, (TEXT, NUMBERS))

    assert inputs["text"].tolist() == INPUTS["text"].tolist()
    assert inputs["numbers"].tolist() == INPUTS["numbers"].tolist()
    assert logits_BC.tolist() == LOGITS.tolist()


@pytest.mark.parametrize(
    "specs", [(TEXT,), (NUMBERS,), (TEXT, NUMBERS, TensorSpec(name="x", datatype="BOOL", shape=(-1,)))]
)
def test_answers_for_other_tensors_are_refused(tmp_path: pathlib.Path, specs: tuple[TensorSpec, ...]) -> None:
    path = tmp_path / "golden.npz"
    path.write_bytes(pack_golden(INPUTS, LOGITS))

    with pytest.raises(FormatError, match="for other tensors"):
        unpack_golden(path, specs)


@pytest.mark.parametrize("length", [0, 1, 100, -1])
def test_a_torn_file_is_refused(tmp_path: pathlib.Path, length: int) -> None:
    path = tmp_path / "golden.npz"
    path.write_bytes(pack_golden(INPUTS, LOGITS)[:length])

    with pytest.raises(FormatError, match="can't be read"):
        unpack_golden(path, (TEXT, NUMBERS))
