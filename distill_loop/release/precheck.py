"""The pre-check: what a candidate must not exceed before anybody is asked to compare it. It can only reject.

Measured on the artifact that would be served, on the runtime that would serve it: parity with the torch student, finite answers,
size, latency of one row.
"""

import dataclasses
import statistics
import time
from collections.abc import Mapping

import numpy as np
import onnxruntime as ort

from distill_loop.config import ReleaseSection
from protos.tensors import Array

LATENCY_RUNS = 20


@dataclasses.dataclass(frozen=True)
class Precheck:
    """What was measured. `reasons` is empty where the candidate may go on trial."""

    parity_max_abs: float
    num_bytes: int
    latency_ms: float
    reasons: tuple[str, ...]


class Artifact:
    """An exported student as the serving runtime runs it."""

    def __init__(self, onnx_bytes: bytes, output: str, threads: int) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        self._session = ort.InferenceSession(onnx_bytes, options, providers=["CPUExecutionProvider"])
        self._output = output

    def logits(self, inputs: Mapping[str, Array]) -> Array:
        """Return logits [batch, classes]."""
        logits: Array = self._session.run([self._output], {name: np.asarray(array) for name, array in inputs.items()})[
            0
        ]
        return logits


def precheck(
    artifact: Artifact, num_bytes: int, inputs: Mapping[str, Array], torch_logits_BC: Array, limits: ReleaseSection
) -> Precheck:
    """Measure a candidate against its limits.

    Args:
        inputs: held-out rows [n, ...], n >= 1.
        torch_logits_BC: the torch student's answers to them.
    """
    actual_BC = artifact.logits(inputs)
    one = {name: array[:1] for name, array in inputs.items()}
    alone_BC = artifact.logits(one)  # requests mostly come alone
    parity = max(
        float(np.max(np.abs(actual_BC - torch_logits_BC))), float(np.max(np.abs(alone_BC - torch_logits_BC[:1])))
    )
    times_ms = []
    for _ in range(LATENCY_RUNS):
        start = time.perf_counter()
        artifact.logits(one)
        times_ms.append((time.perf_counter() - start) * 1e3)
    latency_ms = statistics.median(times_ms)
    reasons = []
    if not (np.isfinite(actual_BC).all() and np.isfinite(alone_BC).all()):
        reasons.append("answers with NaN or infinity")
    elif not parity <= limits.parity_tolerance:
        reasons.append(f"differs from the torch student by {parity:.2g}, more than {limits.parity_tolerance:.2g}")
    if num_bytes > limits.max_bytes:
        reasons.append(f"has {num_bytes} bytes, more than {limits.max_bytes}")
    if latency_ms > limits.max_latency_ms:
        reasons.append(f"takes {latency_ms:.1f} ms a row, more than {limits.max_latency_ms:.1f}")
    return Precheck(parity, num_bytes, latency_ms, tuple(reasons))
