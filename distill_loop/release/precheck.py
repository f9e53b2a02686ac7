"""The pre-check: what a candidate must not exceed before anybody is asked to compare it. It can only reject.

Measured on the artifact that would be served, on the runtime that would serve it: parity with the torch student, finite answers,
size, latency of one row.
"""

import dataclasses
import pathlib
import statistics
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnxruntime as ort

from distill_loop.config import ReleaseSection
from protos.tensors import BYTES, Array, datatype_of, text_window
from registry.bundle import MODEL_DATA

LATENCY_RUNS = 20


@dataclasses.dataclass(frozen=True)
class Precheck:
    """What was measured. `reasons` is empty where the candidate may go on trial; `wrong` are those that no limit would mend."""

    parity_max_abs: float
    num_bytes: int
    latency_ms: float
    reasons: tuple[str, ...]
    wrong: tuple[str, ...] = ()

    def evidence(self) -> dict[str, Any]:
        """Return the measurements, for a ledger line."""
        numbers = {"parity_max_abs": self.parity_max_abs, "num_bytes": self.num_bytes, "latency_ms": self.latency_ms}
        return {name: value for name, value in numbers.items() if np.isfinite(value)}


class Artifact:
    """An exported student as the serving runtime runs it, from its bytes or from its file, beside which its weights may lie.

    Raises:
        onnxruntime's own errors, where the bytes are no graph that it takes.
    """

    def __init__(self, graph: bytes | pathlib.Path, output: str, threads: int) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        self._session = ort.InferenceSession(
            str(graph) if isinstance(graph, pathlib.Path) else graph, options, providers=["CPUExecutionProvider"]
        )
        self._output = output
        #: Size, of weights that lie beside the file too.
        self.num_bytes = _size_of(graph)
        #: Type and shape of each input and output by name, as the runtime says them.
        self.inputs = {one.name: (str(one.type), list(one.shape)) for one in self._session.get_inputs()}
        self.outputs = {one.name: (str(one.type), list(one.shape)) for one in self._session.get_outputs()}

    def logits(self, inputs: Mapping[str, Array]) -> Array:
        """Return logits [batch, classes]."""
        return self.answers(inputs, [self._output])[self._output]

    def answers(self, inputs: Mapping[str, Array], names: list[str]) -> dict[str, Array]:
        """Return the outputs of these names."""
        fed = {name: self._fed(name, array) for name, array in inputs.items()}
        return dict(zip(names, self._session.run(names, fed), strict=True))

    def _fed(self, name: str, array: Array) -> Array:
        """Return an input as the graph takes it: text as strings, or as a window of bytes where it takes integers."""
        if datatype_of(array) != BYTES or name not in self.inputs:
            return np.asarray(array)
        kind, shape = self.inputs[name]
        if kind == "tensor(string)":
            return np.array([one.decode("utf-8", "replace") for one in array.reshape(-1)], object).reshape(array.shape)
        return text_window(array, int(shape[-1]))


def _size_of(graph: bytes | pathlib.Path) -> int:
    if isinstance(graph, bytes):
        return len(graph)
    parts = (graph, graph.with_name(MODEL_DATA))
    return sum(part.stat().st_size for part in parts if part.is_file())


def precheck(
    artifact: Artifact,
    num_bytes: int,
    inputs: Mapping[str, Array],
    expected: Mapping[str, Array],
    limits: ReleaseSection,
) -> Precheck:
    """Measure a candidate against its limits.

    Args:
        inputs: held-out rows [n, ...], n >= 1.
        expected: the torch student's outputs for them by name, the logits and any extra ones.
    """
    names = list(expected)
    one = {name: array[:1] for name, array in inputs.items()}
    actual, alone = artifact.answers(inputs, names), artifact.answers(one, names)  # requests mostly come alone
    wrong, parity = _differences(actual, alone, expected, limits.parity_tolerance)
    latency_ms = measure_latency_ms(artifact, one)
    reasons = list(wrong)
    if num_bytes > limits.max_bytes:
        reasons.append(f"has {num_bytes} bytes, more than {limits.max_bytes}")
    if latency_ms > limits.max_latency_ms:
        reasons.append(f"takes {latency_ms:.1f} ms a row, more than {limits.max_latency_ms:.1f}")
    return Precheck(parity, num_bytes, latency_ms, tuple(reasons), tuple(wrong))


def measure_latency_ms(artifact: Artifact, one: Mapping[str, Array]) -> float:
    """Return the median time of one row, in milliseconds."""
    times_ms = []
    for _ in range(LATENCY_RUNS):
        start = time.perf_counter()
        artifact.logits(one)
        times_ms.append((time.perf_counter() - start) * 1e3)
    return statistics.median(times_ms)


def _differences(
    actual: Mapping[str, Array], alone: Mapping[str, Array], expected: Mapping[str, Array], tolerance: float
) -> tuple[list[str], float]:
    """Return what is wrong with the answers, and their greatest difference from torch's over every float output."""
    floats = [name for name, array in expected.items() if array.dtype.kind == "f"]
    for name, array in expected.items():
        if actual[name].shape != array.shape or actual[name].dtype != array.dtype:
            got, want = actual[name], array
            return [
                f"answers {name} as {got.dtype} {list(got.shape)}, torch as {want.dtype} {list(want.shape)}"
            ], np.nan
    if not all(np.isfinite(actual[name]).all() and np.isfinite(alone[name]).all() for name in floats):
        return ["answers with NaN or infinity"], np.nan
    parts = [np.abs(actual[name] - expected[name]).max() for name in floats]
    parts += [np.abs(alone[name] - expected[name][:1]).max() for name in floats]
    parity = float(np.max(parts))
    if not parity <= tolerance:
        return [f"differs from the torch student by {parity:.2g}, more than {tolerance:.2g}"], parity
    return [], parity
