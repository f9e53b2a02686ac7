"""Small ONNX graphs for tests, built where they are needed: whatever types and failures a test wants."""

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from protos.tensors import Array

TYPES = {
    "BOOL": TensorProto.BOOL, "UINT8": TensorProto.UINT8, "UINT16": TensorProto.UINT16, "UINT32": TensorProto.UINT32,
    "UINT64": TensorProto.UINT64, "INT8": TensorProto.INT8, "INT16": TensorProto.INT16, "INT32": TensorProto.INT32,
    "INT64": TensorProto.INT64, "FP16": TensorProto.FLOAT16, "FP32": TensorProto.FLOAT, "FP64": TensorProto.DOUBLE,
    "BYTES": TensorProto.STRING, "BF16": TensorProto.BFLOAT16,
}  # fmt: skip
Value = tuple[str, str, Sequence[int | str]]


def graph(
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[Value],
    outputs: Sequence[Value],
    constants: Mapping[str, Array] | None = None,
) -> bytes:
    """Return a model's bytes. A value is (name, datatype, shape); a size that is a text may be any."""
    built = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info(name, TYPES[datatype], shape) for name, datatype, shape in inputs],
        [helper.make_tensor_value_info(name, TYPES[datatype], shape) for name, datatype, shape in outputs],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in (constants or {}).items()],
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("ai.onnx.ml", 3)]
    return helper.make_model(built, opset_imports=opsets, ir_version=10).SerializeToString()


def echo(datatype: str) -> bytes:
    """Return a graph that gives back its input `x` as `y`."""
    node = helper.make_node("Identity", ["x"], ["y"])
    return graph([node], [("x", datatype, ["batch", 2])], [("y", datatype, ["batch", 2])])


def echo_with_scores(datatype: str) -> bytes:
    """Return a graph that gives back its inputs `x` as `y` and `scores` as `logits`."""
    nodes = [helper.make_node("Identity", ["x"], ["y"]), helper.make_node("Identity", ["scores"], ["logits"])]
    inputs = [("x", datatype, ["batch", 2]), ("scores", "FP32", ["batch", 2])]
    return graph(nodes, inputs, [("y", datatype, ["batch", 2]), ("logits", "FP32", ["batch", 2])])


def classifier(**labels: Sequence[object]) -> bytes:
    """Return a linear classifier of two classes; labels as the attribute classlabels_strings or classlabels_ints."""
    node = helper.make_node(
        "LinearClassifier", ["x"], ["label", "scores"], domain="ai.onnx.ml",
        coefficients=[1.0, 0.0, 0.0, 1.0], intercepts=[0.0, 0.0], **labels,
    )  # fmt: skip
    kind = "BYTES" if "classlabels_strings" in labels else "INT64"
    return graph([node], [("x", "FP32", ["batch", 2])], [("label", kind, ["batch"]), ("scores", "FP32", ["batch", 2])])
