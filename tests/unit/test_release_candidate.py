"""Pre-check and bundle of a candidate: each limit rejects with its reason, and what is published can be verified."""

import io
import pathlib
from typing import Literal

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from distill_loop.config import ReleaseSection
from distill_loop.release.candidate import Origin, build_files
from distill_loop.release.precheck import Artifact, precheck
from protos.tensors import Array
from registry.bundle import GOLDEN, MANIFEST, MODEL, write_bundle
from registry.fetching import Policy, fetch_bundle
from registry.sections import ModelSection
from registry.store import open_store
from tests.support.students import build_onnx, expected_logits

SECTION = ModelSection(num_classes=5)
GRAPH = build_onnx(SECTION.inputs, 5, winner=2, scale=1.0)
ROWS = np.random.default_rng(0).integers(0, 257, (6, 2048)).astype(np.int32)
LOGITS = expected_logits(ROWS, 5, 2, 1.0)
GENEROUS = ReleaseSection(max_latency_ms=60_000)


def with_bias(value: float) -> bytes:
    model = onnx.load_from_string(GRAPH)
    bias = next(one for one in model.graph.initializer if one.name == "bias")
    bias.CopyFrom(numpy_helper.from_array(np.full((1, 5), value, np.float32), "bias"))
    data: bytes = model.SerializeToString()
    return data


def reasons_of(onnx_bytes: bytes = GRAPH, torch_logits_BC: Array = LOGITS, **limits: float) -> list[str]:
    settings = GENEROUS.model_copy(update=limits)
    artifact = Artifact(onnx_bytes, "logits", threads=1)
    return list(precheck(artifact, len(onnx_bytes), {"bytes": ROWS}, {"logits": torch_logits_BC}, settings).reasons)


def test_a_faithful_small_quick_candidate_passes() -> None:
    check = precheck(Artifact(GRAPH, "logits", threads=1), len(GRAPH), {"bytes": ROWS}, {"logits": LOGITS}, GENEROUS)

    assert check.reasons == ()
    assert check.parity_max_abs < 1e-3
    assert check.num_bytes == len(GRAPH)
    assert check.latency_ms > 0


def test_one_row_that_differs_from_torch_is_a_reason() -> None:
    moved_BC = LOGITS.copy()
    moved_BC[4, 1] += 0.5

    (reason,) = reasons_of(torch_logits_BC=moved_BC)

    assert "differs from the torch student by 0.5" in reason


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_answers_that_are_not_finite_are_a_reason(value: float) -> None:
    reasons = reasons_of(with_bias(value))

    assert reasons[0] == "answers with NaN or infinity"


def test_a_torch_student_of_nan_never_has_parity() -> None:
    (reason,) = reasons_of(torch_logits_BC=np.full_like(LOGITS, np.nan))

    assert "differs from the torch student" in reason


def test_size_and_latency_are_reasons_and_all_reasons_are_told() -> None:
    reasons = reasons_of(max_bytes=10, max_latency_ms=1e-9)

    assert len(reasons) == 2
    assert "bytes, more than 10" in reasons[0]
    assert "ms a row" in reasons[1]


def make_files(kind: Literal["bootstrap", "candidate"] = "candidate") -> dict[str, bytes]:
    origin = Origin(kind, "ab" * 32, "teacher-1", 300, 600, {"student": "byte_window", "hidden": 16}, 1.7e9)
    return build_files(SECTION, GRAPH, {"bytes": ROWS[:3]}, LOGITS[:3], 1e-6, origin)


def test_a_bundle_of_these_files_is_verified_and_says_where_it_comes_from(tmp_path: pathlib.Path) -> None:
    store = open_store(str(tmp_path / "registry"))

    bundle = fetch_bundle(store, write_bundle(store, make_files()), tmp_path / "cache", Policy())

    manifest = bundle.manifest
    assert (manifest.model, manifest.origin, manifest.parent) == (SECTION.name, "candidate", "ab" * 32)
    assert (manifest.teacher_version, manifest.pairs_learned, manifest.steps) == ("teacher-1", 300, 600)
    assert manifest.student == {"student": "byte_window", "hidden": 16}
    assert (manifest.output.name, manifest.output.shape) == ("logits", (-1, 5))


def test_golden_answers_are_read_back_without_pickle_and_are_the_artifacts_own() -> None:
    golden = np.load(io.BytesIO(make_files()[GOLDEN]), allow_pickle=False)

    again_BC = Artifact(GRAPH, "logits", threads=1).logits({"bytes": golden["input:bytes"]})

    assert set(golden) == {"input:bytes", "logits"}
    np.testing.assert_allclose(again_BC, golden["logits"], atol=1e-4)


def test_the_same_student_gives_the_same_bytes_but_for_the_manifests_time() -> None:
    first, second = make_files(), make_files()

    assert first[MODEL] == second[MODEL]
    assert first[GOLDEN] == second[GOLDEN]
    assert set(first) == {MANIFEST, MODEL, GOLDEN}
