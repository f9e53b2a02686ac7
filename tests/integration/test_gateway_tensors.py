"""Tensors of every datatype through a gateway's port, raw and typed; several models, several and selected outputs."""

from collections.abc import Iterator, Mapping

import numpy as np
import pytest

from protos import inference_pb2 as pb
from protos.tensors import Array, datatype_of
from serving.rpc.convert import CONTENTS_FIELD, infer_request, read_outputs
from tests.support.callers import Answer, Callers, FakeSession, callers, good_inputs, refused
from tests.support.kinds import BACK, INPUTS, KINDS, TABLE, kinds_graph, kinds_inputs, session_of


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callers]:
    kinds = session_of(tmp_path_factory.mktemp("kinds"), KINDS, kinds_graph())
    with callers(FakeSession(), others=[(KINDS, kinds)]) as open_port:
        yield open_port


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


def test_typed_tensors_are_answered_like_raw_ones() -> None:
    """Half precision has no typed contents, so a model without it."""
    with callers(FakeSession()) as served:
        inputs = good_inputs(3)

        assert read_outputs(served.infer(typed("two", inputs)))["logits"][:, 0].tolist() == [0, 1, 2]


def test_typed_strings_booleans_and_unsigned_integers_are_read(served: Callers) -> None:
    inputs = {name: array for name, array in kinds_inputs(2).items() if name != "half"}

    status, sentence = served.refusal(typed("kinds", inputs))

    assert (status, sentence) == ("INVALID_ARGUMENT", "input 'half' is missing. Send it")


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
