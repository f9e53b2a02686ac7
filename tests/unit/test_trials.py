"""Trials: by which rule one is opened, what closes it, what its ledger line says, and what observe_only leaves undone."""

import json
import pathlib
import time
from collections.abc import Mapping
from typing import Any, cast

import numpy as np
import pytest

from distill_loop.config import GateSection, ReleaseSection
from distill_loop.gates.promise import Promise
from distill_loop.gates.rejudge import rejudge
from distill_loop.gates.slices import SliceShares
from distill_loop.gates.trial import Answer, TrialState
from distill_loop.learner.step import Learner
from distill_loop.progress import Progress
from distill_loop.release.office import ReleaseOffice
from distill_loop.trials import Trials
from protos.tensors import Array
from registry.fetching import Policy
from registry.ledger import Line
from registry.sections import ModelSection
from registry.store import ObjectStore, open_store

INCUMBENT, CANDIDATES = "a" * 64, tuple(letter * 64 for letter in "bcde")
MODEL = ModelSection(name="tiny", num_classes=2)


class FakeArtifact:
    """A version of so many bytes that answers class 0."""

    num_bytes = 1_000

    def logits(self, inputs: Mapping[str, Array]) -> Array:
        """Return logits."""
        return np.array([[1.0, 0.0]] * len(inputs["bytes"]), np.float32)


class Office(ReleaseOffice):
    """A release office whose versions are made of nothing."""

    def artifact(self, digest: str) -> Any:
        """Return a version."""
        return FakeArtifact()


class FakeLearner:
    """What trials ask of a learner."""

    teacher_version = "teacher-1"


class Room:
    """Trials on a registry in memory, with a live version."""

    def __init__(self, tmp_path: pathlib.Path, *, gate: dict[str, object] | None, observe_only: bool) -> None:
        self.store = open_store("memory://")
        self.progress, self.learner = Progress(), FakeLearner()
        self.slices, self.teacher_away = SliceShares(), False
        self.office = Office(
            self.store, MODEL, ReleaseSection(), cache=tmp_path, policy=Policy(), epoch=1, actor="a test", text_bytes=8
        )
        self.trials = Trials(
            self.progress,
            cast(Learner, self.learner),
            self.office,
            gate=GateSection.model_validate(gate or {}),
            observe_only=observe_only,
            promise=Promise(),
            slices=self.slices,
            teacher_away=lambda: self.teacher_away,
        )
        self.office.bootstrap(INCUMBENT, {})
        self.trials.adopt_live()

    def open(self, candidate: str) -> TrialState:
        """Open a trial of a candidate."""
        assert self.progress.live is not None
        self.trials.open(self.progress.live, candidate, {"bytes": np.zeros((3, 2))}, lambda: None)
        return open_trial(self)


def on_trial(tmp_path: pathlib.Path, *, gate: dict[str, object] | None = None, observe_only: bool = False) -> Room:
    """Return a room with an open trial."""
    room = Room(tmp_path, gate=gate, observe_only=observe_only)
    room.open(CANDIDATES[0])
    return room


def play(trial: TrialState, num_rows: int, *, winner: str = "candidate", slice_: str = "", first: int = 0) -> None:
    """Let a trial have rows on which the students differ, each answered."""
    for number in range(first, first + num_rows):
        key, now = number.to_bytes(16, "big"), time.time_ns() + 10**12
        trial.add_row(key, key, now, agree=False, slice_=slice_, incumbent_class=0, candidate_class=1)
        trial.add_answer(key, key, now, Answer(0, 1, int(winner == "candidate"), trial.teacher_version))


def open_trial(room: Room) -> TrialState:
    assert room.progress.trial is not None
    return room.progress.trial


def line_of(room: Room, trial: TrialState) -> Line:
    line = room.office.ledger.find(trial.identity.trial_id)
    assert line is not None
    return line


def kept(store: ObjectStore, trial: TrialState) -> bytes:
    return store.get(f"models/{MODEL.name}/trials/{trial.identity.trial_id}.jsonl").data


def test_a_pass_is_promoted_and_its_line_and_rows_are_all_that_judging_again_needs(tmp_path: pathlib.Path) -> None:
    room = on_trial(tmp_path)
    trial = open_trial(room)
    play(trial, 40)

    assert room.trials.close_decided()

    line = line_of(room, trial)
    assert (line.kind, line.evidence["verdict"], line.evidence["cause"]) == ("promote", "PASS", "certified")
    assert room.progress.live == trial.identity.candidate
    assert (line.evidence["wins"], line.evidence["losses"], line.evidence["total"]) == (40, 0, 40)
    again = rejudge(kept(room.store, trial), line.evidence)
    assert again.differences == ()
    assert again.decision.verdict == "PASS"


def test_observe_only_writes_the_verdict_and_promotes_nothing(tmp_path: pathlib.Path) -> None:
    room = on_trial(tmp_path, observe_only=True)
    trial, live = open_trial(room), room.progress.live
    play(trial, 40)

    assert room.trials.close_decided()

    line = line_of(room, trial)
    assert (line.kind, line.evidence["verdict"], line.moves_live) == ("observe", "PASS", False)
    assert room.progress.live == live
    pointer = room.office.pointers.live()
    assert pointer is not None
    assert pointer.digest == live
    assert room.office.pointers.trial() is None
    assert room.open(CANDIDATES[1]).identity.incumbent == live  # the next one


def test_a_rule_is_fixed_when_the_candidate_is_frozen(tmp_path: pathlib.Path) -> None:
    room = on_trial(tmp_path, gate={"error_rate": "regulated", "slice_rows": 9_000})
    trial = open_trial(room)
    assert trial.rule.alpha == pytest.approx(0.1 / (2.13 * 2 * 0.480453), rel=1e-4)
    for number in range(100):
        room.slices.observe("de" if number % 2 else "fr" if number % 4 else "it", 0.5)
    play(trial, 30, winner="incumbent")
    room.trials.close_decided()

    second = room.open(CANDIDATES[1])
    assert second.rule.alpha == pytest.approx(0.1 / (2.13 * 3 * 1.206949), rel=1e-4)
    assert (second.rule.large_slices, second.rule.small_slices) == (("de",), ("fr", "it"))
    restored = TrialState.from_state_dict(second.state_dict())
    assert (restored.rule, restored.identity) == (second.rule, second.identity)
    assert line_of(room, trial).evidence["rule"]["alpha"] == trial.rule.alpha


def test_a_candidate_that_is_worse_on_one_slice_is_rejected_though_it_is_better_overall(tmp_path: pathlib.Path) -> None:
    room = on_trial(tmp_path)
    for number in range(100):
        room.slices.observe("de" if number % 2 else "fr", 0.5)
    trial = room.open(CANDIDATES[1])  # the first one makes room
    play(trial, 400, slice_="de")
    assert not room.trials.close_decided()  # nothing is known of the other slice

    play(trial, 40, slice_="fr", winner="incumbent", first=1_000)
    assert room.trials.close_decided()

    line = line_of(room, trial)
    assert (line.kind, line.evidence["cause"]) == ("reject", "veto")
    assert line.evidence["reason"].startswith("slice 'fr': 0 wins, 40 losses in 40 requests")
    assert rejudge(kept(room.store, trial), line.evidence).differences == ()


def test_a_teacher_outage_promotes_nothing_and_rejects_nothing(tmp_path: pathlib.Path) -> None:
    room = on_trial(tmp_path)
    trial = open_trial(room)
    play(trial, 30, winner="incumbent")
    room.teacher_away = True
    assert not room.trials.close_decided()
    room.teacher_away = False
    assert room.trials.close_decided()

    assert line_of(room, trial).kind == "reject"


@pytest.mark.parametrize("why", ["teacher", "incumbent", "alarm"])
def test_what_changes_the_question_ends_a_trial_without_a_verdict(why: str, tmp_path: pathlib.Path) -> None:
    room = on_trial(tmp_path)
    trial, live = open_trial(room), room.progress.live
    play(trial, 40)  # enough for a PASS, of the old question
    sentences = {
        "teacher": f"the teacher changed from {trial.teacher_version} to teacher-2",
        "incumbent": "the incumbent changed",
        "alarm": "disagreement has risen",
    }

    if why == "teacher":
        room.learner.teacher_version = "teacher-2"
        assert room.trials.close_decided()
    elif why == "incumbent":
        room.progress.live = "f" * 64
        assert room.trials.close_decided()
    else:
        room.trials.close("alarm", sentences[why])

    line = line_of(room, trial)
    assert (line.kind, line.evidence["closed"], line.evidence["reason"]) == ("inconclusive", why, sentences[why])
    assert room.progress.trial is None
    assert room.progress.live == live
    assert rejudge(kept(room.store, trial), line.evidence).differences == ()
    room.trials.close("alarm", "twice is once")


def test_what_another_teacher_says_is_no_evidence(tmp_path: pathlib.Path) -> None:
    trial = open_trial(on_trial(tmp_path))
    key, now = bytes(16), time.time_ns() + 10**12
    trial.add_row(key, key, now, agree=False, incumbent_class=0, candidate_class=1)

    assert not trial.add_answer(key, key, now, Answer(0, 1, 1, "teacher-2"))

    assert trial.tally().overall.pending == 1


def test_a_smaller_candidate_is_asked_not_to_be_worse(tmp_path: pathlib.Path) -> None:
    room = on_trial(tmp_path, gate={"smaller_ratio": 1.0, "smaller_margin": 0.02})

    rule = open_trial(room).rule

    assert (rule.margin, rule.max_rows) == (0.02, 60_000)


def test_a_trial_of_a_version_that_kept_no_rule_ends_at_the_start(tmp_path: pathlib.Path) -> None:
    room = on_trial(tmp_path)
    state: dict[str, Any] = open_trial(room).state_dict()
    for name in ("rule", "teacher_version"):
        del state["identity"][name]
    state["rows"] = [(bytes(16), bytes(16), "win", 1.0, True)]
    trial = room.progress.trial = TrialState.from_state_dict(state)

    room.trials.reconcile()

    assert line_of(room, trial).evidence["closed"] == "upgrade"
    assert kept(room.store, trial) == b""


def test_status_shows_every_criterion_in_words(tmp_path: pathlib.Path) -> None:
    room = on_trial(tmp_path)
    play(open_trial(room), 3)

    decision = room.trials.look()

    assert decision is not None
    assert [one.words for one in decision.criteria] == [
        "overall: 3 wins, 0 losses in 3 requests; evidence 1.9 of 100 that it is better"
    ]
    json.dumps(decision.as_evidence(), allow_nan=False)
