"""Hostile and broken bundles: each is refused with its reason, and nothing of it stays in the cache."""

import json
import os
import pathlib
from collections.abc import Callable

import pytest

from protos.errors import FormatError, UnavailableError
from registry import bundle as bundles
from registry.bundle import GOLDEN, MANIFEST, MODEL, SUMS, BundleError, write_bundle
from registry.fetching import Policy, fetch_bundle
from registry.store import FolderStore, open_store
from tests.support.hostile import publish_raw, sums_of
from tests.support.students import make_student_files, publish_student

FILES = make_student_files()


@pytest.fixture
def store(tmp_path: pathlib.Path) -> FolderStore:
    store = open_store(str(tmp_path / "registry"))
    assert isinstance(store, FolderStore)
    return store


@pytest.fixture
def cache(tmp_path: pathlib.Path) -> pathlib.Path:
    return tmp_path / "cache"


def file_of(store: FolderStore, digest: str, name: str) -> pathlib.Path:
    path = store.local_path(f"bundles/{digest}/{name}")
    assert path is not None
    return path


def assert_refused(store: FolderStore, digest: str, cache: pathlib.Path, reason: str) -> None:
    with pytest.raises(BundleError) as refusal:
        fetch_bundle(store, digest, cache, Policy())
    assert refusal.value.reason == reason
    assert [path.name for path in cache.iterdir()] == [".lock"]


@pytest.mark.parametrize("name", [MANIFEST, MODEL, GOLDEN])
def test_a_torn_file_is_refused(store: FolderStore, cache: pathlib.Path, name: str) -> None:
    digest = write_bundle(store, FILES)
    store.put(f"bundles/{digest}/{name}", FILES[name][:-1])

    assert_refused(store, digest, cache, "wrong_digest")


@pytest.mark.parametrize("name", [MANIFEST, MODEL, GOLDEN])
def test_a_file_with_one_bit_changed_is_refused(store: FolderStore, cache: pathlib.Path, name: str) -> None:
    digest = write_bundle(store, FILES)
    store.put(f"bundles/{digest}/{name}", FILES[name][:-1] + bytes([FILES[name][-1] ^ 1]))

    assert_refused(store, digest, cache, "wrong_digest")


@pytest.mark.parametrize("name", [MANIFEST, MODEL, GOLDEN, SUMS])
def test_a_missing_file_is_refused(store: FolderStore, cache: pathlib.Path, name: str) -> None:
    digest = write_bundle(store, FILES)
    store.delete(f"bundles/{digest}/{name}")

    assert_refused(store, digest, cache, "missing_file")


def test_torn_sums_are_refused(store: FolderStore, cache: pathlib.Path) -> None:
    digest = write_bundle(store, FILES)
    path = file_of(store, digest, SUMS)
    path.write_bytes(path.read_bytes()[:70])

    assert_refused(store, digest, cache, "wrong_digest")


def test_sums_that_were_changed_to_fit_a_changed_file_are_refused(store: FolderStore, cache: pathlib.Path) -> None:
    digest = write_bundle(store, FILES)
    changed = {**FILES, MODEL: b"another model"}
    store.put(f"bundles/{digest}/{MODEL}", changed[MODEL])
    store.put(f"bundles/{digest}/{SUMS}", sums_of(changed))

    assert_refused(store, digest, cache, "wrong_digest")


@pytest.mark.parametrize("name", ["extra.py", ".hidden", "folder/extra.onnx", "model.onnx.data"])
def test_a_file_that_the_sums_do_not_list_is_refused(store: FolderStore, cache: pathlib.Path, name: str) -> None:
    digest = write_bundle(store, FILES)
    store.put(f"bundles/{digest}/{name}", b"import os")

    assert_refused(store, digest, cache, "unlisted_file")


@pytest.mark.parametrize(
    "name", ["../escaped", "a/../../escaped", "/etc/escaped", "..", ".hidden", "sub/file", "a\\b", "x" * 200, SUMS]
)
def test_a_name_that_leaves_the_folder_is_refused_before_anything_is_written(
    store: FolderStore, cache: pathlib.Path, tmp_path: pathlib.Path, name: str
) -> None:
    digest = publish_raw(store, FILES, sums_of({**FILES, name: b"x"}))

    assert_refused(store, digest, cache, "bad_name")
    assert not list(tmp_path.rglob("*escaped*"))


@pytest.mark.parametrize(
    "line", ["", "not a line", "A" * 64 + "  upper", "0" * 63 + "  short", "0" * 64 + " one-space", "\udcff"]
)
def test_sums_with_a_line_that_is_none_are_refused(store: FolderStore, cache: pathlib.Path, line: str) -> None:
    sums = sums_of(FILES) + line.encode("utf-8", "surrogateescape") + b"\n"

    assert_refused(store, publish_raw(store, FILES, sums), cache, "bad_name")


def test_sums_that_list_a_name_twice_are_refused(store: FolderStore, cache: pathlib.Path) -> None:
    sums = sums_of(FILES) + f"{'0' * 64}  {MODEL}\n".encode()

    assert_refused(store, publish_raw(store, FILES, sums), cache, "bad_name")


@pytest.mark.parametrize("left_out", [MANIFEST, MODEL, GOLDEN])
def test_sums_without_a_required_file_are_refused(store: FolderStore, cache: pathlib.Path, left_out: str) -> None:
    files = {name: data for name, data in FILES.items() if name != left_out}

    assert_refused(store, publish_raw(store, files, sums_of(files)), cache, "missing_file")


@pytest.mark.parametrize("name", [MODEL, SUMS])
def test_a_symlink_is_refused_even_to_the_right_bytes(
    store: FolderStore, cache: pathlib.Path, tmp_path: pathlib.Path, name: str
) -> None:
    digest = write_bundle(store, FILES)
    path = file_of(store, digest, name)
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")

    assert_refused(store, digest, cache, "missing_file")


def test_a_pipe_in_place_of_a_file_is_refused_without_waiting_for_it(store: FolderStore, cache: pathlib.Path) -> None:
    digest = write_bundle(store, FILES)
    path = file_of(store, digest, MODEL)
    path.unlink()
    os.mkfifo(path)

    assert_refused(store, digest, cache, "missing_file")


def test_a_file_that_is_too_large_is_refused(
    store: FolderStore, cache: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = write_bundle(store, FILES)
    monkeypatch.setitem(bundles.MAX_FILE_BYTES, MODEL, len(FILES[MODEL]) - 1)

    assert_refused(store, digest, cache, "oversize")


def edited(change: Callable[[dict[str, object]], object]) -> bytes:
    manifest = json.loads(FILES[MANIFEST])
    change(manifest)
    return json.dumps(manifest).encode()


@pytest.mark.parametrize(
    "manifest",
    [
        b"",
        b"null",
        b'{"model": "fi',
        edited(lambda manifest: manifest.pop("teacher_version")),
        edited(lambda manifest: manifest.update(schema_version=2)),
        edited(lambda manifest: manifest.update(surprise=1)),
        edited(lambda manifest: manifest.update(origin="elsewhere")),
        edited(lambda manifest: manifest.update(inputs=[{"name": "x", "datatype": "BYTES", "shape": [1]}])),
    ],
)
def test_a_manifest_that_is_none_is_refused(store: FolderStore, cache: pathlib.Path, manifest: bytes) -> None:
    assert_refused(store, write_bundle(store, {**FILES, MANIFEST: manifest}), cache, "bad_manifest")


@pytest.mark.parametrize("digest", ["", "..", "../../etc", "a" * 63, "A" * 64, "a" * 64 + "\n"])
def test_what_is_no_digest_is_refused(store: FolderStore, cache: pathlib.Path, digest: str) -> None:
    with pytest.raises(BundleError, match="is not a bundle's digest") as refusal:
        fetch_bundle(store, digest, cache, Policy())

    assert refusal.value.reason == "bad_name"
    assert not cache.exists()


def test_a_version_that_nobody_published_is_refused(store: FolderStore, cache: pathlib.Path) -> None:
    assert_refused(store, "a" * 64, cache, "missing_file")


@pytest.mark.parametrize("name", ["../escape", "a/b", "", ".hidden", SUMS])
def test_a_writer_can_not_give_a_file_such_a_name(store: FolderStore, name: str) -> None:
    with pytest.raises(FormatError, match="may be named"):
        write_bundle(store, {**FILES, name: b""})

    assert store.list("bundles") == []


def test_a_copy_that_was_tampered_with_is_fetched_anew(store: FolderStore, cache: pathlib.Path) -> None:
    digest = publish_student(store)
    copy = fetch_bundle(store, digest, cache, Policy())
    (copy.folder / MODEL).write_bytes(b"tampered")
    (copy.folder / "extra").write_bytes(b"")

    again = fetch_bundle(store, digest, cache, Policy())

    assert again == copy
    assert (again.folder / MODEL).read_bytes() == FILES[MODEL]
    assert not (again.folder / "extra").exists()


def test_a_tampered_copy_does_not_stay_when_its_source_is_gone(store: FolderStore, cache: pathlib.Path) -> None:
    digest = publish_student(store)
    (fetch_bundle(store, digest, cache, Policy()).folder / MODEL).write_bytes(b"tampered")
    store.delete(f"bundles/{digest}/{MODEL}")

    assert_refused(store, digest, cache, "missing_file")


def test_a_verified_copy_serves_when_its_source_is_gone(store: FolderStore, cache: pathlib.Path) -> None:
    digest = publish_student(store)
    copy = fetch_bundle(store, digest, cache, Policy())
    for path in store.list("bundles"):
        store.delete(path)

    assert fetch_bundle(store, digest, cache, Policy()) == copy


def test_what_a_killed_fetch_left_is_swept(store: FolderStore, cache: pathlib.Path) -> None:
    digest = publish_student(store)
    (cache / ".fetch-killed").mkdir(parents=True)
    (cache / ".fetch-killed" / MODEL).write_bytes(b"half")

    fetch_bundle(store, digest, cache, Policy())

    assert sorted(path.name for path in cache.iterdir()) == sorted([".lock", digest])


def test_a_torn_bundle_is_mended_by_writing_it_again(store: FolderStore, cache: pathlib.Path) -> None:
    digest = write_bundle(store, FILES)
    for name in (MODEL, SUMS):
        store.put(f"bundles/{digest}/{name}", b"torn")

    assert write_bundle(store, FILES) == digest

    assert fetch_bundle(store, digest, cache, Policy()).digest == digest


def test_a_cache_that_can_not_be_made_is_unavailable(store: FolderStore, tmp_path: pathlib.Path) -> None:
    digest = publish_student(store)
    (tmp_path / "file").write_bytes(b"")

    with pytest.raises(UnavailableError, match=r"cannot keep a bundle in .*registry\.cache"):
        fetch_bundle(store, digest, tmp_path / "file", Policy())
