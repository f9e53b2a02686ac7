"""The loop and an operator's orders: what is pinned or frozen stays, what was rolled back ends a trial, what was left half done is finished."""

import dataclasses
import hashlib
import pathlib

import pytest

from distill_loop.audit_app import audit
from distill_loop.config import GateSection, ReleaseSection
from distill_loop.desk import Desk
from distill_loop.gates.promise import Promise
from distill_loop.gates.rule import Rule
from distill_loop.gates.slices import SliceShares
from distill_loop.gates.trial import Answer, TrialIdentity, TrialState
from distill_loop.progress import Progress
from distill_loop.release.office import ReleaseOffice
from distill_loop.trials import Trials
from protos.errors import FormatError
from registry.fetching import Policy
from registry.ledger import LedgerError, Line
from registry.orders import OrderKind
from registry.pointers import StaleEpoch, Trial
from registry.sections import ModelSection
from tests.support.faults import Fault, FaultyStore, Killed
from tests.support.served import FACTS, MODEL, Served, serve

NUM_WINS = 60


class FakeLearner:
    """All that a verdict asks of a learner."""

    teacher_version = "teacher-1"


@dataclasses.dataclass
class Room:
    """A desk with an open trial against the only version that there is."""

    served: Served
    office: ReleaseOffice
    progress: Progress
    desk: Desk


@pytest.fixture
def room(tmp_path: pathlib.Path) -> Room:
    served, progress, model = serve(tmp_path, 1), Progress(), ModelSection()
    office = ReleaseOffice(
        served.store,
        model,
        ReleaseSection(),
        cache=served.cache,
        policy=Policy(),
        epoch=1,
        actor="loop epoch 1",
        text_bytes=64,
        facts=FACTS,
    )
    learner = FakeLearner()
    trials = Trials(
        progress,
        learner,  # type: ignore[arg-type]
        office,
        gate=GateSection(),
        observe_only=False,
        promise=Promise(),
        slices=SliceShares(),
    )
    desk = Desk(
        progress,
        learner,  # type: ignore[arg-type]
        office,
        trials,
        release=ReleaseSection(),
        model=model,
        promise=Promise(),
        sign_of_life=lambda: None,
    )
    desk.reconcile()
    live, candidate = served.live, served.publish(5)
    progress.trial = TrialState(TrialIdentity("t-5", live, candidate, 0.5, 1, Rule(), "teacher-1"))
    office.open_trial(Trial(trial_id="t-5", incumbent=live, candidate=candidate, share=0.5, opened_unix_s=1e-9))
    return Room(served, office, progress, desk)


def win(room: Room) -> None:
    """Let the candidate win, as often as it takes."""
    trial = room.progress.trial
    assert trial is not None
    after = trial.identity.opened_unix_ns + 1
    for number in range(NUM_WINS):
        record = number.to_bytes(16, "big")
        trial.add_row(record, record, after, agree=False, incumbent_class=0, candidate_class=1)
        trial.add_answer(record, record, after, Answer(0, 1, 1, "teacher-1"))


def decided(room: Room) -> Line:
    assert room.desk.close_decided_trial()
    line = room.office.ledger.last()
    assert line is not None
    return line


@pytest.mark.parametrize("kind", ["freeze", "pin"])
def test_what_passes_while_a_version_is_held_is_written_down_and_not_promoted(kind: OrderKind, room: Room) -> None:
    live = room.progress.live
    room.served.order(kind)
    room.desk.follow()
    assert room.progress.trial is not None  # it goes on
    win(room)

    line = decided(room)

    assert (line.kind, line.evidence["verdict"], room.progress.trial) == ("observe", "PASS", None)
    assert "since line 2 by ann@host: a test" in line.evidence["held"]
    assert room.progress.live == live
    room.served.order("unfreeze" if kind == "freeze" else "unpin")
    room.desk.follow()
    assert room.progress.live == live


def test_an_order_that_comes_between_look_and_line_is_respected(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    read, ledger = room.office.ledger.uncut, room.office.ledger
    orders: list[OrderKind] = ["freeze"]

    def read_and_be_late() -> list[Line]:
        lines = read()
        if orders:
            room.served.order(orders.pop())
        return lines

    win(room)
    monkeypatch.setattr(ledger, "uncut", read_and_be_late)

    assert decided(room).kind == "observe"
    assert [line.kind for line in ledger.lines()] == ["bootstrap", "freeze", "observe"]


def test_a_trial_whose_incumbent_an_operator_replaced_ends_with_what_it_had(room: Room) -> None:
    trial = room.progress.trial
    assert trial is not None
    win(room)
    room.served.order("promote", version=trial.identity.candidate)

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


def test_an_order_that_was_killed_after_its_line_is_finished_by_the_loop(room: Room) -> None:
    trial = room.progress.trial
    assert trial is not None
    first = str(room.progress.live)
    room.served.order("promote", version=trial.identity.candidate)
    room.desk.follow()
    with pytest.raises(Killed):
        room.served.order("rollback", FaultyStore(room.served.backend, Fault("/live.json", 1, "before", "killed")))

    room.desk.follow()

    assert room.served.live == room.progress.live == first
    assert not room.office.grew()


def test_a_loop_that_was_taken_over_opens_and_closes_no_trial(room: Room) -> None:
    pointers, trial = room.office.pointers, room.office.pointers.trial()
    pointers.set_trial(trial, epoch=2)  # its successor's

    for move in (lambda: room.office.open_trial(None), lambda: room.office.close_trial(str(trial and trial.trial_id))):
        with pytest.raises(StaleEpoch, match="belongs to epoch 2, this process to 1"):
            move()

    assert pointers.trial() == trial


def test_a_past_trial_is_judged_again_to_the_same_numbers_and_changed_rows_are_found(room: Room) -> None:
    win(room)
    line = decided(room)
    path = room.office.ledger.rows_path(line.trial_id)

    body = audit(room.served.store, MODEL, line.trial_id)

    assert body["same"], body["differences"]
    assert (body["line"], body["rows"], body["decision"]["verdict"]) == (2, NUM_WINS, "PASS")
    assert body["decision"]["log_e"] == line.evidence["log_e"]
    rows = room.served.store.get(path).data
    room.served.store.put(path, rows.replace(b'"win"', b'"tie"', 1))
    with pytest.raises(LedgerError, match="line 2, were changed"):
        audit(room.served.store, MODEL, "2")
    room.served.store.delete(path)
    with pytest.raises(LedgerError, match="line 2, are gone"):
        audit(room.served.store, MODEL, line.trial_id)


@pytest.mark.parametrize(
    ("evidence", "said"),
    [({"log_e": 99.0}, "log_e: the line says 99.0, the rows"), ({"verdict": "FAIL"}, "verdict: the line says 'FAIL'")],
)
def test_a_line_that_says_otherwise_than_its_rows_is_told(evidence: dict[str, object], said: str, room: Room) -> None:
    win(room)
    line, ledger = decided(room), room.office.ledger
    rows = ledger.kept_rows(line)
    room.served.store.put(ledger.rows_path("t-forged"), rows)
    ledger.append(
        kind="promote",
        trial_id="t-forged",
        digest=line.digest,
        previous_digest=line.previous_digest,
        evidence={**line.evidence, **evidence},
        rows_digest=hashlib.sha256(rows).hexdigest(),
        actor="a forger",
    )

    body = audit(room.served.store, MODEL, "t-forged")

    assert not body["same"]
    assert any(one.startswith(said) for one in body["differences"])


def test_a_trial_of_a_version_before_rules_were_kept_can_not_be_judged_again(room: Room) -> None:
    win(room)
    line, ledger = decided(room), room.office.ledger
    old = {name: value for name, value in line.evidence.items() if name not in ("rule", "wait")}
    room.served.store.put(ledger.rows_path("t-old"), b"")
    empty = hashlib.sha256(b"").hexdigest()
    ledger.append(
        kind="reject", trial_id="t-old", digest="d", previous_digest=None, evidence=old, rows_digest=empty, actor="old"
    )

    with pytest.raises(FormatError, match="keeps no rule"):
        audit(room.served.store, MODEL, "t-old")
