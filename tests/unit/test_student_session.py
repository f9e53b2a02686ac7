"""A student session: every datatype goes in and out, strings become what the graph takes, and a graph that doesn't fit is refused."""

import pathlib

import numpy as np
import pytest
from onnx import helper

from protos.errors import TensorError
from protos.tensors import Array, strings
from registry.sections import ModelSection, TensorSpec
from serving.student.batcher import Batcher
from serving.student.session import InputRefused, StudentError, StudentSession
from serving.student.slot import Slot
from tests.support.graphs import Value, graph
from tests.support.kinds import BACK, KINDS, TABLE, kinds_graph, kinds_inputs, session_of


def text_model(datatype: str = "BYTES", shape: tuple[int, ...] = (-1, 1)) -> ModelSection:
    return ModelSection(name="text", inputs=(TensorSpec(name="text", datatype=datatype, shape=shape),), num_classes=3)


def summing(value: Value) -> bytes:
    """Return a graph whose logits are [the sum of a row, 0, 0]."""
    nodes = [
        helper.make_node("Cast", ["text"], ["float"], to=1),
        helper.make_node("ReduceSum", ["float", "axis"], ["sum"], keepdims=1),
        helper.make_node("Mul", ["sum", "first"], ["logits"]),
    ]
    constants = {"axis": np.array([1], np.int64), "first": np.array([[1, 0, 0]], np.float32)}
    return graph(nodes, [value], [("logits", "FP32", ["batch", 3])], constants)


@pytest.fixture(scope="module")
def kinds(tmp_path_factory: pytest.TempPathFactory) -> StudentSession:
    return session_of(tmp_path_factory.mktemp("kinds"), KINDS, kinds_graph())


def test_every_kind_of_tensor_goes_in_and_comes_out(kinds: StudentSession) -> None:
    inputs = kinds_inputs(3)

    logits_BC, outputs = kinds.run_with(inputs, [spec.name for spec in KINDS.extra_outputs])

    assert logits_BC.tolist() == TABLE.tolist()
    for spec in KINDS.extra_outputs:
        sent = inputs[spec.name.removesuffix(BACK)]
        assert (outputs[spec.name].tolist(), outputs[spec.name].dtype) == (sent.tolist(), sent.dtype)


def test_only_what_is_wanted_is_given(kinds: StudentSession) -> None:
    assert list(kinds.run_with(kinds_inputs(), ["flag_back"])[1]) == ["flag_back"]
    assert kinds.run(kinds_inputs()).tolist() == [[9, 0, 0]]


def test_values_that_the_graph_refuses_are_told_from_a_broken_graph(kinds: StudentSession) -> None:
    with pytest.raises(InputRefused, match="its Gather refuses them: indices element out of data bounds, idx=7"):
        kinds.run({**kinds_inputs(), "index": np.array([7])})


def test_who_waits_with_refused_values_is_answered(kinds: StudentSession) -> None:
    slot = Slot()
    slot.swap(kinds, drain_deadline_s=1.0)
    batcher = Batcher(slot, max_batch=8)

    for index, fails in ((1, False), (7, True), (2, False)):
        inputs = {**kinds_inputs(), "index": np.array([index])}
        if fails:
            with pytest.raises(InputRefused):
                batcher.run(inputs)
        else:
            assert batcher.run(inputs).logits_BC.argmax() == index


@pytest.mark.parametrize("shape", [(-1,), (-1, 1)])
def test_a_graph_of_windows_gets_windows_of_bytes(tmp_path: pathlib.Path, shape: tuple[int, ...]) -> None:
    session = session_of(tmp_path, text_model(shape=shape), summing(("text", "INT32", ["batch", 4])))
    texts = strings(["\x01\x02", "\x01\x01\x01\x01\x01"])

    logits_BC = session.run({"text": texts.reshape(2, *shape[1:])})

    assert logits_BC[:, 0].tolist() == [1 + 2 + 256 + 256, 4]


def test_a_graph_of_texts_gets_texts(tmp_path: pathlib.Path) -> None:
    session = session_of(tmp_path, text_model(), summing(("text", "BYTES", ["batch", 1])))

    assert session.run({"text": strings(["1.5", "-2"])[:, None]})[:, 0].tolist() == [1.5, -2]
    with pytest.raises(TensorError, match="'text' is not UTF-8 in its string 1"):
        session.run({"text": strings([b"1", b"\xff"])[:, None]})


@pytest.mark.parametrize(
    ("model", "value", "sentence"),
    [
        (text_model(), ("text", "INT32", ["batch", "any"]), "takes INT32 as 'text', its manifest says BYTES"),
        (text_model(), ("text", "INT64", ["batch", 4]), "takes INT64 as 'text', its manifest says BYTES"),
        (
            text_model("INT64", (-1, 4)),
            ("text", "INT32", ["batch", 4]),
            "takes INT32 as 'text', its manifest says INT64",
        ),
    ],
)
def test_a_graph_that_takes_something_else_is_refused(
    tmp_path: pathlib.Path, model: ModelSection, value: Value, sentence: str
) -> None:
    with pytest.raises(StudentError, match=sentence) as caught:
        session_of(tmp_path, model, summing(value))
    assert caught.value.reason == "wrong_graph"


@pytest.mark.parametrize(
    ("name", "datatype", "shape", "sentence"),
    [
        ("missing", "FP32", (-1, 3), "and no 'missing'"),
        ("whole", "FP32", (-1,), r"gives 'whole' of shape \[3\], declared is \[-1\]: it must begin with the batch"),
        ("whole", "FP32", (-1, 3), "must begin with the batch"),
        ("twice", "INT64", (-1, 3), "gives FP32 as 'twice', declared is INT64"),
        ("twice", "FP32", (-1,), "declared is"),
    ],
)
def test_a_further_output_that_is_not_as_declared_is_refused_when_it_is_loaded(
    tmp_path: pathlib.Path, name: str, datatype: str, shape: tuple[int, ...], sentence: str
) -> None:
    model = text_model("FP32", (-1, 3)).model_copy(
        update={"extra_outputs": (TensorSpec(name=name, datatype=datatype, shape=shape),)}
    )
    nodes = [
        helper.make_node("Identity", ["text"], ["logits"]),
        helper.make_node("Add", ["text", "text"], ["twice"]),
        helper.make_node("Identity", ["constant"], ["whole"]),
    ]
    outputs: list[Value] = [("logits", "FP32", ["batch", 3]), ("twice", "FP32", ["batch", 3]), ("whole", "FP32", [3])]
    constants: dict[str, Array] = {"constant": np.zeros(3, np.float32)}

    with pytest.raises(StudentError, match=sentence) as caught:
        session_of(tmp_path, model, graph(nodes, [("text", "FP32", ["batch", 3])], outputs, constants))
    assert caught.value.reason == "wrong_graph"


def test_an_answer_with_another_number_of_rows_is_the_versions_fault(tmp_path: pathlib.Path) -> None:
    nodes = [helper.make_node("Concat", ["text", "text"], ["logits"], axis=0)]
    model = text_model("FP32", (-1, 3))
    session = session_of(tmp_path, model, graph(nodes, [("text", "FP32", ["b", 3])], [("logits", "FP32", ["c", 3])]))

    with pytest.raises(StudentError, match=r"output 'logits' of shape \[4, 3\] for 2 rows") as caught:
        session.run({"text": np.zeros((2, 3), np.float32)})
    assert caught.value.reason == "wrong_rows"
