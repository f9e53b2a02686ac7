"""The desk: a cut goes on trial only where that looks worth its time, and a drift is soon such a time."""

import dataclasses
import pathlib
import time
from typing import NoReturn

import pytest

from distill_loop.gates.promise import Outlook
from distill_loop.stream.consumer import Replaced
from protos.errors import UnavailableError
from registry.bundle import version_of
from tests.support.desks import DeskUnderTest
from tests.support.tasks import TASKS


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return tmp_path_factory.mktemp("desk")


def released(folder: pathlib.Path, *, pairs: int = 150) -> DeskUnderTest:
    """Return a desk whose first version was released after these pairs."""
    room = DeskUnderTest(TASKS["table"], folder, learner={"learning_rate": 0.01, "holdout_ratio": 0.2})
    room.take(range(pairs))
    room.desk.bootstrap(lambda: None)
    return room


def test_a_candidate_that_is_clearly_behind_the_live_version_is_not_put_on_trial(folder: pathlib.Path) -> None:
    room = released(folder)
    bundles = len(room.store.list("bundles"))
    live = version_of(str(room.progress.live))
    for _ in range(40):
        room.promise.observe(live, learner_right=False, served_right=True)

    cut = room.cut()

    assert cut["outcome"] == "not promising"
    assert "the learner alone agrees with the teacher on 0, the live version alone on 40" in str(cut["reason"])
    assert room.promise.outlook(live).num == 20  # the next cut asks newer pairs
    assert (room.progress.cuts, room.progress.unpromising, room.progress.trial) == (1, 1, None)
    assert room.progress.pairs_since_cut == 0
    assert len(room.store.list("bundles")) == bundles  # nothing was exported or written


def test_after_a_drift_a_trial_is_opened_within_few_cuts_although_old_rows_are_held_out(folder: pathlib.Path) -> None:
    room = released(folder, pairs=240)
    assert room.learner.num_held_out > 30

    outcomes = []
    for start in range(240, 340, 16):
        room.take(range(start, start + 16), turned=1, steps=2)
        outcomes.append(room.cut()["outcome"])
        if outcomes[-1] == "on trial":
            break

    assert outcomes[-1] == "on trial", outcomes
    assert len(outcomes) <= 4
    assert room.progress.trial is not None


def test_a_trial_that_a_drift_overtook_makes_room_for_the_student_as_it_is_now(folder: pathlib.Path) -> None:
    room = DeskUnderTest(TASKS["table"], folder, learner={"learning_rate": 0.01, "holdout_ratio": 0.2})
    room.take(range(24), steps=1)
    room.desk.bootstrap(lambda: None)
    room.take(range(24, 60))
    assert room.cut()["outcome"] == "on trial"
    first = room.progress.trial
    assert first is not None
    room.take(range(60, 72))
    assert not room.desk.cut_due()  # the learner is no better than the candidate

    room.take(range(72, 160), turned=1, steps=2)
    assert room.desk.cut_due()
    room.progress.pairs_since_cut = room.progress.asked_at = room.progress.learned
    assert not room.desk.cut_due()  # it is asked once per cut's worth of pairs
    room.take(range(160, 184), turned=1, steps=0)
    assert room.desk.cut_due()
    assert room.cut()["outcome"] == "on trial"
    line = room.office.ledger.find(first.identity.trial_id)
    assert line is not None
    assert (line.kind, line.evidence["reason"]) == (
        "inconclusive",
        "superseded: the learner has overtaken the candidate",
    )
    assert room.progress.trial is not None
    assert room.progress.trial.identity.candidate != first.identity.candidate


def test_an_open_trial_stays_open_where_nothing_replaces_it(
    folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = DeskUnderTest(TASKS["table"], folder, learner={"learning_rate": 0.01, "holdout_ratio": 0.2})
    room.take(range(24), steps=1)
    room.desk.bootstrap(lambda: None)
    room.take(range(24, 60))
    assert room.cut()["outcome"] == "on trial"
    trial, lines = room.progress.trial, len(room.office.ledger.lines())

    assert room.cut()["outcome"] == "unchanged"  # since the trial was opened
    with monkeypatch.context() as patched:
        patched.setattr(room.promise, "outlook", lambda version: Outlook(0, 9, 32))
        assert room.cut()["outcome"] == "not promising"
    room.take(range(60, 140), turned=1, steps=2)
    with monkeypatch.context() as patched:
        patched.setattr(room.office, "_settings", room.office._settings.model_copy(update={"max_bytes": 10}))
        assert room.cut()["outcome"] == "refused"
    with monkeypatch.context() as patched:
        patched.setattr(room.office, "artifact", _away)
        with pytest.raises(UnavailableError):
            room.cut()

    assert room.progress.trial is trial
    assert len(room.office.ledger.lines()) == lines


def _away(digest: str) -> NoReturn:
    raise UnavailableError("the registry is away", fix="Wait")


def test_a_trial_that_gets_no_rows_ends_and_the_next_cut_is_tried(folder: pathlib.Path) -> None:
    room = DeskUnderTest(TASKS["table"], folder, learner={"learning_rate": 0.01, "holdout_ratio": 0.2})
    room.take(range(24), steps=1)
    room.desk.bootstrap(lambda: None)
    room.take(range(24, 60))
    room.cut()
    first = room.progress.trial
    assert first is not None

    for _ in range(512):
        assert not room.desk.close_decided_trial()
        first.note_pair(time.time_ns() + 10**12)
        first.note_read()

    assert room.desk.close_decided_trial()
    line = room.office.ledger.find(first.identity.trial_id)
    assert line is not None
    assert (line.kind, line.evidence["reason"]) == (
        "inconclusive",
        "no new input in the last 512 pairs, 0 requests in all",
    )
    room.take(range(60, 76), turned=1)
    assert room.cut()["outcome"] == "on trial"


def test_with_too_few_rows_to_say_a_cut_goes_on_trial(folder: pathlib.Path) -> None:
    room = DeskUnderTest(TASKS["table"], folder, learner={"holdout_ratio": 0.2})
    room.take(range(24), steps=0)
    room.desk.bootstrap(lambda: None)
    room.take(range(24, 30), steps=2)

    assert room.cut()["outcome"] == "on trial"


def test_what_the_pre_check_refuses_says_why(folder: pathlib.Path) -> None:
    room = DeskUnderTest(TASKS["table"], folder, learner={"holdout_ratio": 0.2})
    room.take(range(24), steps=0)
    room.desk.bootstrap(lambda: None)
    room.take(range(24, 30))
    room.office._settings = room.office._settings.model_copy(update={"max_bytes": 10})

    cut = room.cut()

    assert cut["outcome"] == "refused"
    assert "more than 10" in str(cut["reason"])
    assert room.progress.trial is None


def test_the_manifest_and_the_status_name_the_student(folder: pathlib.Path) -> None:
    room = released(folder)
    live = room.progress.live
    assert live is not None

    manifest = room.store.get(f"bundles/{live}/manifest.json").data

    assert b'"student": "tabular"' in manifest
    assert room.learner.student.name == "tabular"


def test_a_log_that_is_cut_off_twice_below_one_position_has_two_lines_and_each_once(folder: pathlib.Path) -> None:
    room = DeskUnderTest(TASKS["table"], folder, learner={})
    before = ("pairs", 0, 10, "one", "another")  # as a checkpoint of a version before has it
    for end in (7, 7, 8):  # the second as a loop that was killed before its checkpoint
        room.progress.new_replaced += [before, dataclasses.astuple(Replaced("pairs", 0, 10, "one", "one", end, 5))]
        room.desk.report_gaps()

    other, *cut_off = room.office.ledger.lines()

    assert (other.evidence["replaced_by"], "cut_off_at" in other.evidence) == ("another", False)
    assert [(one.evidence["first"], one.evidence["cut_off_at"], one.evidence["read_from"]) for one in cut_off] == [
        (10, 7, 5),
        (10, 8, 5),
    ]
