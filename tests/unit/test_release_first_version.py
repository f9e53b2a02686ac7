"""An ONNX file of the user's as first version: it is what [model] declares, or the sentence says what differs."""

import hashlib
import json
import pathlib
from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from distill_loop.config import ReleaseSection
from distill_loop.release.first_version import examine
from distill_loop.release.office import ReleaseOffice
from distill_loop.release.precheck import Artifact
from protos.errors import ConfigurationError
from registry.fetching import Policy, fetch_bundle
from registry.golden import unpack_golden
from registry.sections import BundlesSection, ModelSection, TensorSpec
from registry.store import open_store
from tests.support.hostile import KEY, SIGNER, SIGNING
from tests.support.hostile_graphs import added, elsewhere
from tests.support.students import build_onnx

NUM_CLASSES = 5
SPECS = (TensorSpec(name="features", datatype="FP32", shape=(-1, 4)),)
MODEL = ModelSection(name="mine", inputs=SPECS, num_classes=NUM_CLASSES)
GRAPH = build_onnx(SPECS, NUM_CLASSES, winner=2, scale=1.0)
LIMITS = ReleaseSection(max_latency_ms=60_000)


def changed(change: Callable[[onnx.ModelProto], object]) -> bytes:
    model = onnx.load_from_string(GRAPH)
    change(model)
    data: bytes = model.SerializeToString()
    return data


def _bias(value: float) -> Callable[[onnx.ModelProto], object]:
    def change(model: onnx.ModelProto) -> None:
        bias = next(one for one in model.graph.initializer if one.name == "bias")
        bias.CopyFrom(numpy_helper.from_array(np.full((1, NUM_CLASSES), value, np.float32), "bias"))

    return change


def _random(model: onnx.ModelProto) -> None:
    model.graph.node.insert(0, helper.make_node("RandomNormalLike", ["features"], ["noise"]))
    model.graph.node[1].input[0] = "noise"


def _fixed_batch(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1


def declared(**changes: object) -> ModelSection:
    return MODEL.model_copy(update=changes)


def _inputs(name: str, datatype: str, *sizes: int) -> ModelSection:
    return declared(inputs=(TensorSpec(name=name, datatype=datatype, shape=(-1, *sizes)),))


WRONG: dict[str, tuple[bytes, ModelSection, dict[str, object], str]] = {
    "no graph": (b"not a graph", MODEL, {}, r"can't be parsed.*Give one ONNX file"),
    "weights elsewhere": (
        changed(elsewhere(location="weights.bin")),
        MODEL,
        {},
        r"lies in 'weights\.bin'.*Give one ONNX file",
    ),
    "an operator that nobody has": (
        changed(added(helper.make_node("Run", ["features"], ["z"], domain="mine"))),
        MODEL,
        {},
        "No gateway would load it",
    ),
    "a graph that the runtime refuses": (
        changed(added(helper.make_node("NoSuchOperator", ["features"], ["z"]))),
        MODEL,
        {},
        "can't be loaded by ONNX Runtime",
    ),
    "another name": (GRAPH, _inputs("x", "FP32", 4), {}, r"takes the inputs features, \[model\] says x"),
    "another type": (GRAPH, _inputs("features", "INT64", 4), {}, r"takes tensor\(float\) as 'features'.*INT64"),
    "another width": (GRAPH, _inputs("features", "FP32", 9), {}, r"takes the shape \['batch', 4\].*\[-1, 9\]"),
    "a fixed batch": (changed(_fixed_batch), MODEL, {}, r"takes the shape \[1, 4\].*\[-1, 4\]"),
    "another output": (GRAPH, declared(output="scores"), {}, r"has the outputs logits, \[model\] says 'scores'"),
    "other classes": (GRAPH, declared(num_classes=6), {}, r"answers \[1, 5\] as 'logits'.*says \[1, 6\]"),
    "an extra output": (
        GRAPH,
        declared(extra_outputs=(TensorSpec(name="embedding", datatype="FP32", shape=(-1, 8)),)),
        {},
        "says 'embedding'",
    ),
    "not finite": (changed(_bias(float("nan"))), MODEL, {}, "answers with NaN or infinity as 'logits'"),
    "chance": (changed(_random), MODEL, {}, "answers the same rows differently"),
    "too large": (GRAPH, MODEL, {"max_bytes": 10}, "has [0-9]+ bytes, release.max_bytes allows 10"),
    "too slow": (GRAPH, MODEL, {"max_latency_ms": 1e-9}, "ms a row, release.max_latency_ms allows"),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_file_that_is_not_what_is_declared_is_refused(what: str, tmp_path: pathlib.Path) -> None:
    data, model, limits, said = WRONG[what]
    path = tmp_path / "first.onnx"
    path.write_bytes(data)

    with pytest.raises(ConfigurationError, match=said) as caught:
        examine(path, model, LIMITS.model_copy(update=limits), BundlesSection())

    assert "first.onnx" in str(caught.value)
    assert str(tmp_path) not in str(caught.value)


def test_a_file_that_is_not_there_is_named(tmp_path: pathlib.Path) -> None:
    with pytest.raises(ConfigurationError, match="can't be read: No such file"):
        examine(tmp_path / "none.onnx", MODEL, LIMITS, BundlesSection())


def test_probabilities_are_taken_with_a_note(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "first.onnx"
    path.write_bytes(changed(lambda model: (_bias(0.2)(model), _flat(model))))

    assert "looks like probabilities" in examine(path, MODEL, LIMITS, BundlesSection()).note


def _flat(model: onnx.ModelProto) -> None:
    ramp = next(one for one in model.graph.initializer if one.name == "ramp")
    ramp.CopyFrom(numpy_helper.from_array(np.zeros((1, NUM_CLASSES), np.float32), "ramp"))


@pytest.mark.parametrize("kind", ["strings", "window"])
def test_a_text_is_read_as_strings_or_through_a_window(kind: str, tmp_path: pathlib.Path) -> None:
    model = ModelSection(name="t", inputs=(TensorSpec(name="text", datatype="BYTES", shape=(-1, 1)),), num_classes=2)
    path = tmp_path / "first.onnx"
    path.write_bytes(_text_graph(kind))

    first = examine(path, model, LIMITS, BundlesSection())

    assert first.golden["text"].dtype == object
    assert first.golden_logits_BC.shape == (4, 2)


def _text_graph(kind: str) -> bytes:
    element, width = (TensorProto.STRING, 1) if kind == "strings" else (TensorProto.INT32, 16)
    nodes = [
        helper.make_node("Shape", ["text"], ["shape"], start=0, end=1),
        helper.make_node("Concat", ["shape", "two"], ["size"], axis=0),
        helper.make_node("Expand", ["row", "size"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "text",
        [helper.make_tensor_value_info("text", element, ["batch", width])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 2])],
        [
            numpy_helper.from_array(np.array([2], np.int64), "two"),
            numpy_helper.from_array(np.array([[1.0, -1.0]], np.float32), "row"),
        ],
    )
    data: bytes = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10
    ).SerializeToString()
    return data


def make_office(folder: pathlib.Path, path: pathlib.Path, floor: pathlib.Path | None = None) -> ReleaseOffice:
    settings = LIMITS.model_copy(update={"first_version": path, "floor": floor})
    store = open_store(str(folder / "registry"))
    return ReleaseOffice(
        store,
        MODEL,
        settings,
        cache=folder / "cache",
        policy=Policy.of(SIGNING, BundlesSection()),
        signer=SIGNER,
        epoch=1,
        actor="test",
        text_bytes=64,
    )


def test_it_is_published_as_it_is_and_the_ledger_says_where_it_is_from(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "first.onnx"
    path.write_bytes(GRAPH)
    office = make_office(tmp_path, path)

    line = office.release_file()
    assert line is not None
    office.apply_ledger()

    bundle = fetch_bundle(office._store, line.digest, tmp_path / "fetched", Policy.of(SIGNING, BundlesSection()))
    inputs, logits_BC = unpack_golden(bundle.folder / "golden.npz", SPECS)
    digest = hashlib.sha256(GRAPH).hexdigest()
    assert (line.kind, line.evidence["source"], line.evidence["sha256"]) == ("bootstrap", "file", digest)
    assert (bundle.folder / "model.onnx").read_bytes() == GRAPH
    assert bundle.signed_by == KEY.id
    assert bundle.manifest.student == {"student": "file", "file": "first.onnx", "sha256": digest}
    np.testing.assert_array_equal(office.artifact(line.digest).logits(inputs), logits_BC)
    assert office.artifact(line.digest).num_bytes == len(GRAPH)
    (bundle.folder / "model.onnx.data").write_bytes(b"weights")
    assert Artifact(bundle.folder / "model.onnx", MODEL.output, threads=1).num_bytes == len(GRAPH) + 7
    live = office.pointers.live()
    assert live is not None
    assert live.digest == line.digest
    assert json.loads(json.dumps(line.evidence)) == line.evidence


def test_a_model_that_has_a_version_keeps_it(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "first.onnx"
    path.write_bytes(GRAPH)
    office = make_office(tmp_path, path)
    office.release_file()
    path.write_bytes(b"something else")

    assert office.release_file() is None
    assert len(office.ledger.lines()) == 1


def test_a_floor_is_written_down_once_for_each_file_and_the_first_version_comes_all_the_same(
    tmp_path: pathlib.Path,
) -> None:
    first, floor = tmp_path / "first.onnx", tmp_path / "floor.onnx"
    first.write_bytes(GRAPH)
    floor.write_bytes(GRAPH)
    office = make_office(tmp_path, first, floor)

    line = office.release_floor()
    assert line is not None
    assert office.release_floor() is None
    released = office.release_file()

    assert released is not None
    assert (line.kind, line.evidence["file"], released.kind) == ("floor", "floor.onnx", "bootstrap")
    policy = Policy.of(SIGNING, BundlesSection())
    assert fetch_bundle(office._store, line.digest, tmp_path / "fetched", policy).signed_by == KEY.id
    assert office.apply_ledger().floor == line
    floor.write_bytes(b"no graph")
    with pytest.raises(ConfigurationError, match=r"release\.floor floor\.onnx can't be parsed"):
        office.release_floor()
    floor.unlink()
    with pytest.raises(ConfigurationError, match=r"release\.floor .*floor\.onnx can't be read"):
        office.release_floor()
