"""Every hostile bundle is refused for its reason, before ONNX Runtime is given anything, and the old version serves on."""

import pathlib
from collections.abc import Iterator

import numpy as np
import onnx
import pytest
from onnx.external_data_helper import convert_model_to_external_data
from prometheus_client import REGISTRY

from registry.bundle import MODEL, MODEL_DATA, SIGNATURES, write_bundle
from registry.fetching import Policy, fetch_bundle
from registry.graph_check import wire
from registry.sections import BundlesSection, ModelSection, TensorSpec
from registry.store import FolderStore, open_store
from serving.student import loader as loaders
from serving.student.loader import Loader
from serving.student.session import StudentSession
from serving.student.slot import Slot
from tests.support.hostile import SIGNER, SIGNING, Hostile, hostile_bundles
from tests.support.students import make_student_files

INPUTS = (TensorSpec(name="bytes", datatype="INT32", shape=(-1, 16)),)
MODEL_SECTION = ModelSection(inputs=INPUTS, num_classes=5)
POLICY = Policy.of(SIGNING, BundlesSection())
HOSTILE = hostile_bundles(INPUTS, 5)


class Recorder:
    """Stands where versions are loaded, and loads only what it is told to expect."""

    def __init__(self) -> None:
        self.loaded: list[str] = []

    def load(self, bundle: loaders.LocalBundle, **options: object) -> StudentSession:
        """Load a bundle, and remember it."""
        self.loaded.append(bundle.digest)
        return StudentSession.load(bundle, **options)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> FolderStore:
    store = open_store(str(tmp_path_factory.mktemp("registry")))
    assert isinstance(store, FolderStore)
    return store


@pytest.fixture(scope="module")
def room(store: FolderStore, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Loader, Slot, Recorder]]:
    """A loader that serves a good, signed version."""
    slot, recorder = Slot(), Recorder()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loaders, "StudentSession", recorder)
        loader = Loader(
            store, slot, MODEL_SECTION, cache=tmp_path_factory.mktemp("cache"), policy=POLICY, threads=1, drain_deadline_s=1.0,
            recent_shapes=list,
        )  # fmt: skip
        good = write_bundle(store, make_student_files(winner=1, inputs=INPUTS, num_classes=5), SIGNER)
        assert loader.load(good) is None
        recorder.loaded.clear()
        yield loader, slot, recorder


@pytest.mark.parametrize("name", HOSTILE)
def test_it_is_refused(store: FolderStore, room: tuple[Loader, Slot, Recorder], name: str) -> None:
    loader, slot, recorder = room
    hostile: Hostile = HOSTILE[name]
    labels = {"reason": hostile.reason, "model": "filetypes"}
    counted = REGISTRY.get_sample_value("everstill_student_refused_total", labels) or 0

    answer = loader.load(hostile.publish(store))

    assert answer is not None
    assert answer.startswith(f"{hostile.reason}: ")
    assert REGISTRY.get_sample_value("everstill_student_refused_total", labels) == counted + 1
    assert recorder.loaded == []
    with slot.lease() as session:
        assert session.run({"bytes": np.zeros((1, 16), np.int32)}).argmax() == 1


def test_there_are_many() -> None:
    assert len(HOSTILE) >= 80
    assert len({one.reason for one in HOSTILE.values()}) >= 18


def test_a_signature_that_is_a_link_is_refused(store: FolderStore, tmp_path: pathlib.Path) -> None:
    digest = write_bundle(store, make_student_files(winner=3, inputs=INPUTS, num_classes=5), SIGNER)
    path = store.local_path(f"bundles/{digest}/{SIGNATURES}")
    assert path is not None
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")

    with pytest.raises(loaders.BundleError) as refusal:
        fetch_bundle(store, digest, tmp_path / "cache", POLICY)

    assert refusal.value.reason == "missing_file"


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        ({"max_bytes": 2**16}, "oversize"),
        ({"max_nodes": 4}, "too_many_nodes"),
        ({"max_tensor_bytes": 2**10}, "bad_tensor"),
        ({"allowed_domains": ("ai.onnx.ml",)}, "forbidden_operator"),
    ],
)
def test_limits_are_settings(
    store: FolderStore, tmp_path: pathlib.Path, limits: dict[str, object], reason: str
) -> None:
    files = make_student_files(
        winner=4, inputs=(TensorSpec(name="bytes", datatype="INT32", shape=(-1, 8192)),), num_classes=300
    )
    digest = write_bundle(store, files, SIGNER)
    policy = Policy.of(SIGNING, BundlesSection.model_validate(limits))

    with pytest.raises(loaders.BundleError) as refusal:
        fetch_bundle(store, digest, tmp_path, policy)

    assert refusal.value.reason == reason
    assert fetch_bundle(store, digest, tmp_path, POLICY).digest == digest


def test_a_file_of_nothing_but_fields_ends(
    store: FolderStore, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wire, "MAX_FIELDS", 1000)
    good = make_student_files(winner=3, inputs=INPUTS, num_classes=5)
    digest = write_bundle(store, {**good, MODEL: good[MODEL] + b"\x72\x00" * 2000}, SIGNER)

    with pytest.raises(loaders.BundleError, match="more than 1,000 fields"):
        fetch_bundle(store, digest, tmp_path, POLICY)


def test_weights_beside_the_graph_are_loaded_where_they_are_listed(
    store: FolderStore, room: tuple[Loader, Slot, Recorder], tmp_path: pathlib.Path
) -> None:
    files = make_student_files(winner=1, scale=3.0, inputs=INPUTS, num_classes=5)
    model = onnx.load_from_string(files[MODEL])
    convert_model_to_external_data(
        model, location=MODEL_DATA, size_threshold=48
    )  # as Python counts: `axes` stays, shapes are inferred from it
    onnx.save(model, tmp_path / MODEL)
    beside = {name: (tmp_path / name).read_bytes() for name in (MODEL, MODEL_DATA)}
    loader, slot, recorder = room

    digest = write_bundle(store, {**files, **beside}, SIGNER)

    assert loader.load(digest) is None
    assert slot.digest == digest
    recorder.loaded.clear()
