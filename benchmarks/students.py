"""Students for benchmarks of serving: byte-window nets with random weights, each answering in its own way.

The graph does about what the built-in student's does (a table looked up for 2,048 bytes, summed, two layers) and has its size,
so that loading, swapping and running cost what they cost in earnest. No torch.
"""

import io
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

from registry.bundle import GOLDEN, MANIFEST, MODEL, Manifest
from registry.sections import ModelSection, TensorSpec

FloatArray = np.ndarray[Any, np.dtype[np.float32]]
IntArray = np.ndarray[Any, np.dtype[np.int32]]

NUM_BYTES, NUM_VALUES, WIDTH, HIDDEN = 2048, 257, 64, 2048
MODEL_SETTINGS = ModelSection()


def make_inputs(num_rows: int, seed: int) -> IntArray:
    """Return int32 [rows, 2048], each value a byte or the padding 256."""
    rng = np.random.default_rng(seed)
    return rng.integers(0, NUM_VALUES, (num_rows, NUM_BYTES)).astype(np.int32)


def build_onnx(seed: int) -> bytes:
    """Return a graph with weights drawn from a seed: bytes [batch, 2048] -> logits [batch, classes]."""
    rng = np.random.default_rng(seed)
    num_classes = MODEL_SETTINGS.num_classes
    weights = {
        "table": rng.normal(0, 1, (NUM_VALUES, WIDTH)),
        "hidden": rng.normal(0, WIDTH**-0.5, (WIDTH, HIDDEN)),
        "head": rng.normal(0, HIDDEN**-0.5, (HIDDEN, num_classes)),
        "bias": rng.normal(0, 5, (1, num_classes)),
    }
    nodes = [
        helper.make_node("Gather", ["table", "bytes"], ["looked_up"]),
        helper.make_node("ReduceMean", ["looked_up", "axes"], ["pooled"], keepdims=0),
        helper.make_node("MatMul", ["pooled", "hidden"], ["before"]),
        helper.make_node("Relu", ["before"], ["after"]),
        helper.make_node("MatMul", ["after", "head"], ["raw"]),
        helper.make_node("Add", ["raw", "bias"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "student",
        [helper.make_tensor_value_info("bytes", TensorProto.INT32, ["batch", NUM_BYTES])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", num_classes])],
        [
            numpy_helper.from_array(np.array([1], np.int64), "axes"),
            *(numpy_helper.from_array(array.astype(np.float32), name) for name, array in weights.items()),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model)
    return model.SerializeToString()


def answers(model: bytes, inputs: IntArray) -> FloatArray:
    """Return a graph's logits [rows, classes], one row at a time."""
    session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
    return np.concatenate([np.asarray(session.run(["logits"], {"bytes": row[None]})[0]) for row in inputs])


def make_files(seed: int) -> dict[str, bytes]:
    """Return the files of a bundle whose weights are drawn from a seed."""
    model, inputs = build_onnx(seed), make_inputs(4, seed)
    golden = io.BytesIO()
    arrays: dict[str, Any] = {"input:bytes": inputs, "logits": answers(model, inputs)}
    np.savez(golden, **arrays)
    manifest = Manifest(
        model=MODEL_SETTINGS.name,
        created="2026-01-01T00:00:00Z",
        origin="candidate",
        parent=None,
        inputs=MODEL_SETTINGS.inputs,
        output=TensorSpec(name=MODEL_SETTINGS.output, datatype="FP32", shape=(-1, MODEL_SETTINGS.num_classes)),
        teacher_version="none",
        pairs_learned=0,
        steps=0,
        parity_max_abs=0.0,
        student={"kind": "random", "seed": seed},
    )
    return {MANIFEST: manifest.model_dump_json().encode(), MODEL: model, GOLDEN: golden.getvalue()}
