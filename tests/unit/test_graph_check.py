"""The walk over a graph's bytes: it knows every field that ONNX has, and lets everything through that ONNX writes and the runtime takes."""

import contextlib
from collections.abc import Mapping

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from google.protobuf.descriptor import FieldDescriptor
from onnx import TensorProto, helper, numpy_helper

from registry.graph_check import model as models
from registry.graph_check import tensors, types
from registry.graph_check.model import MAX_IR_VERSION, MAX_OPSETS, check_graph
from registry.graph_check.wire import FIXED32, FIXED64, LENGTH, VARINT, GraphError, Schema
from registry.sections import BundlesSection, TensorSpec
from tests.support.students import build_onnx

LIMITS = BundlesSection()
INPUTS = (TensorSpec(name="x", datatype="FP32", shape=(-1, 4)),)
OUTPUT = TensorSpec(name="logits", datatype="FP32", shape=(-1, 4))
SCHEMAS: dict[str, tuple[Schema, type]] = {
    "ModelProto": (models.MODEL, onnx.ModelProto),
    "GraphProto": (models.GRAPH, onnx.GraphProto),
    "NodeProto": (models.NODE, onnx.NodeProto),
    "AttributeProto": (models.ATTRIBUTE, onnx.AttributeProto),
    "FunctionProto": (models.FUNCTION, onnx.FunctionProto),
    "OperatorSetIdProto": (models.OPSET, onnx.OperatorSetIdProto),
    "TensorProto": (tensors.TENSOR, onnx.TensorProto),
    "SparseTensorProto": (tensors.SPARSE, onnx.SparseTensorProto),
    "StringStringEntryProto": (tensors.ENTRY, onnx.StringStringEntryProto),
    "ValueInfoProto": (types.VALUE, onnx.ValueInfoProto),
    "TypeProto": (types.TYPE, onnx.TypeProto),
    "TypeProto.Tensor": (types.TENSOR_TYPE, onnx.TypeProto.Tensor),
    "TypeProto.Sequence": (types.SEQUENCE_TYPE, onnx.TypeProto.Sequence),
    "TypeProto.Map": (types.MAP_TYPE, onnx.TypeProto.Map),
    "TypeProto.Optional": (types.SEQUENCE_TYPE, onnx.TypeProto.Optional),
    "TypeProto.SparseTensor": (types.TENSOR_TYPE, onnx.TypeProto.SparseTensor),
    "TensorShapeProto": (types.SHAPE, onnx.TensorShapeProto),
    "TensorShapeProto.Dimension": (types.DIMENSION, onnx.TensorShapeProto.Dimension),
}
WIRE = {
    FieldDescriptor.TYPE_FLOAT: FIXED32, FieldDescriptor.TYPE_DOUBLE: FIXED64, FieldDescriptor.TYPE_INT64: VARINT,
    FieldDescriptor.TYPE_UINT64: VARINT, FieldDescriptor.TYPE_INT32: VARINT, FieldDescriptor.TYPE_ENUM: VARINT,
}  # fmt: skip


def model(*tensors: TensorProto, nodes: tuple[onnx.NodeProto, ...] = (), **options: object) -> onnx.ModelProto:
    """Return a graph that gives its input back, with more tensors and nodes."""
    given = helper.make_tensor_value_info("x", 1, ["batch", 4])
    gives = helper.make_tensor_value_info("logits", 1, ["batch", 4])
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["logits"]), *nodes], "g", [given], [gives], tensors)
    opsets = options.pop("opsets", [helper.make_opsetid("", 18)])
    return helper.make_model(graph, opset_imports=opsets, **{"ir_version": 10, **options})  # type: ignore[arg-type]


def passes(made: onnx.ModelProto) -> bool:
    check_graph(made.SerializeToString(), INPUTS, OUTPUT, LIMITS)
    return True


@pytest.mark.parametrize("name", SCHEMAS)
def test_every_field_of_onnx_is_known(name: str) -> None:
    schema, message = SCHEMAS[name]

    fields: Mapping[int, FieldDescriptor] = message.DESCRIPTOR.fields_by_number

    assert set(schema) == set(fields)
    for number, field in fields.items():
        packed = name == "TensorProto" and number in tensors.TYPED
        assert schema[number].wire == (LENGTH if packed else WIRE.get(field.type, LENGTH)), field.name
        assert schema[number].many == field.is_repeated, field.name


@pytest.mark.parametrize("datatype", sorted(set(tensors.BITS) - {tensors.STRING}))
def test_tensors_of_every_type_pass_as_values_and_as_bytes(datatype: int) -> None:
    values = np.ones((3, 5), helper.tensor_dtype_to_np_dtype(datatype))
    raw = numpy_helper.from_array(values, "raw")
    typed = helper.make_tensor("typed", datatype, (3, 5), values.astype(values.dtype))

    assert raw.HasField("raw_data")
    assert not typed.HasField("raw_data")
    assert passes(model(raw, typed))


def test_what_onnx_can_hold_passes() -> None:
    texts = helper.make_tensor("texts", TensorProto.STRING, [2], [b"a", "ü".encode()])
    scalar, empty = (
        helper.make_tensor(name, 1, dims, [1.0] if not dims else []) for name, dims in (("s", []), ("e", [0]))
    )
    branch = helper.make_graph([helper.make_node("Constant", [], ["c"], value=texts)], "branch", [], [])
    made = model(texts, scalar, empty, nodes=(helper.make_node("If", ["x"], ["y"], then_branch=branch),))
    indices = numpy_helper.from_array(np.array([[0, 1], [3, 3]]), "i")
    values = numpy_helper.from_array(np.ones(2, np.float32), "v")
    made.graph.sparse_initializer.append(onnx.SparseTensorProto(values=values, indices=indices, dims=[4, 4]))
    call = helper.make_node("Twice", ["x"], ["t"], domain="own")
    body = [helper.make_node("Add", ["a", "a"], ["b"])]
    made.functions.append(helper.make_function("own", "Twice", ["a"], ["b"], body, [helper.make_opsetid("", 18)]))
    made.opset_import.append(helper.make_opsetid("own", 1))
    made.graph.node.append(call)
    made.graph.value_info.append(
        helper.make_value_info("v", helper.make_sequence_type_proto(helper.make_tensor_type_proto(1, [])))
    )
    helper.set_model_props(made, {"by": "a test"})

    assert passes(made)


def test_trees_of_a_million_numbers_are_passed_over_quickly() -> None:
    node = helper.make_node("TreeEnsembleClassifier", ["x"], ["y"], domain="ai.onnx.ml")
    node.attribute.add(name="nodes_values", type=onnx.AttributeProto.FLOATS, floats=np.arange(1_000_000))
    node.attribute.add(name="nodes_ids", type=onnx.AttributeProto.INTS, ints=range(-500, 1_000_000))
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("ai.onnx.ml", 3)]

    assert passes(model(nodes=(node,), opsets=opsets))


def test_a_list_of_numbers_that_ends_amid_one_is_refused() -> None:
    made = model(nodes=(helper.make_node("Identity", ["x"], ["y"], floats=[1.0, 2.0, 3.0]),)).SerializeToString()
    last = np.array([3.0], "<f4").tobytes()

    with pytest.raises(GraphError) as refusal:
        check_graph(made.replace(b"\x3d" + last, b"\x3a" + last), INPUTS, OUTPUT, LIMITS)

    assert refusal.value.reason == "bad_protobuf"


def test_whatever_bytes_are_changed_the_walk_ends_in_a_verdict() -> None:
    data = bytearray(build_onnx(INPUTS, 4, winner=1, scale=1.0))
    random = np.random.default_rng(7)

    for _ in range(1500):
        changed = data.copy()
        for place in random.integers(0, len(data), random.integers(1, 4)):
            changed[place] = random.integers(0, 256)
        with contextlib.suppress(GraphError):
            check_graph(bytes(changed), INPUTS, OUTPUT, LIMITS)


def test_a_refusal_is_a_short_sentence_that_a_terminal_can_show() -> None:
    node = helper.make_node("\x1b[2J" + "n" * 10_000, ["x"], ["y"], domain="\x07evil")

    with pytest.raises(GraphError) as refusal:
        passes(model(nodes=(node,)))

    assert refusal.value.message.isprintable()
    assert len(refusal.value.message) < 600


@pytest.mark.parametrize("domain", MAX_OPSETS)
def test_the_newest_opset_that_is_let_through_is_the_runtime_s(domain: str) -> None:
    def made(more: int) -> onnx.ModelProto:
        versions = {"": 18, domain: MAX_OPSETS[domain] + more}
        opsets = [helper.make_opsetid(name, version) for name, version in versions.items()]
        return model(opsets=opsets, ir_version=MAX_IR_VERSION)

    assert passes(made(0))
    ort.InferenceSession(made(0).SerializeToString())
    with pytest.raises(GraphError, match="has opset"):
        passes(made(1))
