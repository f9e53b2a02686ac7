"""Replay: bounded in bytes, even over classes, half of each batch from the newest, and the same after a restart."""

import dataclasses
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distill_loop.learner import checkpoint
from distill_loop.learner.replay import Replay, pack_pairs, unpack_pairs
from protos.tensors import strings
from tests.support.learning import NUM_CLASSES, make_training_pair

PAIR_BYTES = make_training_pair(0).num_bytes
Labels = st.lists(st.integers(0, NUM_CLASSES - 1), max_size=120)


def make_replay(labels: list[int], *, ring_pairs: int = 8, memory_pairs: int = 1000, seed: int = 0) -> Replay:
    replay = Replay(ring_pairs=ring_pairs, memory_bytes=memory_pairs * PAIR_BYTES, seed=seed)
    for number, label in enumerate(labels):
        replay.add(make_training_pair(number, label=label))
    return replay


@given(labels=Labels, memory_pairs=st.integers(1, 40))
@settings(max_examples=60, deadline=None)
def test_the_memory_keeps_its_byte_bound_and_counts_truly(labels: list[int], memory_pairs: int) -> None:
    replay = make_replay(labels, memory_pairs=memory_pairs)

    assert replay.num_bytes == len(replay) * PAIR_BYTES <= memory_pairs * PAIR_BYTES
    assert len(replay) == min(len(labels), memory_pairs)


@given(labels=Labels, memory_pairs=st.integers(1, 40))
@settings(max_examples=60, deadline=None)
def test_no_class_is_crowded_out(labels: list[int], memory_pairs: int) -> None:
    counts, seen = make_replay(labels, memory_pairs=memory_pairs).class_counts, Counter(labels)

    fair = max(counts.values(), default=1) - 1
    for label, num_seen in seen.items():
        assert counts.get(label, 0) >= min(num_seen, fair)


def test_a_rare_class_survives_a_flood() -> None:
    replay = make_replay([5] + [0] * 200, memory_pairs=20)

    assert replay.class_counts == {0: 19, 5: 1}


def test_a_pair_larger_than_the_memory_is_still_learned_from() -> None:
    replay = Replay(ring_pairs=4, memory_bytes=10, seed=0)
    replay.add(make_training_pair(0))

    assert len(replay.sample(4)) == 4


def test_half_of_a_batch_is_newest_and_half_is_even_over_classes() -> None:
    replay = make_replay([0] * 300 + [1] * 30, ring_pairs=16)
    num_batches, size = 200, 32

    newest, others = Counter[int](), Counter[int]()
    for _ in range(num_batches):
        labels = [pair.teacher_class for pair in replay.sample(size)]
        newest.update(labels[: size // 2])
        others.update(labels[size // 2 :])

    total = num_batches * size // 2
    assert newest == {1: total}  # the 16 newest are all of class 1
    slack = 4 * np.sqrt(total / 4)  # four standard deviations of a fair coin
    assert abs(others[0] - total / 2) < slack


def test_the_newest_half_repeats_no_pair() -> None:
    replay = make_replay([number % NUM_CLASSES for number in range(40)], ring_pairs=16)

    assert len({pair.record_id for pair in replay.sample(32)[:16]}) == 16


@given(labels=st.lists(st.integers(0, NUM_CLASSES - 1), min_size=1, max_size=60), split=st.integers(0, 60))
@settings(max_examples=40, deadline=None)
def test_a_restart_goes_on_with_the_same_choices(labels: list[int], split: int) -> None:
    straight = make_replay(labels[:split], memory_pairs=10)
    restarted = Replay(ring_pairs=8, memory_bytes=10 * PAIR_BYTES, seed=99)
    restarted.load_state_dict(checkpoint.load(checkpoint.dump(straight.state_dict())))

    for number, label in enumerate([*labels[split:], 0], start=split):
        for replay in (straight, restarted):
            replay.add(make_training_pair(number, label=label))
        for pair, same in zip(straight.sample(8), restarted.sample(8), strict=True):
            assert pair.record_id == same.record_id
            np.testing.assert_array_equal(pair.inputs["bytes"], same.inputs["bytes"])
            np.testing.assert_array_equal(pair.teacher_probabilities_C, same.teacher_probabilities_C)
    assert restarted.num_bytes == straight.num_bytes


def test_what_is_forgotten_after_a_restart_frees_its_bytes() -> None:
    pairs = unpack_pairs(pack_pairs([make_training_pair(number) for number in range(3)]))

    assert all(pair.inputs["bytes"].base is None for pair in pairs)
    assert all(pair.teacher_probabilities_C.base is None for pair in pairs)


@pytest.mark.parametrize("dtype", [np.int32, np.uint8, np.uint16, np.float16, np.int64])
def test_packed_pairs_keep_every_input_type(dtype: type) -> None:
    pair = make_training_pair(1)
    pair = type(pair)(**{**vars(pair), "inputs": {"bytes": np.arange(6).astype(dtype)[None]}})

    (back,) = unpack_pairs(checkpoint.load(checkpoint.dump(pack_pairs([pair]))))

    assert back.inputs["bytes"].dtype == dtype
    np.testing.assert_array_equal(back.inputs["bytes"], pair.inputs["bytes"])
    assert (back.record_id, back.input_key, back.time_unix_ns) == (pair.record_id, pair.input_key, pair.time_unix_ns)


def test_packed_pairs_keep_rows_of_different_lengths_and_texts() -> None:
    texts = [strings(["one"]), strings(["zwei, drei"]), strings([b""])]
    ids = [np.arange(length, dtype=np.int64)[None] for length in (1, 4, 2)]
    pairs = [
        dataclasses.replace(make_training_pair(number), inputs={"text": text, "ids": row})
        for number, (text, row) in enumerate(zip(texts, ids, strict=True))
    ]

    back = unpack_pairs(checkpoint.load(checkpoint.dump(pack_pairs(pairs))))

    for pair, same in zip(pairs, back, strict=True):
        assert pair.inputs["text"].tolist() == same.inputs["text"].tolist()
        np.testing.assert_array_equal(pair.inputs["ids"], same.inputs["ids"])
    assert pairs[1].num_bytes > pairs[0].num_bytes
