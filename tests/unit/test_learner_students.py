"""The built-in students: which one is meant, what each learns, that its graph answers alike, and what it refuses."""

import numpy as np
import onnx
import pytest
import torch

from distill_loop.config import LearnerSection
from distill_loop.learner import batch, checkpoint, students
from distill_loop.learner.ngrams import NgramsNet
from distill_loop.learner.step import Learner
from distill_loop.release.candidate import logits_of
from distill_loop.release.export import Exporter
from distill_loop.release.precheck import Artifact
from protos.errors import ConfigurationError
from registry.graph_check.model import check_graph
from registry.sections import BundlesSection, ModelSection, TensorSpec
from tests.support.learning import same_bits
from tests.support.tasks import TASKS, Task

EVERY = pytest.mark.parametrize("task", TASKS.values(), ids=TASKS.keys())


def model_of(*inputs: tuple[str, str, tuple[int, ...]]) -> ModelSection:
    specs = [TensorSpec(name=name, datatype=datatype, shape=(-1, *sizes)) for name, datatype, sizes in inputs]
    return ModelSection(name="mine", inputs=tuple(specs), num_classes=4)


def taught(task: Task, num_pairs: int = 150, num_steps: int = 120, **changes: object) -> Learner:
    learner = Learner(task.learner(**changes), task.model)
    for number in range(num_pairs):
        learner.observe(task.pair(number))
    learner.learn(num_steps)
    return learner


@EVERY
def test_auto_chooses_by_the_inputs(task: Task) -> None:
    assert students.choose(task.model) == task.student
    assert Learner(task.learner(), task.model).student.name == task.student


@pytest.mark.parametrize(
    ("inputs", "student"),
    [
        ([("text", "BYTES", ())], "ngrams"),
        ([("ids", "INT32", (-1,))], "ngrams"),
        ([("ids", "INT64", (128,))], "ngrams"),
        ([("ids", "INT32", (128,)), ("mask", "INT32", (128,))], "ngrams"),
        ([("bytes", "UINT8", (512,))], "byte_window"),
        ([("features", "FP64", (41,))], "tabular"),
        ([("counts", "INT32", (9,))], "tabular"),
        ([("image", "FP32", (8, 8))], "image"),
        ([("image", "FP32", (3, -1, -1))], "image"),
    ],
)
def test_auto_reads_dtype_and_shape(inputs: list[tuple[str, str, tuple[int, ...]]], student: str) -> None:
    assert students.choose(model_of(*inputs)) == student


@EVERY
def test_a_student_learns_what_its_inputs_show(task: Task) -> None:
    learner = taught(task)

    unseen = [task.pair(number) for number in range(1000, 1100)]
    inputs = batch.stack(task.inputs, [pair.inputs for pair in unseen])

    agreement = np.mean(learner.logits(inputs).argmax(axis=1) == [pair.teacher_class for pair in unseen])
    assert agreement > 0.9


@EVERY
def test_its_graph_answers_alike_at_any_size_and_has_no_loop(task: Task) -> None:
    learner = taught(task, num_pairs=40, num_steps=10)
    settings = task.learner()
    exporter = Exporter(task.model, text_bytes=settings.text_bytes)
    exporter.export(learner.net)
    learner.learn(5)

    data = exporter.export(learner.net)  # new weights and scales in the same graph
    artifact = Artifact(data, "logits", threads=1)

    check_graph(data, task.model.inputs, logits_of(task.model), BundlesSection())
    for rows in ([task.pair(number).inputs for number in range(7)], [task.pair(3).inputs]):
        inputs = batch.stack(task.inputs, rows)
        np.testing.assert_allclose(artifact.logits(inputs), learner.logits(inputs), atol=1e-5)
    graph = onnx.load_from_string(data).graph
    assert {node.op_type for node in graph.node}.isdisjoint({"Loop", "Scan", "If"})
    assert all(value.type.tensor_type.shape.dim[0].dim_param == "batch" for value in [*graph.input, *graph.output])


@EVERY
def test_a_restart_in_between_changes_no_bit(task: Task) -> None:
    def go_on(learner: Learner, turns: range) -> None:
        for turn in turns:
            learner.observe(task.pair(turn))
            learner.learn(1)

    straight = Learner(task.learner(), task.model)
    go_on(straight, range(45))

    first = Learner(task.learner(), task.model)
    go_on(first, range(23))
    second = Learner(task.learner(seed=5), task.model)
    second.load_state_dict(checkpoint.load(checkpoint.dump(first.state_dict())))
    go_on(second, range(23, 45))

    assert same_bits(second.state_dict(), straight.state_dict())


@pytest.mark.parametrize("name", ["text", "tokens"])
def test_an_answer_does_not_depend_on_how_far_a_row_is_filled_up(name: str) -> None:
    task = TASKS[name]
    learner = taught(task, num_pairs=30, num_steps=5)
    rows = [task.pair(number).inputs for number in range(9)]

    together = learner.logits(batch.stack(task.inputs, rows))
    alone = np.concatenate([learner.logits(row) for row in rows])

    np.testing.assert_allclose(together, alone, atol=1e-5)


def test_what_a_mask_hides_is_not_read() -> None:
    learner = taught(TASKS["tokens"], num_pairs=30, num_steps=5)
    ids, mask = np.array([[5, 6, 9, 9]], np.int64), np.array([[1, 1, 0, 0]], np.int64)

    masked = learner.logits({"input_ids": ids, "attention_mask": mask})
    short = learner.logits({"input_ids": ids[:, :2], "attention_mask": mask[:, :2]})

    np.testing.assert_allclose(masked, short, atol=1e-6)


def test_ngrams_are_the_order_of_words_too() -> None:
    net = NgramsNet(LearnerSection(buckets=4096, embedding=4), (1, 2), 3, 0, None).eval()

    forward, backward = net(torch.tensor([[11, 12, 13]])), net(torch.tensor([[13, 12, 11]]))
    unigrams = NgramsNet(LearnerSection(buckets=4096, embedding=4), (1,), 3, 0, None).eval()

    assert not torch.allclose(forward, backward)
    assert torch.allclose(unigrams(torch.tensor([[11, 12, 13]])), unigrams(torch.tensor([[13, 12, 11]])), atol=1e-6)


def test_declared_columns_of_floats_are_categories() -> None:
    model = model_of(("features", "FP32", (3,)))
    settings = LearnerSection.model_validate({"hidden": 8, "tabular": {"categories": {"features": [1]}}})

    student = students.build(settings, model)
    rows = torch.log1p(torch.tensor([[0.0, index, 0.0] for index in range(70)]))
    buckets = student.net._buckets_of(rows[:, 1:2].to(torch.float64))  # type: ignore[operator]

    assert (student.facts["numeric_columns"], student.facts["category_columns"]) == (2, 1)
    assert (
        len(set(buckets[:, 0].tolist())) > 45
    )  # of 70 logarithms of an index, hashed into 128 buckets: 54 are expected


@pytest.mark.parametrize(
    ("inputs", "changes", "said"),
    [
        ([("x", "FP32", (4,))], {"student": "ngrams"}, r"ngrams can't read .*\(x FP32"),
        ([("x", "FP32", (-1,))], {"student": "tabular"}, "tabular can't read"),
        ([("x", "FP32", (9, 8, 8))], {"student": "image"}, "image can't read"),
        ([("x", "INT32", (63,))], {"student": "byte_window"}, "byte_window can't read"),
        ([("x", "FP32", (-1,))], {}, "no built-in student reads"),
        ([("x", "FP32", (4,))], {"student": "mlp"}, "'mlp' is not a student. Use auto, byte_window"),
        ([("x", "FP32", (4,))], {"student": "a/first.onnx"}, "release.first_version"),
        ([("x", "FP32", (4,))], {"arguments": {"width": 3}}, "takes none"),
        ([("x", "FP32", (4,))], {"tabular": {"categories": {"y": [1]}}}, "names the input 'y'"),
        ([("x", "FP32", (4,))], {"tabular": {"categories": {"x": [4]}}}, "column 4 of 'x'"),
    ],
)
def test_an_impossible_combination_says_what_to_change(
    inputs: list[tuple[str, str, tuple[int, ...]]], changes: dict[str, object], said: str
) -> None:
    with pytest.raises(ConfigurationError, match=said) as caught:
        students.build(LearnerSection.model_validate(changes), model_of(*inputs))

    assert caught.value.fix


def test_a_built_in_student_has_no_extra_outputs() -> None:
    model = model_of(("x", "FP32", (4,))).model_copy(
        update={"extra_outputs": (TensorSpec(name="embedding", datatype="FP32", shape=(-1, 8)),)}
    )

    with pytest.raises(ConfigurationError, match="'embedding'"):
        students.build(LearnerSection(), model)
