"""The loop and an operator's orders: what is pinned or frozen stays, what was rolled back ends a trial, what was left half done is finished."""

import hashlib
import pathlib

import pytest

from distill_loop.audit_app import audit
from protos.errors import FormatError
from registry.ledger import LedgerError, Line
from registry.orders import Order, OrderKind, carry_out
from registry.pointers import Pointers, StaleEpoch
from tests.support.desks import DeskUnderTest
from tests.support.faults import Fault, FaultyStore, Killed
from tests.support.tasks import TASKS

NUM_WINS = 60


@pytest.fixture
def room(tmp_path: pathlib.Path) -> DeskUnderTest:
    """A desk with a first version and an open trial against it."""
    room = DeskUnderTest(TASKS["table"], tmp_path, learner={"learning_rate": 0.01, "holdout_ratio": 0.2})
    room.take(range(24), steps=1)
    room.desk.bootstrap(lambda: None)
    room.desk.follow()
    room.take(range(24, 60))
    assert room.cut()["outcome"] == "on trial"
    return room


def order(room: DeskUnderTest, kind: OrderKind, cache: pathlib.Path, version: str | None = None) -> Line:
    asked = Order(kind, "ann@host", "a test", version)
    line = carry_out(room.store, room.task.model.name, asked, cache=cache / "cache", facts=room.facts).line
    assert line is not None
    return line


def win(room: DeskUnderTest) -> None:
    """Let the candidate win, as often as it takes."""
    trial = room.progress.trial
    assert trial is not None
    after = trial.identity.opened_unix_ns + 1
    for number in range(NUM_WINS):
        record = number.to_bytes(16, "big")
        trial.add_row(record, record, after, agree=False)
        trial.add_answer(record, record, after, incumbent_class=0, candidate_class=1, teacher_class=1)


def decided(room: DeskUnderTest) -> Line:
    assert room.desk.close_decided_trial()
    line = room.office.ledger.last()
    assert line is not None
    return line


@pytest.mark.parametrize("kind", ["freeze", "pin"])
def test_what_passes_while_a_version_is_held_is_written_down_and_not_promoted(
    kind: OrderKind, room: DeskUnderTest, tmp_path: pathlib.Path
) -> None:
    live = room.progress.live
    order(room, kind, tmp_path)
    room.desk.follow()
    assert room.progress.trial is not None  # it goes on
    win(room)

    line = decided(room)

    assert (line.kind, line.evidence["verdict"], room.progress.trial) == ("observe", "PASS", None)
    assert "since line 2 by ann@host: a test" in line.evidence["held"]
    assert room.progress.live == live
    order(room, "unfreeze" if kind == "freeze" else "unpin", tmp_path)
    room.desk.follow()
    assert room.progress.live == live


def test_an_order_that_comes_between_look_and_line_is_respected(
    room: DeskUnderTest, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, ledger = room.office.ledger.uncut, room.office.ledger
    orders: list[OrderKind] = ["freeze"]

    def read_and_be_late() -> list[Line]:
        lines = read()
        if orders:
            order(room, orders.pop(), tmp_path)
        return lines

    win(room)
    monkeypatch.setattr(ledger, "uncut", read_and_be_late)

    assert decided(room).kind == "observe"
    assert [line.kind for line in ledger.lines()] == ["bootstrap", "freeze", "observe"]


def test_a_trial_whose_incumbent_an_operator_replaced_ends_with_what_it_had(
    room: DeskUnderTest, tmp_path: pathlib.Path
) -> None:
    trial = room.progress.trial
    assert trial is not None
    win(room)
    order(room, "promote", tmp_path, trial.identity.candidate)

    room.desk.follow()

    line = room.office.ledger.find(trial.identity.trial_id)
    assert line is not None
    assert (line.kind, line.evidence["reason"], line.evidence["wins"]) == (
        "inconclusive",
        "the incumbent changed",
        NUM_WINS,
    )
    assert (room.progress.live, room.progress.trial) == (trial.identity.candidate, None)
    assert room.office.pointers.trial() is None


def test_an_order_that_was_killed_after_its_line_is_finished_by_the_loop(
    room: DeskUnderTest, tmp_path: pathlib.Path
) -> None:
    trial = room.progress.trial
    assert trial is not None
    first = str(room.progress.live)
    order(room, "promote", tmp_path, trial.identity.candidate)
    room.desk.follow()
    faulty = FaultyStore(room.store._backend, Fault("/live.json", 1, "before", "killed"))  # type: ignore[arg-type]
    back = Order("rollback", "ann@host")
    with pytest.raises(Killed):
        carry_out(faulty, room.task.model.name, back, cache=tmp_path / "cache", facts=room.facts)

    room.desk.follow()

    live = Pointers(room.store, room.task.model.name).live()
    assert live is not None
    assert live.digest == room.progress.live == first
    assert not room.office.grew()


def test_a_loop_that_was_taken_over_opens_and_closes_no_trial(room: DeskUnderTest) -> None:
    pointers, trial = room.office.pointers, room.office.pointers.trial()
    pointers.set_trial(trial, epoch=2)  # its successor's

    for move in (lambda: room.office.open_trial(None), lambda: room.office.close_trial(str(trial and trial.trial_id))):
        with pytest.raises(StaleEpoch, match="belongs to epoch 2, this process to 1"):
            move()

    assert pointers.trial() == trial


def test_a_past_trial_is_judged_again_to_the_same_numbers_and_changed_rows_are_found(room: DeskUnderTest) -> None:
    win(room)
    line = decided(room)
    model, path = room.task.model.name, room.office.ledger.rows_path(line.trial_id)

    body = audit(room.store, model, line.trial_id)

    assert body["same"], body["differences"]
    assert (body["line"], body["rows"], body["decision"]["verdict"]) == (2, NUM_WINS, "PASS")
    assert body["decision"]["log_e"] == line.evidence["log_e"]
    rows = room.store.get(path).data
    room.store.put(path, rows.replace(b'"win"', b'"tie"', 1))
    with pytest.raises(LedgerError, match="line 2, were changed"):
        audit(room.store, model, "2")
    room.store.delete(path)
    with pytest.raises(LedgerError, match="line 2, are gone"):
        audit(room.store, model, line.trial_id)


@pytest.mark.parametrize(
    ("evidence", "said"),
    [({"log_e": 99.0}, "log_e: the line says 99.0, the rows"), ({"verdict": "FAIL"}, "verdict: the line says 'FAIL'")],
)
def test_a_line_that_says_otherwise_than_its_rows_is_told(
    evidence: dict[str, object], said: str, room: DeskUnderTest
) -> None:
    win(room)
    line, ledger = decided(room), room.office.ledger
    rows = ledger.kept_rows(line)
    room.store.put(ledger.rows_path("t-forged"), rows)
    ledger.append(
        kind="promote",
        trial_id="t-forged",
        digest=line.digest,
        previous_digest=line.previous_digest,
        evidence={**line.evidence, **evidence},
        rows_digest=hashlib.sha256(rows).hexdigest(),
        actor="a forger",
    )

    body = audit(room.store, room.task.model.name, "t-forged")

    assert not body["same"]
    assert any(one.startswith(said) for one in body["differences"])


def test_a_trial_of_a_version_before_rules_were_kept_can_not_be_judged_again(room: DeskUnderTest) -> None:
    win(room)
    line, ledger = decided(room), room.office.ledger
    old = {name: value for name, value in line.evidence.items() if name not in ("rule", "wait")}
    room.store.put(ledger.rows_path("t-old"), b"")
    empty = hashlib.sha256(b"").hexdigest()
    ledger.append(
        kind="reject", trial_id="t-old", digest="d", previous_digest=None, evidence=old, rows_digest=empty, actor="old"
    )

    with pytest.raises(FormatError, match="keeps no rule"):
        audit(room.store, room.task.model.name, "t-old")
