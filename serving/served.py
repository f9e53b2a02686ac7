"""What passes between the rooms of a worker: a student's answer, what the servicer tells of one answered request, and feedback on it.

Arrays are borrowed: read them, don't keep them.
"""

import dataclasses
from collections.abc import Mapping
from typing import NamedTuple

from protos.tensors import Array


class StudentAnswer(NamedTuple):
    """What a student answered: raw logits, its version, and those further outputs that were asked for, all [batch, ...]."""

    logits_BC: Array
    version: str
    extra: Mapping[str, Array]


@dataclasses.dataclass(frozen=True)
class Served:
    """One answered request of one or more rows.

    Args:
        record_id: id of the request; row i has `records.row_record_id(record_id, i)`.
        inputs: arrays [batch, ...].
        version: of the student that answered; empty while passing through.
        logits_BC: the student's answer, None while passing through.
        latency_s: time of the student's run, waiting in the batcher included.
        teacher_output_BC: the teacher's answer, where the caller got it.
        parameters: the request's parameters.
    """

    record_id: bytes
    inputs: Mapping[str, Array]
    version: str
    logits_BC: Array | None
    latency_s: float
    teacher_output_BC: Array | None
    teacher_version: str
    teacher_latency_s: float
    parameters: Mapping[str, bool | int | float | str]


class Truth(NamedTuple):
    """What a caller says was true of one row: its record id, its class by name and by place, and when that was said."""

    record_id: bytes
    label: str
    label_class: int
    time_unix_ns: int
