"""A model of every kind of tensor, as a real student session: strings, halves, booleans, unsigned, and an index that can be wrong."""

import pathlib
from typing import Any

import numpy as np
from onnx import helper

from protos.tensors import Array, strings
from registry.bundle import MODEL, Manifest
from registry.fetching import LocalBundle
from registry.sections import ModelSection, TensorSpec
from serving.student.session import StudentSession
from tests.support.graphs import graph

#: (datatype, trailing shape) of each input; all but `index` come back as the output `<name>_back`.
INPUTS = {
    "index": ("INT64", ()),
    "text": ("BYTES", (1,)),
    "half": ("FP16", (2,)),
    "flag": ("BOOL", (2,)),
    "small": ("INT8", (2,)),
    "large": ("UINT64", ()),
    "exact": ("FP64", (2,)),
}
BACK = "_back"
#: Row i of the logits is row `index[i]` of this.
TABLE = np.array([[9, 0, 0], [0, 9, 0], [0, 0, 9]], np.float32)
KINDS = ModelSection(
    name="kinds",
    inputs=tuple(TensorSpec(name=name, datatype=kind, shape=(-1, *rest)) for name, (kind, rest) in INPUTS.items()),
    num_classes=3,
    extra_outputs=tuple(
        TensorSpec(name=name + BACK, datatype=kind, shape=(-1, *rest))
        for name, (kind, rest) in INPUTS.items()
        if name != "index"
    ),
)
#: The same without the one datatype that has no typed contents.
TYPED_KINDS = KINDS.model_copy(
    update={
        "name": "typed",
        "inputs": tuple(spec for spec in KINDS.inputs if spec.name != "half"),
        "extra_outputs": tuple(spec for spec in KINDS.extra_outputs if spec.name != "half" + BACK),
    }
)


def kinds_inputs(num_rows: int = 1) -> dict[str, Array]:
    """Return inputs that `KINDS` takes."""
    rows = np.arange(num_rows)
    pairs = np.stack([rows, rows + 1], axis=1)
    return {
        "index": rows % 3,
        "text": strings(f"r\N{LATIN SMALL LETTER U WITH DIAERESIS}{row}" for row in rows)[:, None],
        "half": pairs.astype(np.float16),
        "flag": pairs % 2 == 1,
        "small": -pairs.astype(np.int8),
        "large": 2**64 - 1 - rows.astype(np.uint64),
        "exact": pairs / 3,
    }


def kinds_graph(model: ModelSection = KINDS) -> bytes:
    """Return the ONNX graph of the model, or of one that takes some of its inputs."""
    names = [spec.name for spec in model.inputs]
    nodes = [helper.make_node("Gather", ["table", "index"], ["logits"], name="a/path")]
    nodes += [helper.make_node("Identity", [name], [name + BACK]) for name in names if name != "index"]
    inputs = [(name, INPUTS[name][0], ["batch", *INPUTS[name][1]]) for name in names]
    outputs = [(name + BACK, kind, shape) for name, kind, shape in inputs if name != "index"]
    return graph(nodes, inputs, [("logits", "FP32", ["batch", 3]), *outputs], {"table": TABLE})


def session_of(folder: pathlib.Path, model: ModelSection, onnx: bytes, **options: Any) -> StudentSession:
    """Return a loaded version of a model whose graph this is."""
    (folder / MODEL).write_bytes(onnx)
    manifest = Manifest(
        model=model.name,
        created="2026-01-01T00:00:00Z",
        origin="bootstrap",
        parent=None,
        inputs=model.inputs,
        output=TensorSpec(name=model.output, datatype="FP32", shape=(-1, model.num_classes)),
        teacher_version="teacher-1",
        pairs_learned=0,
        steps=0,
        parity_max_abs=0.0,
        student={},
    )
    bundle = LocalBundle(digest="f" * 64, folder=folder, manifest=manifest)
    return StudentSession.load(bundle, threads=1, extra_outputs=model.extra_outputs, **options)
