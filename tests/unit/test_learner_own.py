"""A torch module of the user's as student: it is taken as it is, and whatever is wrong with it is said in one sentence."""

import pathlib
import sys
import textwrap
from collections.abc import Callable, Iterator

import numpy as np
import onnx
import pytest

from distill_loop.check import check
from distill_loop.config import LearnerSection, LoopSettings
from distill_loop.learner import checkpoint, students
from distill_loop.learner.pair import TrainingPair
from distill_loop.learner.step import Learner
from distill_loop.release.export import Exporter
from distill_loop.release.precheck import Artifact
from protos.errors import ConfigurationError, EverstillError, FormatError
from registry.sections import ModelSection, TensorSpec
from tests.support.learning import same_bits

NUM_CLASSES = 3
MODEL = ModelSection(
    name="mine",
    num_classes=NUM_CLASSES,
    inputs=(
        TensorSpec(name="ids", datatype="INT64", shape=(-1, -1)),
        TensorSpec(name="extra", datatype="FP32", shape=(-1, 2)),
    ),
    extra_outputs=(TensorSpec(name="embedding", datatype="FP32", shape=(-1, 8)),),
)
STUDENT = """
import torch
from torch import nn

class Student(nn.Module):
    def __init__(self, width=8, vocabulary=50, form="tuple"):
        super().__init__()
        self.words = nn.Embedding(vocabulary, width)
        self.norm = nn.BatchNorm1d(width)
        self.drop = nn.Dropout(0.1)
        self.head = nn.Linear(width + 2, 3)
        self.form = form

    def forward(self, ids, extra):
        pooled = self.drop(self.norm(self.words(ids).mean(dim=1)))
        logits = self.head(torch.cat([pooled, extra], dim=1))
        if self.form == "dict":
            return {"embedding": pooled, "logits": logits}
        return logits, pooled

def build(**arguments):
    return Student(**arguments)
"""
Write = Callable[[str], str]


@pytest.fixture
def write(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Write]:
    """Return what puts a module beside the configuration and gives its name."""
    monkeypatch.syspath_prepend(tmp_path)
    names: list[str] = []

    def write(text: str) -> str:
        names.append(f"their_student_{len(names)}")
        (tmp_path / f"{names[-1]}.py").write_text(textwrap.dedent(text))
        return names[-1]

    yield write
    for name in names:
        sys.modules.pop(name, None)


def settings_of(name: str, **arguments: object) -> LearnerSection:
    return LearnerSection.model_validate(
        {"student": name, "arguments": arguments, "batch_size": 8, "learning_rate": 0.02}
    )


def make_pair(number: int) -> TrainingPair:
    label = number % NUM_CLASSES
    ids = np.array([[5 + label, *np.random.default_rng(number).integers(10, 40, number % 4)]], np.int64)
    probabilities_C = np.full(NUM_CLASSES, 0.01, np.float32)
    probabilities_C[label] = 0.98
    key = number.to_bytes(16, "little")
    return TrainingPair(key, key, {"ids": ids, "extra": np.ones((1, 2), np.float32)}, probabilities_C, number, "t-1")


def test_a_tuple_and_a_dict_of_outputs_are_the_same(write: Write) -> None:
    name, ids, extra = f"{write(STUDENT)}:build", np.array([[5, 20]], np.int64), np.ones((1, 2), np.float32)

    first, second = (
        Learner(settings_of(name, form=form), MODEL).answers({"ids": ids, "extra": extra}) for form in ("tuple", "dict")
    )

    assert list(first) == list(second) == ["logits", "embedding"]
    assert all(np.array_equal(first[name], second[name]) for name in first)


def test_its_graph_answers_alike_extra_outputs_too(write: Write) -> None:
    learner = Learner(settings_of(f"{write(STUDENT)}:build"), MODEL)
    for number in range(20):
        learner.observe(make_pair(number))
    exporter = Exporter(MODEL, text_bytes=256)
    exporter.export(learner.net)
    learner.learn(5)

    data = exporter.export(learner.net)
    inputs = {"ids": np.array([[5, 20, 21], [6, 30, 31]], np.int64), "extra": np.ones((2, 2), np.float32)}
    torch_answers = learner.answers(inputs)
    answers = Artifact(data, "logits", threads=1).answers(inputs, list(torch_answers))

    assert list(torch_answers) == ["logits", "embedding"]
    for name, array in torch_answers.items():
        np.testing.assert_allclose(answers[name], array, atol=1e-4)
    assert [one.name for one in onnx.load_from_string(data).graph.output] == ["logits", "embedding"]


def test_a_restart_goes_on_with_the_same_dropout(write: Write) -> None:
    name = f"{write(STUDENT)}:Student"

    def go_on(learner: Learner, turns: range) -> None:
        for turn in turns:
            learner.observe(make_pair(turn))
            learner.learn(2)

    straight, first, second = (Learner(settings_of(name), MODEL) for _ in range(3))
    go_on(straight, range(20))
    go_on(first, range(9))
    second.load_state_dict(checkpoint.load(checkpoint.dump(first.state_dict())))
    go_on(second, range(9, 20))

    assert same_bits(second.state_dict(), straight.state_dict())


def test_a_row_that_it_can_not_take_is_refused_before_it_is_remembered(write: Write) -> None:
    learner = Learner(settings_of(f"{write(STUDENT)}:build"), MODEL)
    pair = make_pair(1)
    pair.inputs["ids"][0, 0] = 50  # beyond its vocabulary

    with pytest.raises(FormatError, match="IndexError"):
        learner.observe(pair)

    learner.learn(1)
    assert learner.num_steps == 0


WRONG = {
    "return nn.Linear(2, 3).weight": r"returns a Parameter, not a torch\.nn\.Module",
    "return nn.Identity()": "without a parameter that can be trained",
    "raise ValueError('no weights here')": "raises ValueError: no weights here when it is called with no arguments",
    "return Net(lambda ids, extra: extra @ torch.ones(5))": "raises RuntimeError.*on ids",
    "return Net(lambda ids, extra: torch.ones(len(ids), 4))": r"returns \[2, 4\] for the output 'logits'.*says \[2, 3\]",
    "return Net(lambda ids, extra: torch.ones(2, 3))": r"returns \[2, 3\] for the output 'logits'.*says \[3, 3\]",
    "return Net(lambda ids, extra: torch.ones(len(ids), 3).double())": "returns FP64 for the output 'logits'.*says FP32",
    "return Net(lambda ids, extra: torch.ones(len(ids), 3) / 0)": "returns NaN or infinity for the output 'logits'",
    "return Net(lambda ids, extra: 'logits')": "returns a str, not a tensor",
    "return Net(lambda ids, extra: {'scores': extra})": "returns scores, not 'logits'",
}
NET = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
        self.function = function

    def forward(self, ids, extra):
        return self.function(ids, extra)

def build():
    {body}
"""


@pytest.mark.parametrize("body", WRONG)
def test_what_is_wrong_with_it_is_said_in_one_sentence(body: str, write: Write) -> None:
    name = f"{write(NET.format(body=body))}:build"
    model = MODEL.model_copy(update={"extra_outputs": ()})

    with pytest.raises(ConfigurationError, match=rf"learner\.student {name}.*{WRONG[body]}") as caught:
        students.build(settings_of(name), model)

    assert "\n" not in str(caught.value)
    assert caught.value.fix


def test_fewer_outputs_than_declared_are_named(write: Write) -> None:
    name = f"{write(NET.format(body='return Net(lambda ids, extra: torch.ones(len(ids), 3))'))}:build"

    with pytest.raises(ConfigurationError, match=r"returns 1 outputs.*logits, embedding"):
        students.build(settings_of(name), MODEL)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("no_such_module_here:build", "no module 'no_such_module_here'"),
        ("json:build", "no function or class 'build'"),
        ("json:", "not of the form module:function"),
        (":build", "not of the form module:function"),
    ],
)
def test_one_that_is_not_there_is_named(name: str, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        students.build(settings_of(name), MODEL)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("import no_such_thing", "No module named 'no_such_thing'"),
        ("def build(:", "SyntaxError"),
        ("raise SystemExit(3)", "SystemExit: 3"),
    ],
)
def test_one_that_can_not_be_imported_says_why(text: str, said: str, write: Write) -> None:
    with pytest.raises(ConfigurationError, match=f"can't be imported.*{said}"):
        students.build(settings_of(f"{write(text)}:build"), MODEL)


@pytest.mark.parametrize(
    ("forward", "said"),
    [
        ("extra @ torch.ones(2, 3) if extra.sum() > 0 else extra @ torch.zeros(2, 3)", "can't be exported to ONNX"),
        (
            "extra @ torch.ones(2, 3) * (2 if ids.shape[1] == 16 else 1)",
            "its ONNX graph differs from the torch student",
        ),
    ],
)
def test_one_whose_graph_would_do_something_else_is_refused(forward: str, said: str, write: Write) -> None:
    name = f"{write(NET.format(body='return Net(None)').replace('self.function(ids, extra)', forward))}:build"
    model = MODEL.model_copy(update={"extra_outputs": ()})

    with pytest.raises(EverstillError, match=said) as caught:
        check(LoopSettings(model=model, learner=settings_of(name)))

    assert "\n" not in str(caught.value)
