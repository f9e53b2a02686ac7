"""What every object store promises, whatever it is made of: one suite, run on each kind."""

import pathlib
import tempfile
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protos.errors import FormatError
from registry.store import AlreadyExists, Moved, NotFound, ObjectStore, TooLarge
from tests.support.stores import KINDS, make_store


@pytest.fixture(params=KINDS)
def store(request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> ObjectStore:
    return make_store(request.param, tmp_path)


def test_what_was_written_is_read(store: ObjectStore) -> None:
    version = store.put("a/b.json", b"one")

    assert store.get("a/b.json").data == b"one"
    assert store.get("a/b.json").version == version


def test_an_empty_object_is_an_object(store: ObjectStore, tmp_path: pathlib.Path) -> None:
    store.put("empty", b"")

    assert store.get("empty").data == b""
    store.download("empty", tmp_path / "copy", max_bytes=0)
    assert (tmp_path / "copy").read_bytes() == b""


def test_an_absent_object_is_named(store: ObjectStore, tmp_path: pathlib.Path) -> None:
    with pytest.raises(NotFound, match="no object a/b"):
        store.get("a/b")
    with pytest.raises(NotFound, match="no object a/b"):
        store.download("a/b", tmp_path / "copy", max_bytes=10)
    assert not (tmp_path / "copy").exists()


def test_create_refuses_what_exists_and_leaves_it(store: ObjectStore) -> None:
    store.create("a", b"first")

    with pytest.raises(AlreadyExists):
        store.create("a", b"second")

    assert store.get("a").data == b"first"


def test_swap_replaces_the_version_that_was_read(store: ObjectStore) -> None:
    first = store.create("a", b"first")

    second = store.swap("a", b"second", first)

    assert store.get("a").data == b"second"
    assert store.get("a").version == second != first


def test_swap_refuses_a_version_that_moved_and_leaves_the_object(store: ObjectStore) -> None:
    first = store.create("a", b"first")
    store.swap("a", b"second", first)

    with pytest.raises(Moved, match="a was moved"):
        store.swap("a", b"third", first)

    assert store.get("a").data == b"second"


def test_swap_from_nothing_makes_the_object_once(store: ObjectStore) -> None:
    store.swap("a", b"first", None)

    with pytest.raises(Moved):
        store.swap("a", b"second", None)

    assert store.get("a").data == b"first"


def test_swap_of_an_object_that_was_removed_is_refused(store: ObjectStore) -> None:
    version = store.create("a", b"first")
    store.delete("a")

    with pytest.raises(Moved):
        store.swap("a", b"second", version)

    assert store.list("") == []


def test_list_is_sorted_and_keeps_to_its_folder(store: ObjectStore) -> None:
    for path in ("a/2", "a/10", "a/deep/1", "ab/1", "b"):
        store.put(path, b"")

    assert store.list("a") == ["a/10", "a/2", "a/deep/1"]
    assert store.list("nothing/here") == []
    assert store.list("") == ["a/10", "a/2", "a/deep/1", "ab/1", "b"]


def test_the_lock_of_a_swap_is_not_an_object(store: ObjectStore) -> None:
    store.swap("a", b"2", store.create("a", b"1"))

    assert store.list("") == ["a"]


def test_delete_removes_and_may_be_repeated(store: ObjectStore) -> None:
    store.put("a", b"1")

    store.delete("a")
    store.delete("a")

    with pytest.raises(NotFound):
        store.get("a")


def test_download_refuses_an_object_that_is_too_large_before_it_reads_it(
    store: ObjectStore, tmp_path: pathlib.Path
) -> None:
    store.put("a", b"12345")

    with pytest.raises(TooLarge, match="5 bytes, more than the 4"):
        store.download("a", tmp_path / "copy", max_bytes=4)

    assert not (tmp_path / "copy").exists()


def test_download_copies_an_object_of_many_pieces(store: ObjectStore, tmp_path: pathlib.Path) -> None:
    data = bytes(range(256)) * 100_000
    store.put("big", data)

    store.download("big", tmp_path / "copy", max_bytes=len(data))

    assert (tmp_path / "copy").read_bytes() == data


@pytest.mark.parametrize("path", ["../a", "a/../../b", "a/./b", "/etc/passwd", "a//b", "a/", "", "a\0b", "a\nb", "a#1"])
def test_a_path_that_is_none_is_refused_by_every_verb(store: ObjectStore, path: str, tmp_path: pathlib.Path) -> None:
    for call in (
        lambda: store.get(path),
        lambda: store.download(path, tmp_path / "copy", max_bytes=1),
        lambda: store.create(path, b""),
        lambda: store.put(path, b""),
        lambda: store.swap(path, b"", None),
        lambda: store.swap(path, b"", "version"),
        lambda: store.delete(path),
    ):
        with pytest.raises(FormatError, match="is not a path"):
            call()


def test_threads_that_race_to_swap_lose_no_increment(store: ObjectStore) -> None:
    store.create("counter", b"0")

    def increment() -> None:
        for _ in range(25):
            while True:
                blob = store.get("counter")
                try:
                    store.swap("counter", str(int(blob.data) + 1).encode(), blob.version)
                except Moved:
                    continue
                break

    threads = [threading.Thread(target=increment) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert store.get("counter").data == b"100"


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["create", "put", "swap", "swap_stale", "delete"]),
        st.sampled_from(["a", "b/c", "b/d"]),
        st.binary(max_size=8),
    ),
    max_size=20,
)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=40, deadline=None, database=None)
@given(steps=STEPS)
def test_any_order_of_verbs_gives_what_a_dictionary_would(kind: str, steps: list[tuple[str, str, bytes]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        store, model = make_store(kind, pathlib.Path(folder)), {}
        for verb, path, data in steps:
            current = store.get(path).version if path in model else None
            try:
                if verb == "create":
                    store.create(path, data)
                elif verb == "put":
                    store.put(path, data)
                elif verb == "delete":
                    store.delete(path)
                else:
                    store.swap(path, data, current if verb == "swap" else "no-such-version")
            except (AlreadyExists, Moved):
                assert verb == "swap_stale" or (verb == "create" and path in model)
                continue
            assert verb != "swap_stale"
            model.pop(path, None)
            if verb != "delete":
                model[path] = data

        assert {path: store.get(path).data for path in store.list("")} == model
