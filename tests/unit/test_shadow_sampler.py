"""The sampler: a pure function with the probabilities that it states, and arms that don't know of each other."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protos.records import ARM_PASS_THROUGH, ARM_TRIAL, ARM_UNIFORM, mint_record_id, row_record_id
from serving.shadow.sampler import Arms, policy_id, toss

KEYS = st.binary(min_size=1, max_size=64)
IDS = st.binary(min_size=16, max_size=16)
SHARES = st.floats(0, 1)
NUM_TOSSES = 20_000


def arms_of(arms: Arms) -> set[str]:
    return {arm for arm, _ in arms}


@given(KEYS, IDS, SHARES, SHARES)
def test_equal_records_meet_equal_coins_and_carry_their_probabilities(
    key: bytes, record_id: bytes, rate: float, share: float
) -> None:
    arms = toss(key, record_id, rate=rate, trial_share=share, passed_through=False)

    assert arms == toss(key, record_id, rate=rate, trial_share=share, passed_through=False)
    assert dict(arms).items() <= {ARM_UNIFORM: rate, ARM_TRIAL: share}.items()


@given(KEYS, IDS, SHARES, SHARES, SHARES)
def test_a_trial_changes_nothing_for_the_uniform_arm(
    key: bytes, record_id: bytes, rate: float, share: float, other_share: float
) -> None:
    one = toss(key, record_id, rate=rate, trial_share=share, passed_through=False)
    other = toss(key, record_id, rate=rate, trial_share=other_share, passed_through=False)

    assert (ARM_UNIFORM in arms_of(one)) == (ARM_UNIFORM in arms_of(other))


@given(KEYS, IDS, SHARES, SHARES)
def test_a_higher_rate_takes_what_a_lower_one_takes(key: bytes, record_id: bytes, one: float, other: float) -> None:
    low, high = sorted((one, other))

    taken_low = arms_of(toss(key, record_id, rate=low, trial_share=0, passed_through=False))

    assert taken_low <= arms_of(toss(key, record_id, rate=high, trial_share=0, passed_through=False))


@given(KEYS, IDS)
def test_zero_takes_nothing_and_one_takes_all(key: bytes, record_id: bytes) -> None:
    assert toss(key, record_id, rate=0, trial_share=0, passed_through=False) == ()
    assert arms_of(toss(key, record_id, rate=1, trial_share=1, passed_through=False)) == {ARM_UNIFORM, ARM_TRIAL}


@given(KEYS, IDS, SHARES, SHARES)
def test_a_row_that_the_teacher_answered_is_taken_for_certain(
    key: bytes, record_id: bytes, rate: float, share: float
) -> None:
    assert toss(key, record_id, rate=rate, trial_share=share, passed_through=True) == ((ARM_PASS_THROUGH, 1.0),)


@pytest.mark.parametrize("rate", [0.01, 0.2, 0.75])
@pytest.mark.parametrize("rows_of_one_request", [False, True])
def test_arms_take_their_shares_and_are_independent(rate: float, rows_of_one_request: bool) -> None:
    # Within 5 standard deviations of a binomial count; the ids are random, so a wrong alarm has odds of some 1e-6.
    request = mint_record_id()
    ids = [row_record_id(request, row) if rows_of_one_request else mint_record_id() for row in range(NUM_TOSSES)]
    taken = [arms_of(toss(b"k", one, rate=rate, trial_share=0.5, passed_through=False)) for one in ids]

    for wanted, share in ((ARM_UNIFORM,), rate), ((ARM_TRIAL,), 0.5), ((ARM_UNIFORM, ARM_TRIAL), rate / 2):
        count = sum(arms.issuperset(wanted) for arms in taken)
        assert abs(count - NUM_TOSSES * share) < 5 * math.sqrt(NUM_TOSSES * share * (1 - share)), wanted


def test_another_key_takes_others() -> None:
    ids = [mint_record_id() for _ in range(200)]

    one, other = (
        [bool(toss(key, record_id, rate=0.5, trial_share=0, passed_through=False)) for record_id in ids]
        for key in (b"one", b"other")
    )

    assert one != other


def test_policies_have_names_that_differ_with_the_rate() -> None:
    assert policy_id(rate=0.2) == policy_id(rate=0.2) != policy_id(rate=0.3)
