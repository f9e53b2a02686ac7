"""The learner: what it holds out, whom it believes, what it refuses, and that a restart changes no bit."""

import dataclasses

import numpy as np
import pytest
import torch

from distill_loop.learner import checkpoint
from distill_loop.learner.step import HOLDOUT_PAIRS, Learner, is_held_out
from protos.errors import ConfigurationError, FormatError
from registry.sections import ModelSection, TensorSpec
from tests.support.learning import MODEL, NUM_CLASSES, WINDOW, make_training_pair, same_bits, small_learner


def weights_of(learner: Learner) -> list[torch.Tensor]:
    return [tensor.clone() for tensor in learner.net.state_dict().values()]


def same_weights(left: list[torch.Tensor], right: list[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(left, right, strict=True))


def taught(num_pairs: int = 60, num_steps: int = 5, **changes: float) -> Learner:
    learner = Learner(small_learner(**changes), MODEL)
    for number in range(num_pairs):
        learner.observe(make_training_pair(number))
    learner.learn(num_steps)
    return learner


@pytest.mark.parametrize("split", [0, 1, 7, 19, 20])
def test_a_restart_in_between_changes_no_bit(split: int) -> None:
    def go_on(learner: Learner, turns: range) -> None:
        for turn in turns:
            learner.observe(make_training_pair(turn))
            learner.learn(2)

    straight = Learner(small_learner(), MODEL)
    go_on(straight, range(20))

    first = Learner(small_learner(), MODEL)
    go_on(first, range(split))
    second = Learner(small_learner(seed=5), MODEL)
    second.load_state_dict(checkpoint.load(checkpoint.dump(first.state_dict())))
    go_on(second, range(split, 20))

    assert same_bits(second.state_dict(), straight.state_dict())


def test_two_learners_of_one_seed_and_stream_are_equal() -> None:
    assert same_weights(weights_of(taught()), weights_of(taught()))


def test_held_out_pairs_are_never_trained_on() -> None:
    learner, watched = (
        Learner(small_learner(holdout_ratio=0.3), MODEL),
        Learner(small_learner(holdout_ratio=0.3), MODEL),
    )
    fates = []
    for number in range(60):
        pair = make_training_pair(number)
        fates.append(learner.observe(pair))
        if fates[-1] == "learned":
            watched.observe(pair)
    learner.learn(20)
    watched.learn(20)

    assert fates.count("held_out") > 5
    assert same_weights(weights_of(learner), weights_of(watched))


def test_only_held_out_pairs_leave_the_student_as_it_is() -> None:
    learner = Learner(small_learner(holdout_ratio=0.5), MODEL)
    before = weights_of(learner)
    for number in range(40):
        pair = make_training_pair(number)
        if is_held_out(pair.input_key, 0.5):
            learner.observe(pair)

    learner.learn(10)

    assert learner.num_held_out > 5
    assert learner.num_steps == 0
    assert same_weights(before, weights_of(learner))


def test_repeats_of_an_input_fall_on_the_same_side() -> None:
    learner = Learner(small_learner(holdout_ratio=0.5), MODEL)

    for number in range(30):
        pair = make_training_pair(number)
        repeat = dataclasses.replace(pair, record_id=bytes(16), time_unix_ns=99)
        assert learner.observe(pair) == learner.observe(repeat)


def test_the_held_out_share_is_the_ratio() -> None:
    keys = [make_training_pair(number).input_key for number in range(4000)]

    share = np.mean([is_held_out(key, 0.1) for key in keys])

    assert abs(share - 0.1) < 4 * np.sqrt(0.1 * 0.9 / 4000)  # four standard deviations
    assert not any(is_held_out(key, 0.0) for key in keys)


def test_the_held_out_slice_is_the_newest_and_bounded() -> None:
    learner = Learner(small_learner(holdout_ratio=0.5), MODEL)
    held_out = [n for n in range(1300) if learner.observe(make_training_pair(n)) == "held_out"]

    inputs, teacher_BC = learner.held_out(4)

    assert learner.num_held_out == HOLDOUT_PAIRS
    assert teacher_BC.argmax(axis=1).tolist() == [number % NUM_CLASSES for number in held_out[-4:]]
    assert inputs["bytes"].shape == (4, WINDOW)


def test_without_held_out_pairs_the_slice_is_empty_in_the_right_shapes() -> None:
    inputs, teacher_BC = Learner(small_learner(), MODEL).held_out(4)

    assert (inputs["bytes"].shape, inputs["bytes"].dtype) == ((0, WINDOW), np.int32)
    assert teacher_BC.shape == (0, NUM_CLASSES)


def test_a_student_learns_what_its_inputs_show() -> None:
    learner = taught(num_pairs=300, num_steps=150)

    unseen = [make_training_pair(number) for number in range(1000, 1100)]
    logits_BC = learner.logits({"bytes": np.concatenate([pair.inputs["bytes"] for pair in unseen])})

    agreement = np.mean(logits_BC.argmax(axis=1) == [pair.teacher_class for pair in unseen])
    assert logits_BC.dtype == np.float32
    assert agreement > 0.95


def test_a_newer_teacher_makes_the_older_answers_worthless() -> None:
    learner = taught(num_pairs=40)

    learner.observe(make_training_pair(100, teacher_version="teacher-2"))

    assert learner.teacher_version == "teacher-2"
    assert len(learner._replay) + learner.num_held_out == 1


def test_a_late_answer_of_the_older_teacher_has_no_effect() -> None:
    learner = Learner(small_learner(holdout_ratio=0.0), MODEL)
    learner.observe(make_training_pair(1, time_unix_ns=10))
    learner.observe(make_training_pair(2, time_unix_ns=20, teacher_version="teacher-2"))

    fate = learner.observe(make_training_pair(3, time_unix_ns=15))

    assert fate == "refused"
    assert learner.teacher_version == "teacher-2"
    assert learner._replay.class_counts == {2: 1}


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        ({}, "no input 'bytes'"),
        ({"bytes": np.zeros((1, WINDOW), np.int64)}, "INT64"),
        ({"bytes": np.zeros((1, WINDOW - 1), np.int32)}, str(WINDOW - 1)),
        ({"bytes": np.zeros((2, WINDOW), np.int32)}, str([2, WINDOW])[1:-1]),
        ({"bytes": np.zeros(WINDOW, np.int32)}, "INT32"),
    ],
)
def test_a_pair_that_is_not_the_models_is_refused_and_leaves_no_trace(inputs: dict[str, np.ndarray], said: str) -> None:
    learner = taught()
    before = checkpoint.dump(learner.state_dict())

    with pytest.raises(FormatError, match=said):
        learner.observe(dataclasses.replace(make_training_pair(500, teacher_version="teacher-9"), inputs=inputs))

    assert checkpoint.dump(learner.state_dict()) == before


def test_inputs_that_the_model_does_not_name_are_left_out() -> None:
    learner = Learner(small_learner(holdout_ratio=0.0), MODEL)
    pair = make_training_pair(1)
    learner.observe(dataclasses.replace(pair, inputs={**pair.inputs, "more": np.zeros((1, 3), np.float32)}))
    learner.observe(make_training_pair(2))

    learner.learn(2)

    assert learner.num_steps == 2


def test_a_spoilt_step_changes_no_weight_and_is_counted() -> None:
    learner = taught()
    spoilt = dataclasses.replace(
        make_training_pair(500), teacher_probabilities_C=np.full(NUM_CLASSES, np.nan, np.float32)
    )
    for _ in range(40):  # the ring holds nothing else now
        learner._replay.add(spoilt)
    before = weights_of(learner)

    learner.learn(3)

    assert learner.num_spoilt_steps == 3
    assert same_weights(before, weights_of(learner))


def test_a_checkpoint_of_another_student_is_refused_and_changes_nothing() -> None:
    state = taught(hidden=8).state_dict()
    learner = taught()
    before = checkpoint.dump(learner.state_dict())

    with pytest.raises(FormatError, match="another student"):
        learner.load_state_dict(state)

    assert checkpoint.dump(learner.state_dict()) == before


@pytest.mark.parametrize(
    "specs",
    [
        [("bytes", "FP32", (-1, 96))],
        [("bytes", "INT32", (-1, 95))],
        [("bytes", "INT32", (-1, 32))],
        [("bytes", "INT32", (-1, -1))],
        [("bytes", "INT32", (-1, 96, 2))],
        [("bytes", "INT32", (-1, 96)), ("more", "INT32", (-1, 96))],
    ],
)
def test_inputs_that_the_student_cannot_read_are_a_wrong_configuration(
    specs: list[tuple[str, str, tuple[int, ...]]],
) -> None:
    inputs = tuple(TensorSpec(name=name, datatype=datatype, shape=shape) for name, datatype, shape in specs)

    with pytest.raises(ConfigurationError, match="byte_window"):
        Learner(small_learner(), ModelSection(inputs=inputs, num_classes=NUM_CLASSES))


def test_pairs_that_are_too_old_are_forgotten_and_refused() -> None:
    learner = Learner(small_learner(holdout_ratio=0.2, memory_s=100.0), MODEL)
    fates = [learner.observe(make_training_pair(n, time_unix_ns=n * 10**9)) for n in range(60)]

    learner.forget(130 * 10**9)
    late = learner.observe(make_training_pair(99, time_unix_ns=29 * 10**9))

    assert late == "refused"
    assert learner.num_held_out == fates[30:].count("held_out")
    assert len(learner._replay) == fates[30:].count("learned")
    again = Learner(small_learner(holdout_ratio=0.2, memory_s=100.0), MODEL)
    again.load_state_dict(checkpoint.load(checkpoint.dump(learner.state_dict())))
    assert same_bits(again.state_dict(), learner.state_dict())
    learner.forget(10**12)
    learner.learn(1)
    assert len(learner._replay) == learner.num_held_out == learner.num_steps == 0

    learner.forget(131 * 10**9)  # that was a mistake
    assert learner.observe(make_training_pair(100, time_unix_ns=130 * 10**9)) != "refused"
