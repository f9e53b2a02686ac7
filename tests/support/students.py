"""Tiny student bundles whose answers are known in advance: for tests and benchmarks of serving, without torch."""

import io

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from registry.bundle import GOLDEN, MANIFEST, MODEL, Manifest, write_bundle
from registry.sections import TensorSpec
from registry.signing import Signer
from registry.store import ObjectStore

BYTES = (TensorSpec(name="bytes", datatype="INT32", shape=(-1, 2048)),)


def build_onnx(inputs: tuple[TensorSpec, ...], num_classes: int, winner: int, scale: float) -> bytes:
    """Return a graph: logits = mean(first input) * scale * 1e-3 * (a ramp over classes), plus 1,000 for the winner."""
    spec = inputs[0]
    types = {"INT32": TensorProto.INT32, "FP32": TensorProto.FLOAT, "INT64": TensorProto.INT64}
    values = [helper.make_tensor_value_info(one.name, types[one.datatype], ["batch", *one.shape[1:]]) for one in inputs]
    ramp = (np.linspace(0, 1, num_classes) * scale * 1e-3).astype(np.float32)[None]
    bias = np.zeros((1, num_classes), np.float32)
    bias[0, winner] = 1000.0
    axes = np.arange(1, len(spec.shape), dtype=np.int64)
    nodes = [
        helper.make_node("Cast", [spec.name], ["float"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["float", "axes"], ["flat"], keepdims=0),
        helper.make_node("Unsqueeze", ["flat", "one"], ["column"]),
        helper.make_node("Mul", ["column", "ramp"], ["ramped"]),
        helper.make_node("Add", ["ramped", "bias"], ["logits"]),
    ]
    constants = {"axes": axes, "one": np.array([1], np.int64), "ramp": ramp, "bias": bias}
    graph = helper.make_graph(
        nodes,
        "student",
        values,
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", num_classes])],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model)
    return model.SerializeToString()


def expected_logits(inputs: np.ndarray, num_classes: int, winner: int, scale: float) -> np.ndarray:
    """Return what `build_onnx`'s graph answers, float32 [batch, classes]."""
    mean = inputs.reshape(len(inputs), -1).astype(np.float32).mean(axis=1, keepdims=True)
    logits = mean * (np.linspace(0, 1, num_classes) * scale * 1e-3).astype(np.float32)[None]
    logits[:, winner] += 1000.0
    return logits.astype(np.float32)


def make_student_files(
    *,
    model: str = "filetypes",
    inputs: tuple[TensorSpec, ...] = BYTES,
    num_classes: int = 214,
    winner: int = 3,
    scale: float = 1.0,
    golden_winner: int | None = None,
) -> dict[str, bytes]:
    """Return the files of a bundle whose top class is `winner` for every input.

    Args:
        golden_winner: what its golden answers claim, where they shall be wrong.
    """
    rng = np.random.default_rng(winner)
    golden = {
        f"input:{one.name}": rng.integers(0, 255, (4, *[abs(size) for size in one.shape[1:]])).astype(
            {"INT32": np.int32, "FP32": np.float32, "INT64": np.int64}[one.datatype]
        )
        for one in inputs
    }
    claimed = winner if golden_winner is None else golden_winner
    golden["logits"] = expected_logits(golden[f"input:{inputs[0].name}"], num_classes, claimed, scale)
    buffer = io.BytesIO()
    np.savez(buffer, **golden)
    manifest = Manifest(
        model=model,
        created="2026-01-01T00:00:00Z",
        origin="candidate",
        parent=None,
        inputs=inputs,
        output=TensorSpec(name="logits", datatype="FP32", shape=(-1, num_classes)),
        teacher_version="teacher-1",
        pairs_learned=0,
        steps=0,
        parity_max_abs=0.0,
        student={"kind": "constant", "winner": winner},
    )
    return {
        MANIFEST: manifest.model_dump_json().encode(),
        MODEL: build_onnx(inputs, num_classes, winner, scale),
        GOLDEN: buffer.getvalue(),
    }


def publish_student(store: ObjectStore, signer: Signer | None = None, **options: object) -> str:
    """Write such a bundle, signed where there is a signer, and return its digest; takes `make_student_files`' options."""
    return write_bundle(store, make_student_files(**options), signer)  # type: ignore[arg-type]
