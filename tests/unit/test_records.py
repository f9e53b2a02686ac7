"""Identity of a record: ids grow with time, keys know inputs, coins are fair and know nothing of each other."""

import math
import time
import uuid
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protos import records, records_pb2, topics

NUM_COINS = 20_000
KEY = b"a deployment's key"
#: What that key gave for record id 00 01 .. 0f on the day the format was fixed.
COIN = 0.6686940940521179
TAG = "0d7f57a5ace40a1f443f5bb29c5fd619"
TENSORS = st.builds(
    records_pb2.Tensor,
    name=st.text(max_size=8),
    datatype=st.sampled_from(["INT32", "FP32"]),
    shape=st.lists(st.integers(0, 9), max_size=3),
    raw=st.binary(max_size=16),
)


def record_ids(count: int) -> list[bytes]:
    """Return ids that don't change from run to run."""
    return [bytes(row) for row in np.random.default_rng(7).integers(0, 256, (count, 16), dtype=np.uint8)]


def coins(arm: str, key: bytes = KEY) -> np.ndarray:
    return np.array([records.coin(key, arm, record_id) for record_id in record_ids(NUM_COINS)])


def test_a_record_id_is_a_uuid_of_version_7() -> None:
    parsed = uuid.UUID(bytes=records.mint_record_id())

    assert parsed.version == 7
    assert parsed.variant == uuid.RFC_4122


def test_record_ids_are_different_and_sorted_by_their_millisecond() -> None:
    ids = [records.mint_record_id() for _ in range(5_000)]

    assert len(set(ids)) == len(ids)
    milliseconds = [int.from_bytes(record_id[:6], "big") for record_id in ids]
    assert milliseconds == sorted(milliseconds)


def test_a_record_id_says_when_it_was_minted() -> None:
    before_ms = time.time_ns() // 1_000_000
    minted_ms = int.from_bytes(records.mint_record_id()[:6], "big")

    assert before_ms <= minted_ms <= time.time_ns() // 1_000_000


@given(st.lists(TENSORS, max_size=4, unique_by=lambda one: one.name), st.randoms())
def test_an_input_key_does_not_depend_on_the_order_of_tensors(
    tensors: list[records_pb2.Tensor], random: Random
) -> None:
    shuffled = random.sample(tensors, len(tensors))

    assert records.input_key(shuffled) == records.input_key(tensors)


@given(st.lists(TENSORS, max_size=3), st.lists(TENSORS, max_size=3))
def test_different_inputs_have_different_keys(one: list[records_pb2.Tensor], other: list[records_pb2.Tensor]) -> None:
    def by_name(tensors: list[records_pb2.Tensor]) -> list[bytes]:
        return [tensor.SerializeToString() for tensor in sorted(tensors, key=lambda tensor: tensor.name)]

    if by_name(one) != by_name(other):
        assert records.input_key(one) != records.input_key(other)


@pytest.mark.parametrize("arm", [records.ARM_UNIFORM, records.ARM_TRIAL])
def test_an_arms_coins_are_uniform(arm: str) -> None:
    values = np.sort(coins(arm))

    assert values[0] >= 0
    assert values[-1] < 1
    # Kolmogorov-Smirnov: the distance exceeds 1.95 / sqrt(n) with probability .001 where the coins are fair.
    steps = np.arange(1, NUM_COINS + 1) / NUM_COINS
    assert np.abs(steps - values).max() < 1.95 / math.sqrt(NUM_COINS)


@pytest.mark.parametrize("share", [0.01, 0.2, 0.5])
def test_an_arm_takes_the_share_that_it_says(share: float) -> None:
    taken = np.mean(coins(records.ARM_UNIFORM) < share)

    assert abs(taken - share) < 4 * math.sqrt(share * (1 - share) / NUM_COINS)


def test_the_arms_of_one_record_are_independent() -> None:
    uniform, trial = coins(records.ARM_UNIFORM), coins(records.ARM_TRIAL)

    # A 4x4 table of independent coins: chi-square with 9 degrees of freedom, 27.88 is its .999 quantile.
    table, _, _ = np.histogram2d(uniform, trial, bins=4, range=[[0, 1], [0, 1]])
    expected = NUM_COINS / 16
    assert ((table - expected) ** 2 / expected).sum() < 27.88


def test_another_key_tosses_other_coins() -> None:
    correlation = np.corrcoef(coins(records.ARM_UNIFORM), coins(records.ARM_UNIFORM, b"another key"))[0, 1]

    assert abs(correlation) < 4 / math.sqrt(NUM_COINS)


def test_coins_are_pinned_for_ever() -> None:
    assert records.coin(KEY, "uniform", bytes(range(16))) == pytest.approx(COIN, abs=1e-15)
    assert records.keyed_tag(KEY, "subject").hex() == TAG


@given(st.binary(min_size=16, max_size=16), st.integers(1, 64))
def test_an_input_has_one_partition(input_key: bytes, num_partitions: int) -> None:
    partition = topics.partition_of(input_key, num_partitions)

    assert 0 <= partition < num_partitions
    assert topics.partition_of(input_key, num_partitions) == partition


def test_partitions_are_filled_evenly() -> None:
    counts = np.bincount([topics.partition_of(one, 4) for one in record_ids(NUM_COINS)], minlength=4)

    assert np.abs(counts - NUM_COINS / 4).max() < 4 * math.sqrt(NUM_COINS * 0.25 * 0.75)


def test_a_topic_names_its_model() -> None:
    assert topics.topic("filetypes", topics.PAIRS) == "everstill.filetypes.pairs"
