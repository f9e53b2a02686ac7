"""The intake while a trial is open: which rows, answers, labels and scores reach it, and when it ends."""

import pathlib
from collections.abc import Iterator

import pytest

from distill_loop.gates.rule import Rule
from distill_loop.gates.trial import TrialIdentity, TrialState
from distill_loop.gates.verdict import decide
from protos import records_pb2 as records
from protos.records import mint_record_id
from protos.topics import LABELS, TRIALS
from tests.support.intakes import IntakeUnderTest
from tests.support.publishing import NUM_CLASSES, add_row, evaluated_pair, make_pair, make_trial_rows


@pytest.fixture
def room(tmp_path: pathlib.Path) -> Iterator[IntakeUnderTest]:
    room = IntakeUnderTest(tmp_path / "stream.sqlite")
    yield room
    room.close()


def test_a_trial_row_without_an_identity_is_no_evidence(room: IntakeUnderTest) -> None:
    room.progress.trial = TrialState(TrialIdentity("t-1", "a" * 64, "b" * 64, 1.0, 1))
    batch, pairs = make_trial_rows("t-1", 5, 0)
    batch.rows[2].record_id = b""
    room.writer.trial(batch, pairs[:0])

    room.read()

    assert room.progress.trial.cautious().total == 0
    assert room.progress.dead_others == {TRIALS: 1}
    assert [letter.reason for letter in room.dead_letters()] == ["bad_identity"]


@pytest.mark.parametrize("rows_come", [True, False])
def test_a_trial_whose_traffic_repeats_itself_or_gives_no_rows_ends(rows_come: bool, room: IntakeUnderTest) -> None:
    trial = room.progress.trial = TrialState(TrialIdentity("t-1", "a" * 64, "b" * 64, 1.0, 1))
    rule, ends = Rule(stalled_pairs=30), []

    for number in range(6):
        if rows_come:
            room.writer.trial(*make_trial_rows("t-1", 8, 0))  # the same eight inputs
        else:
            room.writer.pairs([make_pair(10 * number + place) for place in range(8)])
        room.read()
        ends.append(decide(rule, trial.tally(), trial.wait).final)

    assert trial.cautious().total == (8 if rows_come else 0)
    assert ends == [False] * (4 if rows_come else 3) + [True] * (2 if rows_come else 3)


def test_rows_of_another_trial_are_no_evidence(room: IntakeUnderTest) -> None:
    room.progress.trial = TrialState(TrialIdentity("t-2", "a" * 64, "b" * 64, 1.0, 1))
    room.writer.trial(*make_trial_rows("t-1", 5, 0))

    room.read()

    assert room.progress.trial.cautious().total == 0
    assert room.progress.learned == 5


def test_a_row_of_the_open_trial_is_a_duel_too_and_counts_once(room: IntakeUnderTest) -> None:
    room.progress.live = "a" * 64
    room.progress.trial = TrialState(TrialIdentity("t-1", "a" * 64, "b" * 64, 1.0, 1))
    pairs = [
        evaluated_pair(0, label=0, incumbent=1, candidate=0),
        evaluated_pair(1, label=1, incumbent=1, candidate=1),
        evaluated_pair(2, label=2, incumbent=0, candidate=1, trial_id="t-0"),  # late, of a trial that is over
    ]
    room.writer.pairs(pairs)
    room.read()
    room.writer.pairs(pairs)
    room.read()

    duel = room.promise.duel("t-1")
    assert (duel.candidate.wins, duel.candidate.losses, duel.candidate.num) == (1, 0, 2)
    assert room.promise.outlook("a" * 12).num == 3
    assert room.progress.repeats == 3
    estimate = room.agreement.estimate()
    assert estimate is not None
    assert estimate.num == 3


def test_a_repeat_of_an_input_in_a_trial_is_no_further_duel(room: IntakeUnderTest) -> None:
    room.progress.live = "a" * 64
    trial = room.progress.trial = TrialState(TrialIdentity("t-1", "a" * 64, "b" * 64, 1.0, 1))
    pair = evaluated_pair(0, label=0, incumbent=1, candidate=0)
    trial.add_row(b"\0" * 16, pair.input_key, pair.time_unix_ns, agree=False)
    room.writer.pairs([pair])
    room.read()

    assert room.promise.duel("t-1").candidate.num == 0


def test_labels_slices_and_scores_reach_the_open_trial(room: IntakeUnderTest) -> None:
    trial = room.progress.trial = TrialState(
        TrialIdentity("t-1", "a" * 64, "b" * 64, 1.0, 1, Rule(large_slices=("de",)))
    )
    pairs = [evaluated_pair(number, label=1, incumbent=0, candidate=1) for number in range(3)]
    batch, labels = records.TrialBatch(trial_id="t-1"), records.LabelBatch()
    for number, pair in enumerate(pairs):
        pair.record_id, pair.slice = mint_record_id(), "de" if number else "fr"
        pair.trial.brier_base, pair.trial.brier_slope = 0.25, bytes(2 * NUM_CLASSES)
        add_row(batch, pair, agree=False)
        batch.rows[-1].slice, batch.rows[-1].candidate_class = pair.slice, 1
        for label_class in (1, 0):  # the first one counts
            labels.labels.add(
                record_id=pair.record_id, label_class=label_class, known=True, time_unix_ns=pair.time_unix_ns
            )
    pairs[0].ClearField("arms")  # not of the uniform arm: its score was chosen by what the students said
    room.writer.raw(LABELS, 0, labels.SerializeToString())
    room.writer.trial(batch, pairs)

    room.read()

    tally = trial.tally()
    assert (tally.slice("de").wins, tally.beside.wins) == (2, 1)
    assert (tally.labels.wins, tally.labels.total) == (3, 3)
    assert tally.brier == (0.25, 0.25)
    assert room.slices.shares() == {}  # of the two rows that were taken blindly both are "de"
