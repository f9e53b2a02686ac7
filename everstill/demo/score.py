"""The demo's score: agreement with the teacher over named stretches of requests, each with a 95 % interval, and the report.

The client asks the teacher about every request afterwards, so these shares are of all requests of a stretch, not of a sample.
Pure.
"""

import dataclasses
import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

Z_95 = 1.959964
#: What answers say while the teacher gives them, before the first version; they count for no stretch.
TEACHER_VERSION = "teacher"
#: Requests right after the drift.
AFTER_DRIFT = 200


@dataclasses.dataclass(frozen=True)
class Sent:
    """One request of the client: what was answered, by whom, how fast; `error` is the status code's name where it failed."""

    index: int
    time_s: float
    version: str
    top_class: int
    latency_s: float
    error: str = ""


@dataclasses.dataclass(frozen=True)
class Scores:
    """Top classes by request index: the teacher's, and those of the student that served at the drift (-1 where it wasn't run)."""

    teacher: Sequence[int]
    frozen: Sequence[int]
    teacher_latency_s: Sequence[float]


def wilson(agreeing: int, num: int) -> dict[str, float | int | None]:
    """Return a share with Wilson's 95 % interval; estimate, low and high are None where there is nothing to count."""
    if not num:
        return {"estimate": None, "low": None, "high": None, "num": 0}
    share, square = agreeing / num, Z_95**2
    centre = (share + square / (2 * num)) / (1 + square / num)
    half = Z_95 * math.sqrt(share * (1 - share) / num + square / (4 * num**2)) / (1 + square / num)
    return {"estimate": share, "low": max(0.0, centre - half), "high": min(1.0, centre + half), "num": num}


def agreement(sent: Sequence[Sent], scores: Scores, drift: int, first_student: int) -> dict[str, Any]:
    """Return the agreement of the stretches that the report names, of the student's answers only.

    Args:
        drift: index of the first request after the drift.
        first_student: index of the first request that a student answered.
    """
    num = len(sent)
    last_quarter, after = range(num - num // 4, num), range(drift, num)
    return {
        "start": served(sent, scores, range(first_student, first_student + (num - first_student) // 10)),
        "before_drift": served(sent, scores, range(drift - drift // 2, drift)),
        "after_drift": served(sent, scores, range(drift, min(drift + AFTER_DRIFT, num))),
        "after": served(sent, scores, after),
        "frozen_after": frozen(scores, after),
        "end": served(sent, scores, last_quarter),
        "frozen_end": frozen(scores, last_quarter),
    }


def phases(sent: Sequence[Sent], scores: Scores, drifts: Sequence[int]) -> list[dict[str, Any]]:
    """Return the agreement of each stretch between two drifts, and of its second half: of the service and of the frozen student."""
    bounds = [0, *drifts, len(sent)]
    shown = []
    for begin, end in itertools.pairwise(bounds):
        whole, half = range(begin, end), range((begin + end) // 2, end)
        shown.append(
            {
                "from": begin,
                "to": end,
                "served": served(sent, scores, whole),
                "served_second_half": served(sent, scores, half),
                "frozen": frozen(scores, whole),
            }
        )
    return shown


def served(sent: Sequence[Sent], scores: Scores, indices: range) -> dict[str, Any]:
    """Return the share of a stretch's answers by a student whose top class is the teacher's."""
    rows = [
        one.top_class == scores.teacher[one.index]
        for one in sent
        if not one.error and one.version != TEACHER_VERSION and one.index in indices
    ]
    return wilson(sum(rows), len(rows))


def frozen(scores: Scores, indices: range) -> dict[str, Any]:
    """Return the same share for the student that served at the drift, of the rows that it was asked about."""
    rows = [scores.frozen[index] == scores.teacher[index] for index in indices if scores.frozen[index] >= 0]
    return wilson(sum(rows), len(rows))


def latencies(sent: Sequence[Sent], scores: Scores) -> dict[str, float | None]:
    """Return percentiles in milliseconds: of the student as callers saw it, of the teacher as the scoring client saw it."""
    student = [one.latency_s for one in sent if not one.error and one.version != TEACHER_VERSION]
    return {
        "student_p50": _percentile_ms(student, 50),
        "student_p99": _percentile_ms(student, 99),
        "teacher_p50": _percentile_ms(scores.teacher_latency_s, 50),
        "teacher_p99": _percentile_ms(scores.teacher_latency_s, 99),
    }


def _percentile_ms(seconds: Sequence[float], q: float) -> float | None:
    return float(np.percentile(np.asarray(seconds), q) * 1e3) if len(seconds) else None


def rolling(
    values: Sequence[float], window: int, fewest: int = 1
) -> "np.ndarray[tuple[int, ...], np.dtype[np.float64]]":
    """Return the mean of the newest `window` values at each place, NaN values left out; NaN where fewer than `fewest` are known."""
    array = np.asarray(values, float)
    known = np.cumsum(~np.isnan(array))
    summed = np.cumsum(np.nan_to_num(array))
    before = np.maximum(np.arange(len(array)) - window, -1)
    counts = known - np.where(before >= 0, known[before], 0)
    sums = summed - np.where(before >= 0, summed[before], 0.0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(counts >= max(1, fewest), sums / counts, np.nan)
