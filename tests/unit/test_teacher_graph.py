"""Any ONNX file as a teacher: every datatype comes through, class labels are found, and what can't travel is said."""

import pathlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper

from protos.errors import ConfigurationError, TensorError
from protos.tensors import NUMPY_TYPES, Array, strings
from serving.teacher.graph import OnnxGraph
from serving.teacher.labels import class_labels
from tests.support.graphs import classifier, echo, graph


def loaded(folder: pathlib.Path, model: bytes) -> OnnxGraph:
    path = folder / "model.onnx"
    path.write_bytes(model)
    return OnnxGraph(path)


@pytest.mark.parametrize("datatype", [*NUMPY_TYPES, "BYTES"])
def test_every_datatype_goes_in_and_comes_out(tmp_path: pathlib.Path, datatype: str) -> None:
    if datatype == "BYTES":
        array: Array = strings(["a", "été", "", "zero\0inside"]).reshape(2, 2)
    else:
        array = np.array([[0, 1], [1, 0]], NUMPY_TYPES[datatype])
    model = loaded(tmp_path, echo(datatype))

    model.check({"x": array})
    answer = model.run(["y"], {"x": array})["y"]

    assert answer.tolist() == array.tolist()
    assert [(one.name, one.datatype, one.shape) for one in model.outputs] == [("y", datatype, [-1, 2])]


def test_bfloat16_is_refused_with_what_to_do(tmp_path: pathlib.Path) -> None:
    cast = helper.make_node("Cast", ["x"], ["y"], to=1)
    model = graph([cast], [("x", "BF16", ["batch"])], [("y", "FP32", ["batch"])])

    with pytest.raises(ConfigurationError, match=r"takes tensor\(bfloat16\) as 'x'.*Export it with one of"):
        loaded(tmp_path, model)


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ({"classlabels_strings": ["ham", "spám"]}, ["ham", "spám"]),
        ({"classlabels_ints": [-3, 2**40]}, ["-3", str(2**40)]),
    ],
)
def test_labels_of_a_classifier_are_read(
    tmp_path: pathlib.Path, labels: dict[str, list[str]], expected: object
) -> None:
    assert loaded(tmp_path, classifier(**labels)).labels == expected


def test_a_graph_without_labels_has_none(tmp_path: pathlib.Path) -> None:
    assert loaded(tmp_path, echo("FP32")).labels is None


@given(st.binary(max_size=300))
def test_whatever_the_bytes_are_labels_are_found_or_not(data: bytes) -> None:
    class_labels(memoryview(data))
    class_labels(memoryview(classifier(classlabels_strings=["a", "b"]) + data))


def test_a_string_that_is_not_utf_8_is_named(tmp_path: pathlib.Path) -> None:
    array = strings([b"good", b"\xff"]).reshape(1, 2)

    with pytest.raises(TensorError, match="'x' is not UTF-8 in its string 1"):
        loaded(tmp_path, echo("BYTES")).run(["y"], {"x": array})


def test_values_that_the_graph_refuses_are_told_without_the_place_in_its_sources(tmp_path: pathlib.Path) -> None:
    node = helper.make_node("Reshape", ["x", "size"], ["y"])
    sizes = {"size": np.array([-1, 3], np.int64)}
    model = loaded(tmp_path, graph([node], [("x", "FP32", ["batch", 2])], [("y", "FP32", ["any", 3])], sizes))

    with pytest.raises(TensorError, match="cannot be reshaped") as caught:
        model.run(["y"], {"x": np.zeros((1, 2), np.float32)})
    assert "/" not in str(caught.value)


def test_an_output_that_is_no_tensor_is_described_and_not_served(tmp_path: pathlib.Path) -> None:
    node = helper.make_node("ZipMap", ["x"], ["y"], domain="ai.onnx.ml", classlabels_strings=["a", "b"])
    mapping = helper.make_map_type_proto(8, helper.make_tensor_type_proto(1, []))
    built = helper.make_graph(
        [node],
        "zip",
        [helper.make_tensor_value_info("x", 1, ["batch", 2])],
        [helper.make_value_info("y", helper.make_sequence_type_proto(mapping))],
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("ai.onnx.ml", 3)]
    model = loaded(tmp_path, helper.make_model(built, opset_imports=opsets, ir_version=10).SerializeToString())

    (output,) = model.outputs
    assert (output.datatype, output.shape, model.wanted(())) == ("seq(map(string,tensor(float)))", [], [])
    with pytest.raises(TensorError, match="unknown output 'y'"):
        model.wanted(["y"])
