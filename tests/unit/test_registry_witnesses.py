"""A ledger whose end was cut off is still a chain: somebody else has to have seen what is gone."""

import pathlib

import pytest

from registry.ledger import ADDED_LATER, GENESIS, Ledger, LedgerError, LedgerMoved, Line, Range
from registry.pointers import Checkpoint, Pointers
from registry.status import write_status
from registry.witnesses import parse, seen, verify, witnesses
from tests.support.served import MODEL, Served, serve

#: As the version before wrote it.
OLD_LINE = (
    '{"number":1,"kind":"promote","trial_id":"t-1","digest":"' + "b" * 64 + '","previous_digest":"' + "a" * 64 + '",'
    '"evidence":{"wins":20,"log_e":6.25,"reason":"größer"},"rows_digest":"' + "c" * 64 + '","time_unix_s":1764000000.5,'
    '"actor":"loop epoch 1","previous_hash":"' + GENESIS + '",'
    '"hash":"bc08640e797f047890ca28643f15f3b0b8006a534afabf21386fe6c3109d4ba7"}'
)


@pytest.fixture
def served(tmp_path: pathlib.Path) -> Served:
    return serve(tmp_path)


def look(served: Served, *kept: str) -> int:
    return len(verify(served.ledger, [*witnesses(served.store, MODEL), *map(parse, kept)]))


def cut(served: Served, number: int) -> None:
    served.store.delete(f"models/{MODEL}/ledger/{number:08d}.json")


def test_a_line_of_the_version_before_reads_and_verifies_and_is_kept_as_it_was() -> None:
    line = Line.model_validate_json(OLD_LINE)

    assert line.computed_hash() == line.hash
    assert line.to_json() == OLD_LINE


def test_what_a_line_says_since_is_covered_by_its_hash() -> None:
    old = Line.model_validate_json(OLD_LINE)
    source = (Range(topic="pairs", partition=0, first=0, end=9, stream="s"),)
    added = {"learned_from": source, "teacher_version": "t", "config_digest": "c", "code_version": "v"}
    assert added.keys() == ADDED_LATER

    hashes = {old.model_copy(update={name: value}).computed_hash() for name, value in added.items()}

    assert len(hashes | {old.hash}) == 5


def test_a_decision_on_lines_that_are_no_longer_the_newest_is_not_written(served: Served) -> None:
    with pytest.raises(LedgerMoved, match=r"line 3 was written meanwhile \(promote, loop epoch 1\)"):
        served.ledger.append(
            kind="promote", trial_id="t", digest="d", previous_digest=None, evidence={}, actor="me", expected=2
        )

    assert served.kinds() == []


def test_a_cut_tip_is_missed_by_the_live_pointer_and_nothing_more_is_decided(served: Served) -> None:
    cut(served, 3)

    for decide in (lambda: look(served), lambda: served.order("freeze"), lambda: served.append("gap", "", "gap-1")):
        with pytest.raises(LedgerError, match="line 3 is missing: the live pointer names line 3") as told:
            decide()
        assert told.value.line == 3


@pytest.mark.parametrize("witness", ["the loop's checkpoint", "the status of gateway-1", "--at"])
def test_a_cut_line_that_moved_nothing_is_missed_by_who_has_seen_it(witness: str, served: Served) -> None:
    line = served.order("freeze").line
    assert line is not None
    if witness == "--at":
        kept = f"4:{line.hash[:12]}"
    elif "checkpoint" in witness:
        kept = "1:" + served.ledger.line(1).hash
        new = Checkpoint(path="p", epoch=1, sequence=1, ledger_line=4, ledger_hash=line.hash)
        Pointers(served.store, MODEL).move_checkpoint(new, None)
    else:
        kept = "1:" + served.ledger.line(1).hash
        write_status(served.store, MODEL, "gateway-1", {"process": "gateway", "ledger": seen(line)})
    assert look(served, kept) == 4

    cut(served, 4)
    with pytest.raises(LedgerError, match=f"line 4 is missing: {witness} has seen line 4"):
        look(served, kept)
    served.order("freeze", reason="another")  # a line of the same number in its place
    with pytest.raises(LedgerError, match=f"line 4 is another one than {witness} has seen"):
        look(served, kept)


def test_a_live_pointer_that_was_changed_by_hand_is_named(served: Served) -> None:
    path = f"models/{MODEL}/live.json"
    served.store.put(path, served.store.get(path).data.replace(served.digests[2].encode(), served.digests[0].encode()))

    with pytest.raises(LedgerError, match="the live pointer names line 3 and version"):
        look(served)


def test_the_newest_lines_are_found_from_any_number_on(served: Served) -> None:
    ledger = Ledger(served.store, MODEL)

    assert [line.number for line in ledger.newer(1)] == [2, 3]
    assert list(ledger.newer(3)) == []
    assert ledger.last() == ledger.line(3)
