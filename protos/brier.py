"""The paired Brier score of a trial row, in two parts: what the students say is known when they answer, what the teacher says comes later.

With p_I, p_C and p_T the probabilities of incumbent, candidate and teacher, the advantage (|p_I - p_T|^2 - |p_C - p_T|^2) / 2, in [-1, 1], is
base - slope . p_T, where base = (|p_I|^2 - |p_C|^2) / 2 and slope = p_I - p_C. The mirror writes base and slope, the loop puts the teacher's answer in. Pure; any
thread. Shape suffix: C classes.
"""

import numpy as np

from protos.tensors import Array


def parts_of(incumbent_logits_C: Array | None, candidate_logits_C: Array | None) -> tuple[float, bytes] | None:
    """Return base and slope of two students' finite logits; None where one has none, or they aren't of one width."""
    if incumbent_logits_C is None or candidate_logits_C is None:
        return None
    if incumbent_logits_C.shape != candidate_logits_C.shape:
        return None
    incumbent_C, candidate_C = _softmax(incumbent_logits_C), _softmax(candidate_logits_C)
    base = (float(incumbent_C @ incumbent_C) - float(candidate_C @ candidate_C)) / 2
    return base, (incumbent_C - candidate_C).astype("<f2").tobytes()


def advantage_of(base: float, slope: bytes, teacher_C: Array) -> float | None:
    """Return by how much the candidate's Brier score is better, in [-1, 1]; None where the parts don't fit the teacher's probabilities, or are no numbers."""
    if len(slope) != 2 * len(teacher_C):
        return None
    advantage = base - float(np.frombuffer(slope, "<f2").astype(np.float64) @ teacher_C.astype(np.float64))
    return min(1.0, max(-1.0, advantage)) if np.isfinite(advantage) else None


def _softmax(logits_C: Array) -> "np.ndarray[tuple[int, ...], np.dtype[np.float64]]":
    exponents_C = np.exp(logits_C.astype(np.float64) - float(logits_C.max()))
    normalised: np.ndarray[tuple[int, ...], np.dtype[np.float64]] = exponents_C / exponents_C.sum()
    return normalised
