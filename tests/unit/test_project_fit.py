"""What of a teacher goes into a configuration, and what is said where it doesn't fit."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from everstill.project.fit import Ask, fit
from everstill.rooms import Description, Tensor
from protos.errors import ConfigurationError, UnavailableError

X = Tensor("x", "FP32", (-1, 4))


def answering(**rows: list[float]) -> Ask:
    """Answer each of four rows alike."""

    def ask(inputs: Mapping[str, Any]) -> Mapping[str, Any]:
        assert inputs["x"].shape == (4, 4)
        return {name: np.array([row] * 4, np.float32) for name, row in rows.items()}

    return ask


def away(inputs: Mapping[str, Any]) -> Mapping[str, Any]:
    raise UnavailableError("nothing answers")


def teacher(*outputs: Tensor, inputs: tuple[Tensor, ...] = (X,), labels: tuple[str, ...] = ()) -> Description:
    return Description(inputs, outputs, labels)


def output(name: str, *shape: int, datatype: str = "FP32") -> Tensor:
    return Tensor(name, datatype, shape or (-1, 3))


def test_the_only_distribution_is_the_output_and_an_answer_beside_it_is_not() -> None:
    found = fit(teacher(output("label", -1, datatype="INT64"), output("y")), ask=answering(y=[0.2, 0.3, 0.5]))

    assert (found.output, found.num_classes) == ("y", 3)
    assert [spec.model_dump(exclude={"padding"}) for spec in found.inputs] == [
        {"name": "x", "datatype": "FP32", "shape": (-1, 4)}
    ]


@pytest.mark.parametrize(("row", "kind"), [([0.2, 0.3, 0.5], "probabilities"), ([2.0, -1.0, 0.5], "logits")])
def test_probabilities_and_logits_are_told_apart_by_asking(row: list[float], kind: str) -> None:
    assert fit(teacher(output("y")), ask=answering(y=row)).kind == kind


@pytest.mark.parametrize(("name", "kind"), [("probabilities", "probabilities"), ("class_logits", "logits")])
def test_the_name_says_it_where_asking_fails(name: str, kind: str) -> None:
    found = fit(teacher(output(name)), ask=away)

    assert (found.kind, found.why_kind) == (kind, "by its name")


def test_a_nameless_output_that_cannot_be_asked_must_be_told() -> None:
    with pytest.raises(ConfigurationError, match=r"nothing answers\. Say it with --kind"):
        fit(teacher(output("y")), ask=away)

    assert fit(teacher(output("y")), kind="logits", ask=away).kind == "logits"


def test_of_several_outputs_the_one_whose_name_says_so_is_taken() -> None:
    both = {"embedding": [1.0, 2.0, 3.0], "probabilities": [0.2, 0.3, 0.5]}

    assert fit(teacher(*map(output, both)), ask=answering(**both)).output == "probabilities"
    assert fit(teacher(*map(output, both)), output="embedding", ask=answering(**both)).kind == "logits"


def test_of_several_alike_one_must_be_named() -> None:
    with pytest.raises(ConfigurationError, match=r"2 outputs that could be distilled: a FP32 \[-1, 3\], b .*--output"):
        fit(teacher(output("a"), output("b")), ask=away)


def test_an_unknown_number_of_classes_is_counted_in_an_answer() -> None:
    assert fit(teacher(output("y", -1, -1)), ask=answering(y=[0.5, 0.25, 0.125, 0.125])).num_classes == 4


def test_labels_are_the_model_s_or_given_and_must_be_as_many_as_classes() -> None:
    described = teacher(output("y"), labels=("a", "b", "c"))

    assert fit(described, kind="logits", ask=away).labels == ("a", "b", "c")
    assert fit(described, kind="logits", ask=away, labels=("d", "e", "f")).labels == ("d", "e", "f")
    with pytest.raises(ConfigurationError, match="2 labels are given, the teacher has 3 classes"):
        fit(described, kind="logits", ask=away, labels=("d", "e"))


@pytest.mark.parametrize(
    ("described", "sentence"),
    [
        (
            teacher(output("output_probability", datatype="seq(map(int64,tensor(float)))")),
            r"is a sequence of maps.*zipmap",
        ),
        (teacher(output("label", -1, datatype="INT64")), r"none of the teacher's outputs.*'label' is INT64: an answer"),
        (teacher(output("y", -1, 8, 3)), r"'y' has shape \[-1, 8, 3\], not \[batch, classes\]"),
        (teacher(output("y", -1, 1)), r"has 1 class; distilling needs at least 2"),
        (teacher(output("y", -1, -1)), "doesn't say how many classes it has"),
        (
            teacher(output("y"), inputs=(Tensor("x", "FP32", (1, 4)),)),
            r"the fixed batch \[1, 4\].*free first dimension",
        ),
        (teacher(output("y"), inputs=()), r"doesn't say which inputs it has\. .*by hand: inputs, num_classes"),
        (teacher(), "doesn't say which outputs it has"),
        (teacher(output("y"), inputs=(Tensor("x", "complex64", (-1, 4)),)), "is complex64, which isn't served"),
    ],
)
def test_what_does_not_fit_is_said_with_what_to_do(described: Description, sentence: str) -> None:
    with pytest.raises(ConfigurationError, match=sentence):
        fit(described, kind="logits", ask=away)


def test_an_output_that_is_not_there_is_said_with_those_that_are() -> None:
    with pytest.raises(ConfigurationError, match=r"no output 'z'\. It has y FP32 \[-1, 3\]"):
        fit(teacher(output("y")), output="z", ask=away)


def test_scores_of_several_labels_at_once_are_no_distribution() -> None:
    with pytest.raises(ConfigurationError, match="its rows don't sum to 1: that is no distribution"):
        fit(teacher(output("probabilities")), ask=answering(probabilities=[0.9, 0.8, 0.1]))


def test_an_answer_of_another_shape_than_promised_is_said() -> None:
    def ask(inputs: Mapping[str, Any]) -> Mapping[str, Any]:
        return {"y": np.zeros((1, 3), np.float32)}

    with pytest.raises(ConfigurationError, match=r"answers 4 rows with shape \[1, 3\]"):
        fit(teacher(output("y")), ask=ask)
