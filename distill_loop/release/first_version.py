"""A version from an ONNX file of the user's, the first one or the floor: what it must be before it is published.

Decides whether the file is what [model] declares, by its graph and by what it answers to plausible inputs: names, types, shapes, finite,
the same twice, quick and small enough. Its bytes are published as they are. Called once, at start. One thread.
"""

import dataclasses
import hashlib
import pathlib
from collections.abc import Mapping
from typing import NoReturn

import numpy as np

from distill_loop.config import ReleaseSection
from distill_loop.release.candidate import logits_of
from distill_loop.release.precheck import Artifact, measure_latency_ms
from protos.errors import ConfigurationError
from protos.tensors import BYTES, Array
from registry.graph_check.model import check_graph
from registry.graph_check.wire import GraphError
from registry.plausible import plausible_rows
from registry.sections import BundlesSection, ModelSection, TensorSpec

#: Types as ONNX Runtime calls them.
RUNTIME_TYPES = {
    "BOOL": "tensor(bool)",
    "FP16": "tensor(float16)",
    "FP32": "tensor(float)",
    "FP64": "tensor(double)",
    "BYTES": "tensor(string)",
    **{f"{sign.upper()}{bits}": f"tensor({sign}{bits})" for sign in ("int", "uint") for bits in (8, 16, 32, 64)},
}
WINDOW_TYPE = "tensor(int32)"
#: Rows and free sizes that it is tried with.
TRIES = ((1, 16), (2, 16), (3, 24))
GOLDEN_ROWS, GOLDEN_SIZE = 4, 16
MAX_SUM_ERROR = 1e-3
ONE_FILE = "Give one ONNX file that holds its weights"


@dataclasses.dataclass(frozen=True)
class FirstVersion:
    """A file that may be released. golden_logits_BC: its own answers to `golden`; note: what its owner should know, or nothing."""

    name: str
    onnx_bytes: bytes
    sha256: str
    latency_ms: float
    golden: Mapping[str, Array]
    golden_logits_BC: Array
    note: str


def examine(
    path: pathlib.Path,
    model: ModelSection,
    limits: ReleaseSection,
    graphs: BundlesSection,
    key: str = "release.first_version",
) -> FirstVersion:
    """Return the file as a version.

    Args:
        graphs: what a graph may be that is fetched from the registry.
        key: the setting that names the file.

    Raises:
        ConfigurationError: it can't be read or isn't what [model] declares; the sentence says what differs.
    """
    try:
        return _examine(path, model, limits, graphs)
    except ConfigurationError as error:
        raise ConfigurationError(f"{key} {error.message}", fix=error.fix) from None


def _examine(path: pathlib.Path, model: ModelSection, limits: ReleaseSection, graphs: BundlesSection) -> FirstVersion:
    try:
        onnx_bytes = path.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"{path} can't be read: {error.strerror}", fix="Name an ONNX file") from None
    if len(onnx_bytes) > limits.max_bytes:
        _refuse(path, f"has {len(onnx_bytes)} bytes, release.max_bytes allows {limits.max_bytes}")
    _check_loadable(path, onnx_bytes, model, graphs)
    try:
        artifact = Artifact(onnx_bytes, model.output, threads=1)
    except Exception as error:  # a supervision point: the runtime's errors have no common root
        _refuse(path, f"can't be loaded by ONNX Runtime: {_first_line(error)}", ONE_FILE)
    _check_graph(path, artifact, model)
    latency_ms = _check_answers(path, artifact, model, limits)
    golden = plausible_rows(model.inputs, GOLDEN_ROWS, GOLDEN_SIZE)
    logits_BC = artifact.logits(golden)
    note = ""
    if logits_BC.min() >= 0 and np.abs(logits_BC.sum(axis=1) - 1).max() < MAX_SUM_ERROR:
        note = f"its output {model.output!r} looks like probabilities: callers get them where they expect logits"
    digest = hashlib.sha256(onnx_bytes).hexdigest()
    return FirstVersion(path.name, onnx_bytes, digest, latency_ms, golden, logits_BC, note)


def _check_loadable(path: pathlib.Path, onnx_bytes: bytes, model: ModelSection, graphs: BundlesSection) -> None:
    """Look at a file as whoever fetches it will; what its inputs and outputs are is told more precisely later."""
    try:
        check_graph(onnx_bytes, model.inputs, logits_of(model), graphs)
    except GraphError as error:
        if error.reason != "wrong_graph":
            is_torn = error.reason in ("bad_protobuf", "external_data")
            _refuse(path, error.message, ONE_FILE if is_torn else "No gateway would load it: see docs/security.md")


def _check_graph(path: pathlib.Path, artifact: Artifact, model: ModelSection) -> None:
    declared = {spec.name: spec for spec in model.inputs}
    if artifact.inputs.keys() != declared.keys():
        _refuse(path, f"takes the inputs {', '.join(artifact.inputs)}, [model] says {', '.join(declared)}")
    for name, spec in declared.items():
        kind, shape = artifact.inputs[name]
        if spec.datatype == BYTES and kind == WINDOW_TYPE and len(shape) == 2 and isinstance(shape[1], int):
            continue  # a window of bytes: the server makes it of the text
        if kind != RUNTIME_TYPES[spec.datatype]:
            _refuse(path, f"takes {kind} as {name!r}, [model] says {spec.datatype}")
        if len(shape) != len(spec.shape) or any(
            isinstance(have, int) and have != want for have, want in zip(shape, spec.shape, strict=True)
        ):
            _refuse(path, f"takes the shape {shape} as {name!r}, [model] says {list(spec.shape)}")
    for spec in _outputs(model):
        if spec.name not in artifact.outputs:
            _refuse(path, f"has the outputs {', '.join(artifact.outputs)}, [model] says {spec.name!r}")
        if artifact.outputs[spec.name][0] != RUNTIME_TYPES[spec.datatype]:
            kind = artifact.outputs[spec.name][0]
            _refuse(path, f"answers {kind} as {spec.name!r}, [model] says {spec.datatype}")


def _check_answers(path: pathlib.Path, artifact: Artifact, model: ModelSection, limits: ReleaseSection) -> float:
    names = [spec.name for spec in _outputs(model)]
    for num_rows, free_size in TRIES:
        rows = plausible_rows(model.inputs, num_rows, free_size)
        try:
            answers, again = artifact.answers(rows, names), artifact.answers(rows, names)
        except Exception as error:  # a supervision point: the runtime's errors have no common root
            _refuse(path, f"fails on {_shapes(rows)}: {_first_line(error)}")
        for spec in _outputs(model):
            answer = answers[spec.name]
            wanted = [num_rows, *spec.shape[1:]]
            if answer.ndim != len(wanted) or any(
                want not in (-1, have) for want, have in zip(wanted, answer.shape, strict=True)
            ):
                _refuse(
                    path, f"answers {list(answer.shape)} as {spec.name!r} on {_shapes(rows)}, [model] says {wanted}"
                )
            if answer.dtype.kind == "f" and not np.isfinite(answer).all():
                _refuse(path, f"answers with NaN or infinity as {spec.name!r} on {_shapes(rows)}")
            if not np.array_equal(answer, again[spec.name]):
                _refuse(path, f"answers the same rows differently the second time, as {spec.name!r}")
    latency_ms = measure_latency_ms(artifact, plausible_rows(model.inputs, 1, GOLDEN_SIZE))
    if latency_ms > limits.max_latency_ms:
        _refuse(path, f"takes {latency_ms:.1f} ms a row, release.max_latency_ms allows {limits.max_latency_ms:.1f}")
    return latency_ms


def _outputs(model: ModelSection) -> tuple[TensorSpec, ...]:
    return (logits_of(model), *model.extra_outputs)


def _shapes(rows: Mapping[str, Array]) -> str:
    return ", ".join(f"{name} {list(array.shape)}" for name, array in rows.items())


def _first_line(error: BaseException) -> str:
    return next((line.strip()[:300] for line in str(error).splitlines() if line.strip()), type(error).__name__)


def _refuse(path: pathlib.Path, what: str, fix: str = "") -> NoReturn:
    raise ConfigurationError(f"{path.name} {what}", fix=fix or "Let the file and [model] agree") from None
