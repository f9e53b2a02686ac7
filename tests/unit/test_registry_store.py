"""A folder store's own traps: a folder that can't be written, a full disk, files of a killed writer, odd URLs."""

import pathlib
import subprocess
import sys

import pytest

from protos.errors import ConfigurationError, UnavailableError
from registry.store import FolderStore, open_store
from tests.support.racers import ROOT

#: A process whose files may have 4,096 bytes stands in for a full disk: the write itself fails, half done.
FULL_DISK = """
import resource, sys
from protos.errors import UnavailableError
from registry.store import open_store
store = open_store(sys.argv[1])
version = store.put("pointer", b"old")
sys.dont_write_bytecode = True  # a compiled module would be cut off too, and kept
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
for write in (
    lambda: store.put("pointer", bytes(100_000)),
    lambda: store.create("new", bytes(100_000)),
    lambda: store.swap("pointer", bytes(100_000), version),
):
    try:
        write()
    except UnavailableError as error:
        print(error)
"""


@pytest.fixture
def store(tmp_path: pathlib.Path) -> FolderStore:
    store = open_store(str(tmp_path / "registry"))
    assert isinstance(store, FolderStore)
    return store


@pytest.mark.parametrize("prefix", ["", "file://"])
def test_the_folder_is_made(tmp_path: pathlib.Path, prefix: str) -> None:
    store = open_store(f"{prefix}{tmp_path}/deep/registry")

    store.put("a/b", b"1")

    assert (tmp_path / "deep/registry/a/b").read_bytes() == b"1"
    assert store.local_path("a/b") == tmp_path / "deep/registry/a/b"


def test_two_stores_on_one_folder_see_the_same(tmp_path: pathlib.Path) -> None:
    version = open_store(str(tmp_path)).put("a", b"1")

    assert open_store(str(tmp_path)).get("a").version == version


def test_memory_stores_are_their_own(tmp_path: pathlib.Path) -> None:
    open_store("memory://").put("a", b"1")

    other = open_store("memory://")
    assert other.list("") == []
    assert other.local_path("a") is None


def test_a_scheme_that_is_not_served_is_a_configuration_error() -> None:
    with pytest.raises(ConfigurationError, match=r"scheme 's3'.*Name a folder"):
        open_store("s3://bucket/registry")


def test_a_folder_that_can_not_be_made_is_unavailable(tmp_path: pathlib.Path) -> None:
    (tmp_path / "file").write_bytes(b"")

    with pytest.raises(UnavailableError, match=r"cannot make the registry's folder .*registry\.url"):
        open_store(str(tmp_path / "file" / "registry"))


def test_a_write_that_the_disk_refuses_is_unavailable_and_leaves_no_file(
    store: FolderStore, tmp_path: pathlib.Path
) -> None:
    store.put("a", b"1")

    with pytest.raises(UnavailableError, match="cannot write a/b in the registry"):
        store.put("a/b", b"2")

    assert [path.name for path in (tmp_path / "registry").iterdir()] == ["a"]


def test_a_full_disk_leaves_the_old_object_and_no_half_written_one(store: FolderStore, tmp_path: pathlib.Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(tmp_path / "registry")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )

    assert [line.partition(" in the registry")[0] for line in done.stdout.splitlines()] == [
        "cannot write pointer",
        "cannot write new",
        "cannot write pointer",
    ]
    assert store.get("pointer").data == b"old"
    assert sorted(path.name for path in (tmp_path / "registry").iterdir()) == [".swap.lock", "pointer"]


def test_a_staged_file_that_a_killed_writer_left_is_no_object(store: FolderStore, tmp_path: pathlib.Path) -> None:
    store.put("ledger/1", b"1")
    (tmp_path / "registry/ledger/2#123000000000").write_bytes(b"half")

    assert store.list("ledger") == ["ledger/1"]


def test_a_swap_continues_after_a_lock_file_that_a_killed_process_left(
    store: FolderStore, tmp_path: pathlib.Path
) -> None:
    version = store.create("a", b"1")
    (tmp_path / "registry/.swap.lock").write_bytes(b"")

    store.swap("a", b"2", version)

    assert store.get("a").data == b"2"
