"""What a folder registry promises to processes that race for it: one winner, nothing lost, nothing torn."""

import pathlib

import pytest

from registry.ledger import Ledger
from registry.store import FolderStore, open_store
from tests.support import racers
from tests.support.students import publish_student

NUM_RACERS = 4


@pytest.fixture
def store(tmp_path: pathlib.Path) -> FolderStore:
    store = open_store(str(tmp_path / "registry"))
    assert isinstance(store, FolderStore)
    return store


@pytest.fixture
def url(tmp_path: pathlib.Path) -> str:
    return str(tmp_path / "registry")


def test_no_increment_is_lost_when_processes_race_to_swap(store: FolderStore, url: str) -> None:
    store.create("counter", b"0")

    racers.race([("increment", url, 100)] * NUM_RACERS)

    assert int(store.get("counter").data) == 100 * NUM_RACERS


def test_each_object_is_created_by_exactly_one_process(store: FolderStore, url: str) -> None:
    won = racers.race([("create", url, 100, f"racer-{lane}") for lane in range(NUM_RACERS)])

    assert sorted(number for mine in won for number in mine) == list(range(100))
    for lane, mine in enumerate(won):
        assert {store.get(f"prizes/{number}").data for number in mine} <= {f"racer-{lane}".encode()}


def test_ledger_writers_that_race_leave_one_chain_and_decide_a_shared_trial_once(store: FolderStore, url: str) -> None:
    decided = racers.race([("append", url, 12, f"racer-{lane}") for lane in range(NUM_RACERS)])

    ledger = Ledger(store, racers.MODEL)
    assert ledger.verify() == 6 * NUM_RACERS + 6
    lines = {line.trial_id: line.number for line in ledger.lines()}
    assert len(lines) == 6 * NUM_RACERS + 6
    assert all(mine.items() <= lines.items() for mine in decided)


def test_one_process_gets_the_lease(store: FolderStore, url: str) -> None:
    epochs = racers.race([("acquire", url, f"racer-{lane}") for lane in range(NUM_RACERS)])

    assert sorted(epoch for epoch in epochs if epoch) == [1]


def test_processes_that_fetch_one_version_into_one_cache_all_get_it(
    store: FolderStore, url: str, tmp_path: pathlib.Path
) -> None:
    digest = publish_student(store)
    cache = tmp_path / "cache"

    versions = racers.race([("fetch", url, digest, cache)] * NUM_RACERS)

    assert set(versions) == {digest[:12]}
    assert [path.name for path in cache.iterdir() if path.is_dir()] == [digest]


def test_a_reader_never_sees_a_torn_object_even_when_the_writer_is_killed(store: FolderStore, url: str) -> None:
    size = 300_000
    store.put("page", b"a" * size)
    writer = racers.start("overwrite", url, size)
    seen = set()
    try:
        racers.go(writer)
        for _ in range(300):
            data = store.get("page").data
            assert len(data) == size
            assert len(set(data)) == 1
            seen.add(data[:1])
    finally:
        racers.end(writer)

    assert seen == {b"a", b"b"}
    assert store.get("page").data in (b"a" * size, b"b" * size)
    assert store.list("") == ["page"]
