"""Graphs that nobody should load, made of a student's by changing what it says: each with the reason that it is refused for."""

import copy
from collections.abc import Callable, Mapping

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests.support.graphs import graph

Change = Callable[[onnx.ModelProto], object]


def added(node: onnx.NodeProto, *imports: onnx.OperatorSetIdProto) -> Change:
    """Return a change that adds a node."""

    def change(model: onnx.ModelProto) -> None:
        model.graph.node.append(node)
        model.opset_import.extend(imports)

    return change


def with_tensor(**fields: object) -> Change:
    """Return a change that adds an initializer with these fields."""
    return lambda model: model.graph.initializer.append(TensorProto(**{"name": "t", "data_type": 1, **fields}))


def elsewhere(size: int = 4, *, data: int = 1, inside: bool = False, **entries: str) -> Change:
    """Return a change that adds a tensor whose bytes lie elsewhere.

    Args:
        data: its data_location; 0 is here.
        inside: in a node's attribute instead of an initializer.
    """
    tensor = TensorProto(name="t", data_type=1, dims=[size], data_location=data)
    for key, value in entries.items():
        tensor.external_data.add(key=key, value=value)
    if inside:
        branch = helper.make_graph([helper.make_node("Constant", [], ["c"], value=tensor)], "branch", [], [])
        return added(helper.make_node("If", ["x"], ["y"], then_branch=branch, else_branch=branch))
    return lambda model: model.graph.initializer.append(tensor)


def sparse(dims: list[int], indices: np.ndarray, num_values: int = 2) -> Change:
    """Return a change that adds a sparse initializer."""
    values = numpy_helper.from_array(np.ones(num_values, np.float32), "s")
    tensor = onnx.SparseTensorProto(values=values, indices=numpy_helper.from_array(indices, "i"), dims=dims)
    return lambda model: model.graph.sparse_initializer.append(tensor)


def nested(depth: int) -> Change:
    """Return a change that adds graphs in graphs."""

    def change(model: onnx.ModelProto) -> None:
        inner = helper.make_graph([], "innermost", [], [])
        for _ in range(depth):
            inner = helper.make_graph([helper.make_node("If", ["c"], ["o"], then_branch=inner)], "g", [], [])
        model.graph.node.append(helper.make_node("If", ["c"], ["o"], then_branch=inner))

    return change


def functions(calls: Mapping[str, list[str]]) -> Change:
    """Return a change that adds functions that call one another, and calls the first."""

    def change(model: onnx.ModelProto) -> None:
        for name, called in calls.items():
            nodes = [helper.make_node(one, ["x"], ["x"], domain="own") for one in called]
            opsets = [helper.make_opsetid("", 18), helper.make_opsetid("own", 1)]
            model.functions.append(helper.make_function("own", name, ["x"], ["x"], nodes, opsets))
        added(helper.make_node(next(iter(calls)), ["x"], ["z"], domain="own"), helper.make_opsetid("own", 1))(model)

    return change


def deep_type(depth: int) -> Change:
    """Return a change that declares a value of sequences of sequences."""

    def change(model: onnx.ModelProto) -> None:
        one = helper.make_tensor_type_proto(1, [1])
        for _ in range(depth):
            one = helper.make_sequence_type_proto(one)
        model.graph.value_info.append(helper.make_value_info("v", one))

    return change


def opset(version: int, domain: str = "") -> Change:
    """Return a change of an opset's version, or one more opset."""

    def change(model: onnx.ModelProto) -> None:
        if domain:
            model.opset_import.append(helper.make_opsetid(domain, version))
        else:
            model.opset_import[0].version = version

    return change


def merged(model: onnx.ModelProto) -> bytes:
    """Return a model of two graphs, which protobuf would make one of."""
    return model.SerializeToString() + onnx.ModelProto(graph=onnx.GraphProto(name="more")).SerializeToString()


SMALL = np.zeros(4, np.float32).tobytes()
CHAIN = {f"F{place}": [f"F{place + 1}"] for place in range(20)} | {"F20": []}
LAUGHS = {f"F{place}": [f"F{place + 1}"] * 10 for place in range(8)} | {"F8": ["F8x"] * 10, "F8x": []}
BIG_SHAPE = numpy_helper.from_array(np.array([2**40], np.int64), "big")
#: Changes of a model by name, with the reason that the result is refused for.
GRAPHS: dict[str, tuple[str, Change]] = {
    "an operator of its own": (
        "forbidden_operator",
        added(helper.make_node("Run", ["x"], ["z"], domain="evil.ops"), helper.make_opsetid("evil.ops", 1)),
    ),
    "an operator of its own, not imported": (
        "forbidden_operator",
        added(helper.make_node("Run", ["x"], ["z"], domain="evil")),
    ),
    "an operator that reads files": (
        "forbidden_operator",
        added(helper.make_node("EPContext", [], ["z"], domain="com.microsoft", ep_cache_context="/etc/passwd")),
    ),
    "a path out of the folder": ("external_data", elsewhere(location="../../../../etc/passwd", length="16")),
    "an absolute path": ("external_data", elsewhere(location="/etc/passwd")),
    "a path that goes back": ("external_data", elsewhere(location="./model.onnx.data")),
    "an address in memory": ("external_data", elsewhere(location="*/_ORT_MEM_ADDR_/*", offset="4096", length="16")),
    "another file of the bundle": ("external_data", elsewhere(location="golden.npz")),
    "weights that aren't listed": ("external_data", elsewhere(location="model.onnx.data")),
    "a path in an inner graph": ("external_data", elsewhere(inside=True, location="../x")),
    "a place that isn't said": ("external_data", elsewhere()),
    "a place elsewhere and here": ("external_data", elsewhere(data=0, location="model.onnx.data")),
    "an entry that isn't known": ("external_data", elsewhere(location="model.onnx.data", basepath="/etc")),
    "a tensor of terabytes": ("bad_tensor", with_tensor(dims=[2**40], raw_data=SMALL)),
    "a tensor whose size wraps around": ("bad_tensor", with_tensor(dims=[2**32, 2**32], raw_data=b"")),
    "a tensor of negative size": ("bad_tensor", with_tensor(dims=[-4], raw_data=SMALL)),
    "a tensor of 100 dimensions": ("bad_tensor", with_tensor(dims=[1] * 100, raw_data=b"1234")),
    "a tensor with too few bytes": ("bad_tensor", with_tensor(dims=[5], raw_data=SMALL)),
    "a tensor with too few values": ("bad_tensor", with_tensor(dims=[5], float_data=[1.0])),
    "a tensor of another field's values": ("bad_tensor", with_tensor(dims=[1], int64_data=[1])),
    "a tensor of values and bytes": ("bad_tensor", with_tensor(dims=[4], raw_data=SMALL, float_data=[0] * 4)),
    "a tensor of no type": ("bad_tensor", with_tensor(dims=[4], data_type=99, raw_data=SMALL)),
    "strings as bytes": ("bad_tensor", with_tensor(dims=[1], data_type=8, raw_data=b"0" * 16)),
    "a segment": ("bad_tensor", with_tensor(dims=[4], raw_data=SMALL, segment=TensorProto.Segment(begin=0, end=9))),
    "a value of petabytes": (
        "bad_tensor",
        lambda model: model.graph.value_info.append(helper.make_tensor_value_info("v", 1, [2**48])),
    ),
    "a constant of terabytes": (
        "bad_tensor",
        lambda model: (
            model.graph.initializer.append(BIG_SHAPE),
            added(helper.make_node("ConstantOfShape", ["big"], ["z"]))(model),
        ),
    ),
    "an expansion to terabytes": (
        "bad_tensor",
        lambda model: (
            added(helper.make_node("Constant", [], ["big"], value=BIG_SHAPE))(model),
            added(helper.make_node("Expand", ["x", "big"], ["z"]))(model),
        ),
    ),
    "a sparse index outside": ("bad_sparse", sparse([4, 4], np.array([3, 16]))),
    "a sparse index before": ("bad_sparse", sparse([4, 4], np.array([[0, 0], [-1, 2]]))),
    "a sparse row outside": ("bad_sparse", sparse([4, 4], np.array([[0, 0], [4, 0]]))),
    "sparse indices of another size": ("bad_sparse", sparse([4, 4], np.array([1, 2, 3]))),
    "more sparse values than places": ("bad_sparse", sparse([1], np.array([0, 0]))),
    "a sparse tensor of terabytes": ("bad_tensor", sparse([2**20, 2**20], np.array([0, 1]))),
    "graphs in graphs": ("too_deep", nested(20)),
    "types in types": ("too_deep", deep_type(20)),
    "a function that calls itself": ("too_deep", functions({"F": ["F"]})),
    "functions that call on and on": ("too_deep", functions(CHAIN)),
    "functions that stand for billions": ("too_many_nodes", functions(LAUGHS)),
    "two functions of one name": (
        "bad_graph",
        lambda model: (functions({"F": []})(model), model.functions.append(copy.deepcopy(model.functions[0]))),
    ),
    "an opset of the future": ("new_opset", opset(999)),
    "an opset of trees of the future": ("new_opset", opset(99, "ai.onnx.ml")),
    "an opset twice": ("bad_graph", opset(18, "ai.onnx")),
    "a format of the future": ("new_opset", lambda model: setattr(model, "ir_version", 999)),
    "steps of training": ("bad_graph", lambda model: model.training_info.add()),
    "no graph": ("bad_graph", lambda model: model.ClearField("graph")),
    "another input": ("wrong_graph", lambda model: setattr(model.graph.input[0], "name", "other")),
    "one more input": (
        "wrong_graph",
        lambda model: model.graph.input.append(helper.make_tensor_value_info("m", 1, [])),
    ),
    "an input of another type": (
        "wrong_graph",
        lambda model: setattr(model.graph.input[0].type.tensor_type, "elem_type", TensorProto.INT64),
    ),
    "an input of another width": (
        "wrong_graph",
        lambda model: setattr(model.graph.input[0].type.tensor_type.shape.dim[1], "dim_value", 17),
    ),
    "another output": ("wrong_graph", lambda model: setattr(model.graph.output[0], "name", "other")),
    "an output of another width": (
        "wrong_graph",
        lambda model: setattr(model.graph.output[0].type.tensor_type.shape.dim[1], "dim_value", 6),
    ),
}
#: What makes bytes that are no model of a model's bytes.
BYTES: dict[str, Callable[[bytes], bytes]] = {
    "nothing": lambda data: b"",
    "text": lambda data: b"import os\n" * 100,
    "half of it": lambda data: data[: len(data) // 2],
    "a byte less": lambda data: data[:-1],
    "two graphs": lambda data: merged(onnx.load_from_string(data)),
    "a number without end": lambda data: data + b"\x08" + b"\xff" * 12,
    "a field beyond the end": lambda data: data + b"\x12\xff\xff\xff\xff\x0f",
    "a group": lambda data: data + b"\x0b\x0c",
    "a field without number": lambda data: data + b"\x00\x00",
    "a graph that is a number": lambda data: graph([], [], []) + b"\x38\x01",
}


def hostile_graphs(data: bytes) -> dict[str, tuple[str, bytes]]:
    """Return hostile versions of a student's graph by name, each with the reason that it is refused for."""
    made = {name: ("bad_protobuf", change(data)) for name, change in BYTES.items()}
    for name, (reason, change) in GRAPHS.items():
        model = onnx.load_from_string(data)
        change(model)
        made[name] = reason, model.SerializeToString()
    return made
