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
        output=TensorSpec(name=model.output, datatype="FP32", shape=(-1, model.num_classes)),
        teacher_version=origin.teacher_version,
        pairs_learned=origin.pairs_learned,
        steps=origin.steps,
        parity_max_abs=parity,
        student=dict(origin.student),
        newest_pair_unix_s=origin.newest_pair_unix_s,
    )
    return {
        MANIFEST: manifest.model_dump_json(indent=1).encode(),
        MODEL: onnx_bytes,
        GOLDEN: pack_golden(golden_inputs, golden_logits_BC),
    }
