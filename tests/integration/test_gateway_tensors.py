"""Tensors of every datatype through a gateway's port, raw and typed; several models, several and selected outputs."""

from collections.abc import Iterator, Mapping

import numpy as np
import pytest

from protos import inference_pb2 as pb
from protos.tensors import KNOWN_DATATYPES, NUMPY_TYPES, Array, datatype_of, strings
from registry.sections import ModelSection, TensorSpec
from serving.rpc.convert import CONTENTS_FIELD, infer_request, read_outputs
from tests.support.callers import Answer, Callers, FakeSession, callers, good_inputs, refused
from tests.support.graphs import echo_with_scores
from tests.support.kinds import BACK, INPUTS, KINDS, TABLE, TYPED_KINDS, kinds_graph, kinds_inputs, session_of


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callers]:
    kinds = session_of(tmp_path_factory.mktemp("kinds"), KINDS, kinds_graph())
    typed_kinds = session_of(tmp_path_factory.mktemp("typed"), TYPED_KINDS, kinds_graph(TYPED_KINDS))
    with callers(FakeSession(), others=[(KINDS, kinds), (TYPED_KINDS, typed_kinds)]) as open_port:
        yield open_port


@pytest.fixture(scope="module")
def echoes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callers]:
    """Open a port with a model of each datatype, named after it, that gives back its input `x` as `y`."""
    others = []
    for datatype in KNOWN_DATATYPES:
        x, scores, y = (
            TensorSpec(name=name, datatype=kind, shape=(-1, 2))
            for name, kind in (("x", datatype), ("scores", "FP32"), ("y", datatype))
        )
        model = ModelSection(name=datatype, inputs=(x, scores), num_classes=2, extra_outputs=(y,))
        folder = tmp_path_factory.mktemp(datatype)
        others.append((model, session_of(folder, model, echo_with_scores(datatype))))
    with callers(FakeSession(), others=others) as open_port:
        yield open_port


def echo_inputs(datatype: str) -> dict[str, Array]:
    x: Array = strings(["", "\N{SNOWMAN}"]) if datatype == "BYTES" else np.array([0, 1], NUMPY_TYPES[datatype])
    return {"x": x.reshape(1, 2), "scores": np.array([[1, 2]], np.float32)}


def assert_echoed(answer: pb.ModelInferResponse, inputs: Mapping[str, Array]) -> None:
    outputs = read_outputs(answer)
    assert outputs["y"].tolist() == inputs["x"].tolist()
    assert datatype_of(outputs["y"]) == datatype_of(inputs["x"])
    assert outputs["logits"].tolist() == [[1, 2]]


def typed(model: str, inputs: Mapping[str, Array]) -> pb.ModelInferRequest:
    """Return a request whose contents are typed."""
    request = pb.ModelInferRequest(model_name=model)
    for name, array in inputs.items():
        datatype = datatype_of(array)
        tensor = request.inputs.add(name=name, datatype=datatype, shape=array.shape)
        getattr(tensor.contents, CONTENTS_FIELD[datatype]).extend(array.reshape(-1).tolist())
    return request


@pytest.mark.parametrize("name", [name for name in INPUTS if name != "index"])
def test_raw_tensors_of_every_kind_are_answered(served: Callers, name: str) -> None:
    inputs = kinds_inputs(3)

    outputs = read_outputs(served.infer(infer_request("kinds", inputs, outputs=[name + BACK])))

    assert list(outputs) == [name + BACK]
    assert outputs[name + BACK].tolist() == inputs[name].tolist()
    assert outputs[name + BACK].dtype == inputs[name].dtype


@pytest.mark.parametrize("name", [name for name in INPUTS if name not in ("index", "half")])
def test_typed_tensors_are_answered_like_raw_ones(served: Callers, name: str) -> None:
    inputs = {spec.name: kinds_inputs(3)[spec.name] for spec in TYPED_KINDS.inputs}

    outputs = read_outputs(served.infer(typed("typed", inputs)))

    assert outputs[name + BACK].tolist() == inputs[name].tolist()
    assert outputs["logits"].tolist() == TABLE.tolist()


@pytest.mark.parametrize("datatype", KNOWN_DATATYPES)
def test_every_datatype_is_served_raw(echoes: Callers, datatype: str) -> None:
    inputs = echo_inputs(datatype)

    assert_echoed(echoes.infer(infer_request(datatype, inputs)), inputs)


@pytest.mark.parametrize("datatype", CONTENTS_FIELD)
def test_every_datatype_with_typed_contents_is_served_typed(echoes: Callers, datatype: str) -> None:
    inputs = echo_inputs(datatype)

    assert_echoed(echoes.infer(typed(datatype, inputs)), inputs)


def test_all_outputs_are_given_where_none_is_named(served: Callers) -> None:
    outputs = read_outputs(served.infer(infer_request("kinds", kinds_inputs(2))))

    assert list(outputs) == ["logits", *(spec.name for spec in KINDS.extra_outputs)]
    assert outputs["logits"].tolist() == TABLE[:2].tolist()


def test_outputs_come_in_the_order_asked_for(served: Callers) -> None:
    request = infer_request("more", good_inputs(2), outputs=["text", "logits"])

    answer = served.infer(request)

    assert [(one.name, one.datatype, list(one.shape)) for one in answer.outputs] == [
        ("text", "BYTES", [2]),
        ("logits", "FP32", [2, 3]),
    ]
    assert read_outputs(answer)["text"].tolist() == [b"0", b"1"]


def test_the_distilled_output_is_captured_also_where_the_caller_wants_another() -> None:
    with callers(FakeSession()) as served:
        served.infer(infer_request("more", good_inputs(2), outputs=["double"]))

    (captured,) = served.captured
    assert captured.logits_BC is not None
    assert captured.logits_BC[:, 0].tolist() == [0, 1]


def test_each_model_answers_by_its_name(served: Callers) -> None:
    assert [served.infer(infer_request(name, good_inputs())).model_name for name in ("two", "more")] == ["two", "more"]
    assert served.infer(infer_request("kinds", kinds_inputs())).model_version == "f" * 12


def ask_teacher(inputs: Mapping[str, Array], timeout_s: float) -> Answer:
    return Answer(np.array([[0.5, 0.5, 0.0]], np.float32))


def test_the_teachers_probabilities_reach_callers_as_logits() -> None:
    with callers(None, ask_teacher=ask_teacher, teacher_kind="probabilities") as served:
        logits_BC = read_outputs(served.infer(infer_request("two", good_inputs())))["logits"]

    np.testing.assert_allclose(logits_BC, np.log([[0.5, 0.5, 1e-12]]), rtol=1e-6)
    assert logits_BC.dtype == np.float32
    (captured,) = served.captured
    assert captured.teacher_output_BC is not None
    assert captured.teacher_output_BC.tolist() == [[0.5, 0.5, 0.0]]


def test_while_the_teacher_answers_further_outputs_are_left_out_or_refused_where_asked_for() -> None:
    with callers(None, ask_teacher=ask_teacher) as served:
        plain = served.infer(infer_request("more", good_inputs()))
        status, sentence = served.refusal(infer_request("more", good_inputs(), outputs=["logits", "double"]))

    assert [one.name for one in plain.outputs] == ["logits"]
    assert status == "UNAVAILABLE"
    assert "the output 'double' is the student's, and there is no student version yet" in sentence


def test_a_teacher_with_other_classes_than_the_model_is_named() -> None:
    def ask(inputs: Mapping[str, Array], timeout_s: float) -> Answer:
        return Answer(np.zeros((1, 5), np.float32))

    with callers(None, ask_teacher=ask) as served:
        status, sentence = served.refusal(infer_request("two", good_inputs()))

    assert status == "UNAVAILABLE"
    assert "the teacher answered with 5 classes, the model has 3" in sentence


def test_the_serving_version_may_be_named_and_no_other(served: Callers) -> None:
    request = infer_request("kinds", kinds_inputs())
    request.model_version = "f" * 12
    assert served.infer(request).model_version == "f" * 12

    request.model_version = "1"
    assert served.refusal(request)[0] == "NOT_FOUND"
    assert (
        refused(lambda: served.stub.ModelMetadata(pb.ModelMetadataRequest(name="kinds", version="1")))[0] == "NOT_FOUND"
    )
