"""The loader: only what is whole, of this model, and gives its golden answers is swapped in; else the old version serves on."""

import io
import pathlib
import zipfile
from collections.abc import Callable

import numpy as np
import pytest
from prometheus_client import REGISTRY
from structlog.testing import capture_logs

from registry.bundle import GOLDEN, MANIFEST, MODEL, SUMS, version_of, write_bundle
from registry.fetching import Policy
from registry.sections import ModelSection, TensorSpec
from registry.store import ObjectStore, open_store
from serving.student.loader import CACHED_VERSIONS, Loader
from serving.student.slot import Slot
from tests.support.students import make_student_files, publish_student

MODEL_SECTION = ModelSection(inputs=(TensorSpec(name="bytes", datatype="INT32", shape=(-1, 16)),), num_classes=5)
SMALL = {"inputs": MODEL_SECTION.inputs, "num_classes": 5}


class Room:
    """A loader with a slot and a registry, serving winner 1."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.store: ObjectStore = open_store(str(folder / "registry"))
        self.slot = Slot()
        self.shapes: list[dict[str, tuple[int, ...]]] = []
        self.cache = folder / "cache"
        self.loader = Loader(
            self.store,
            self.slot,
            MODEL_SECTION,
            cache=self.cache,
            policy=Policy(),
            threads=1,
            drain_deadline_s=1.0,
            recent_shapes=lambda: self.shapes,
        )
        self.first = publish_student(self.store, winner=1, **SMALL)
        assert self.loader.load(self.first) is None

    def publish(self, change: Callable[[dict[str, bytes]], object]) -> str:
        """Publish a whole bundle of files that were changed before their digests were taken."""
        files = make_student_files(winner=2, **SMALL)  # type: ignore[arg-type]
        change(files)
        return write_bundle(self.store, files)


@pytest.fixture
def room(tmp_path: pathlib.Path) -> Room:
    return Room(tmp_path)


def refusals(reason: str) -> float:
    return REGISTRY.get_sample_value("everstill_student_refused_total", {"reason": reason, "model": "filetypes"}) or 0.0


def archive(**arrays: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=True, **arrays)
    return buffer.getvalue()


def check_refused(room: Room, digest: str, reason: str) -> None:
    """Load a version that must be refused, and look at everything that tells it."""
    before = refusals(reason)

    with capture_logs() as logs:
        answer = room.loader.load(digest)

    assert answer is not None
    assert answer.startswith(f"{reason}: ")
    assert refusals(reason) == before + 1
    (line,) = [line for line in logs if line["event"] == "version refused"]
    assert (line["digest"], line["reason"], line["serving"]) == (digest, reason, version_of(room.first))
    assert room.slot.digest == room.first
    with room.slot.lease() as session:
        assert session.run({"bytes": np.zeros((1, 16), np.int32)}).argmax() == 1


def test_a_good_version_is_swapped_in(room: Room) -> None:
    digest = publish_student(room.store, winner=4, **SMALL)

    assert room.loader.load(digest) is None

    assert (room.slot.digest, room.slot.version) == (digest, version_of(digest))


def test_loading_what_serves_changes_nothing(room: Room) -> None:
    with room.slot.lease() as before:
        assert room.loader.load(room.first) is None
    with room.slot.lease() as after:
        assert after is before


def test_a_version_is_warmed_up_with_the_shapes_that_callers_send(room: Room) -> None:
    room.shapes = [{"bytes": (1, 16)}, {"bytes": (7, 16)}]

    assert room.loader.load(publish_student(room.store, winner=4, **SMALL)) is None


def test_a_version_that_fails_on_a_shape_that_callers_send_is_refused(room: Room) -> None:
    room.shapes = [{"bytes": (1, 16, 2)}]

    check_refused(room, publish_student(room.store, winner=4, **SMALL), "run_failed")


@pytest.mark.parametrize(
    ("file", "content", "reason"),
    [
        (MODEL, b"torn", "wrong_digest"),
        (MANIFEST, b"{}", "wrong_digest"),
        (GOLDEN, b"", "wrong_digest"),
        (SUMS, b"", "wrong_digest"),
        ("extra.py", b"import os", "unlisted_file"),
    ],
)
def test_a_torn_or_tampered_bundle_is_refused(room: Room, file: str, content: bytes, reason: str) -> None:
    digest = publish_student(room.store, winner=4, **SMALL)
    room.store.put(f"bundles/{digest}/{file}", content)

    check_refused(room, digest, reason)
    assert not (room.cache / digest).exists()


def test_a_bundle_that_lost_a_file_is_refused(room: Room) -> None:
    digest = publish_student(room.store, winner=4, **SMALL)
    room.store.delete(f"bundles/{digest}/{MODEL}")

    check_refused(room, digest, "missing_file")


def test_a_copy_that_was_tampered_with_in_the_cache_is_fetched_anew(room: Room) -> None:
    digest = publish_student(room.store, winner=4, **SMALL)
    assert room.loader.load(digest) is None
    assert room.loader.load(room.first) is None
    (room.cache / digest / MODEL).write_bytes(b"tampered")

    assert room.loader.load(digest) is None

    assert room.slot.digest == digest


def test_a_version_that_is_nowhere_is_refused(room: Room) -> None:
    check_refused(room, "0" * 64, "missing_file")


def test_a_version_that_has_other_golden_answers_is_refused(room: Room) -> None:
    check_refused(room, publish_student(room.store, winner=3, golden_winner=2, **SMALL), "wrong_golden")


@pytest.mark.parametrize(
    "golden",
    [
        b"",
        b"PK\x03\x04 not an archive",
        archive(logits=np.zeros((4, 5), np.float32)),
        archive(**{"logits": np.zeros(1), "input:bytes": np.array([{}], object)}),
        np.lib.format.magic(1, 0) + b"torn",
    ],
    ids=["empty", "no archive", "no input", "pickled objects", "no npz"],
)
def test_golden_answers_that_cannot_be_read_are_refused(room: Room, golden: bytes) -> None:
    check_refused(room, room.publish(lambda files: files.update({GOLDEN: golden})), "wrong_golden")


def test_golden_answers_with_a_pickle_never_run_it(room: Room, tmp_path: pathlib.Path) -> None:
    mark = tmp_path / "ran"
    array = io.BytesIO()
    np.save(array, np.array([Bomb(str(mark))], object), allow_pickle=True)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("logits.npy", array.getvalue())
        file.writestr("input:bytes.npy", array.getvalue())

    check_refused(room, room.publish(lambda files: files.update({GOLDEN: buffer.getvalue()})), "wrong_golden")

    assert not mark.exists()


class Bomb:
    """Writes a file where somebody unpickles it."""

    def __init__(self, path: str) -> None:
        self._path = path

    def __reduce__(self) -> tuple[Callable[[str], object], tuple[str]]:
        return pathlib.Path.touch, (pathlib.Path(self._path),)  # type: ignore[return-value]


def test_a_graph_that_is_none_is_refused(room: Room) -> None:
    check_refused(room, room.publish(lambda files: files.update({MODEL: b"not a graph"})), "bad_protobuf")


def test_a_graph_with_other_inputs_than_its_manifest_says_is_refused(room: Room) -> None:
    other = (TensorSpec(name="text", datatype="INT32", shape=(-1, 16)),)
    graph = make_student_files(inputs=other, num_classes=5)[MODEL]

    check_refused(room, room.publish(lambda files: files.update({MODEL: graph})), "wrong_graph")


@pytest.mark.parametrize(
    "other",
    [
        {"model": "other"},
        {"inputs": (TensorSpec(name="bytes", datatype="INT32", shape=(-1, 17)),)},
        {"inputs": (TensorSpec(name="text", datatype="INT32", shape=(-1, 16)),)},
        {"num_classes": 6},
    ],
    ids=["name", "inputs", "input's name", "classes"],
)
def test_a_version_of_another_model_is_refused(room: Room, other: dict[str, object]) -> None:
    check_refused(room, publish_student(room.store, **{**SMALL, **other}), "wrong_model")


def test_a_version_that_answers_infinity_is_refused(room: Room) -> None:
    def overflow(files: dict[str, bytes]) -> None:
        files.update(make_student_files(winner=2, scale=np.inf, **SMALL))  # type: ignore[arg-type]

    with np.errstate(all="ignore"):
        check_refused(room, room.publish(overflow), "wrong_golden")


def test_an_unforeseen_error_refuses_the_version_and_the_old_one_serves_on(room: Room) -> None:
    def break_down() -> list[dict[str, tuple[int, ...]]]:
        raise MemoryError("no room")

    room.loader = Loader(
        room.store,
        room.slot,
        MODEL_SECTION,
        cache=room.cache,
        policy=Policy(),
        threads=1,
        drain_deadline_s=1.0,
        recent_shapes=break_down,
    )

    check_refused(room, publish_student(room.store, winner=4, **SMALL), "unforeseen")


def test_a_cache_that_cannot_be_written_refuses_the_version_until_it_can(room: Room) -> None:
    digest = publish_student(room.store, winner=4, **SMALL)
    room.cache.rename(room.cache.with_name("away"))
    room.cache.write_text("a file where a folder should be")

    check_refused(room, digest, "unavailable")

    room.cache.unlink()
    assert room.loader.load(digest) is None


def test_copies_of_versions_that_were_used_long_ago_are_removed(room: Room) -> None:
    digests = [room.first]
    for winner in range(CACHED_VERSIONS + 3):
        digests.append(publish_student(room.store, winner=winner % 5, scale=float(winner + 2), **SMALL))
        assert room.loader.load(digests[-1]) is None

    kept = {path.name for path in room.cache.iterdir() if len(path.name) == 64}

    assert kept == set(digests[-CACHED_VERSIONS:])
    assert room.loader.load(room.first) is None
