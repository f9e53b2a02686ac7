"""The sampler: which arms take a row, and with which probability. A pure function of record id, policy and key.

Arms toss independent coins. `uniform` feeds training and is the only arm that level estimates use; `trial` adds a share of
rows to those that the two students of an open trial answer; `pass_through` is certain, where the caller's own answer came from the teacher.
"""

import hashlib

from protos import records_pb2 as records
from protos.records import ARM_PASS_THROUGH, ARM_TRIAL, ARM_UNIFORM, coin

#: Name of the coin that holds the trial arm to the budget's pace.
PACE = "pace"
Arms = tuple[tuple[str, float], ...]


def toss(key: bytes, record_id: bytes, *, rate: float, trial_share: float, passed_through: bool) -> Arms:
    """Return the arms that take a row, each with the probability with which it takes any row of its kind.

    Args:
        key: secret of the deployment: without it nobody can choose to be sampled, or not to be.
        rate: probability of the uniform arm.
        trial_share: probability of the trial arm; 0 where no trial is open.
        passed_through: whether the teacher answered the caller.
    """
    if passed_through:
        return ((ARM_PASS_THROUGH, 1.0),)
    arms = []
    for arm, probability in ((ARM_UNIFORM, rate), (ARM_TRIAL, trial_share)):
        if probability and coin(key, arm, record_id) < probability:
            arms.append((arm, probability))
    return tuple(arms)


def taken_by(arm: str, record: records.Sample | records.LogitPair) -> bool:
    """Whether an arm took the row of a sample or of a pair."""
    return any(taken.arm == arm for taken in record.arms)


def hold_to_pace(key: bytes, sample: records.Sample, pace: float) -> None:
    """Let the trial arm take a sample as seldom as the budget's pace allows, on top of its own coin; the sample says so.

    Args:
        pace: share of the trial arm's rows that is evaluated now.
    """
    takes = coin(key, PACE, sample.record_id) < pace
    arms = [
        records.ArmTaken(arm=one.arm, probability=one.probability * (pace if one.arm == ARM_TRIAL else 1.0))
        for one in sample.arms
        if takes or one.arm != ARM_TRIAL
    ]
    del sample.arms[:]
    sample.arms.extend(arms)


def policy_id(*, rate: float) -> str:
    """Return a short name of the policy that a record was sampled under, equal for equal policies."""
    return hashlib.blake2b(f"uniform={rate!r}".encode(), digest_size=4).hexdigest()
