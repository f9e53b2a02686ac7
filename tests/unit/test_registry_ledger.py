"""The ledger's chain: whatever was changed after it was written is found and named."""

import json
import math
import tempfile
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from registry.ledger import MAX_BYTES, Ledger, LedgerError, Line
from registry.store import ObjectStore, open_store

MODEL = "filetypes"
FOLDER = f"models/{MODEL}/ledger"


def path(number: int) -> str:
    return f"{FOLDER}/{number:08d}.json"


def append(ledger: Ledger, trial_id: str, **evidence: Any) -> Line:
    return ledger.append(
        kind="promote", trial_id=trial_id, digest="d", previous_digest=None, evidence=evidence, actor="test"
    )


@pytest.fixture
def store() -> ObjectStore:
    return open_store("memory://")


@pytest.fixture
def ledger(store: ObjectStore) -> Ledger:
    ledger = Ledger(store, MODEL)
    for number in range(1, 5):
        append(ledger, f"t-{number}", wins=number)
    return ledger


def rewrite(store: ObjectStore, line_number: int, *, rehash: bool, **changes: object) -> None:
    line = Line.model_validate_json(store.get(path(line_number)).data).model_copy(update=changes)
    if rehash:
        line = line.model_copy(update={"hash": line.computed_hash()})
    store.put(path(line_number), line.model_dump_json().encode())


@pytest.mark.parametrize(
    "changes",
    [
        {"digest": "e"},
        {"kind": "reject"},
        {"evidence": {"wins": 99}},
        {"time_unix_s": 0.0},
        {"actor": "x"},
        {"number": 9},
        {"hash": "0" * 64},
    ],
)
def test_a_line_that_was_changed_is_named(store: ObjectStore, ledger: Ledger, changes: dict[str, object]) -> None:
    rewrite(store, 3, rehash=False, **changes)

    with pytest.raises(LedgerError, match="line 3 was changed"):
        ledger.verify()


def test_a_line_that_was_changed_and_hashed_again_breaks_the_next(store: ObjectStore, ledger: Ledger) -> None:
    rewrite(store, 2, rehash=True, digest="e")

    with pytest.raises(LedgerError, match="line 3 doesn't follow from line 2"):
        ledger.verify()


def test_a_line_that_was_taken_out_is_named(store: ObjectStore, ledger: Ledger) -> None:
    store.delete(path(2))

    with pytest.raises(LedgerError, match="line 2 is missing"):
        ledger.verify()


def test_two_lines_that_changed_places_are_named(store: ObjectStore, ledger: Ledger) -> None:
    second, third = store.get(path(2)).data, store.get(path(3)).data
    store.put(path(2), third)
    store.put(path(3), second)

    with pytest.raises(LedgerError, match="line 2 was changed"):
        ledger.verify()


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b'{"number": 4}', b"\xff"])
def test_a_torn_line_is_named(store: ObjectStore, ledger: Ledger, data: bytes) -> None:
    store.put(path(4), data)

    with pytest.raises(LedgerError, match="line 4 is not a line"):
        ledger.verify()


def test_a_line_too_large_to_be_one_is_named_and_not_read(store: ObjectStore, ledger: Ledger) -> None:
    store.put(path(5), b" " * (MAX_BYTES + 1))

    with pytest.raises(LedgerError, match=r"line 5 is not a line: .*more than the 16,777,216") as told:
        ledger.verify()

    assert told.value.line == 5


@pytest.mark.parametrize("name", ["notes.txt", "00000005.json.bak", "5.json", "sub/00000005.json"])
def test_an_object_that_is_no_line_is_named(store: ObjectStore, ledger: Ledger, name: str) -> None:
    store.put(f"{FOLDER}/{name}", b"")

    with pytest.raises(LedgerError, match="is not a ledger line's name"):
        ledger.verify()


def test_a_broken_ledger_takes_no_further_line(store: ObjectStore, ledger: Ledger) -> None:
    store.delete(path(2))

    with pytest.raises(LedgerError):
        append(ledger, "t-5")

    assert len(store.list(FOLDER)) == 3


class LateListing(ObjectStore):
    """A store whose listing misses a line that a racing writer has made, and shows the one after it."""

    missed = ""

    def list(self, prefix: str) -> list[str]:
        return [path for path in super().list(prefix) if path != self.missed]


def test_a_listing_that_races_with_writers_is_no_broken_chain(store: ObjectStore, ledger: Ledger) -> None:
    late = LateListing(store._backend)
    late.missed = path(3)

    assert [line.number for line in Ledger(late, MODEL).lines()] == [1, 2, 3, 4]


def test_a_writer_that_has_not_seen_the_newest_line_writes_the_one_after_it(store: ObjectStore, ledger: Ledger) -> None:
    class SeesItSecond(ObjectStore):
        looks = 0

        def list(self, prefix: str) -> list[str]:
            self.looks += 1
            listed = super().list(prefix)
            return listed[:-1] if self.looks == 1 else listed

    line = append(Ledger(SeesItSecond(store._backend), MODEL), "t-5")

    assert line.number == 5
    assert ledger.verify() == 5


def test_the_line_that_is_returned_is_the_one_that_is_read(ledger: Ledger) -> None:
    line = append(ledger, "t-5", interval=(0.1, 0.9), log_e=-math.inf, lower_bound=math.nan)

    assert line == ledger.last()
    assert line.evidence == {"interval": [0.1, 0.9], "log_e": None, "lower_bound": None}
    assert ledger.verify() == 5


@pytest.mark.parametrize(
    ("kind", "moves"),
    [("bootstrap", True), ("promote", True), ("rollback", True), ("reject", False), ("inconclusive", False)],
)
def test_a_line_says_whether_it_moves_the_live_pointer(store: ObjectStore, kind: Any, moves: bool) -> None:
    line = Ledger(store, MODEL).append(
        kind=kind, trial_id="t", digest="d", previous_digest=None, evidence={}, actor="test"
    )

    assert line.moves_live is moves


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc", max_size=3), inner, max_size=3),
    max_leaves=10,
)


@settings(max_examples=60, deadline=None, database=None)
@given(evidence=st.dictionaries(st.text("xyz", max_size=4), JSON, max_size=4))
def test_any_evidence_is_kept_and_verifies(evidence: dict[str, Any]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        ledger = Ledger(open_store(folder), MODEL)

        line = append(ledger, "t-1", **evidence)

        assert ledger.lines() == [line]
        assert ledger.verify() == 1
        assert set(json.loads(line.model_dump_json())["evidence"]) == set(evidence)
