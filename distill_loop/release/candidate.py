"""A candidate's bundle: its graph, golden answers from held-out rows, and a manifest of where it comes from."""

import dataclasses
import datetime
from collections.abc import Mapping
from typing import Literal

from protos.tensors import Array
from registry.bundle import GOLDEN, MANIFEST, MODEL, Manifest
from registry.golden import pack_golden
from registry.sections import ModelSection, TensorSpec


@dataclasses.dataclass(frozen=True)
class Origin:
    """Where a candidate comes from, for its manifest. newest_pair_unix_s: of the newest record that it has learned from, 0 without one."""

    kind: Literal["bootstrap", "candidate"]
    parent: str | None
    teacher_version: str
    pairs_learned: int
    steps: int
    student: Mapping[str, int | float | str]
    created_unix_s: float
    newest_pair_unix_s: float = 0.0


def build_files(
    model: ModelSection,
    onnx_bytes: bytes,
    golden_inputs: Mapping[str, Array],
    golden_logits_BC: Array,
    parity: float,
    origin: Origin,
) -> dict[str, bytes]:
    """Return the files that `registry.bundle.write_bundle` takes.

    Args:
        golden_logits_BC: the artifact's own answers to `golden_inputs`; whoever loads it must get them again.
    """
    manifest = Manifest(
        model=model.name,
        created=datetime.datetime.fromtimestamp(origin.created_unix_s, datetime.UTC).isoformat(timespec="seconds"),
        origin=origin.kind,
        parent=origin.parent,
        inputs=model.inputs,
        output=logits_of(model),
        teacher_version=_printable(origin.teacher_version),
        pairs_learned=origin.pairs_learned,
        steps=origin.steps,
        parity_max_abs=parity,
        student={key: _printable(one) if isinstance(one, str) else one for key, one in origin.student.items()},
        newest_pair_unix_s=origin.newest_pair_unix_s,
    )
    return {
        MANIFEST: manifest.model_dump_json(indent=1).encode(),
        MODEL: onnx_bytes,
        GOLDEN: pack_golden(golden_inputs, golden_logits_BC),
    }


def logits_of(model: ModelSection) -> TensorSpec:
    """Return what a student's graph gives."""
    return TensorSpec(name=model.output, datatype="FP32", shape=(-1, model.num_classes))


def _printable(text: str) -> str:
    """Return a name of somebody else's, a teacher's version or a file, as a manifest takes it."""
    return "".join(one if one.isprintable() else "?" for one in text)
