"""The intake: what becomes of a record - above all of one that nobody should have sent."""

import contextlib
import pathlib
import sqlite3
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from distill_loop.config import LearnerSection
from distill_loop.gates.promise import Outlook
from distill_loop.gates.trial import TrialIdentity, TrialState
from distill_loop.intake import CLOCK_MESSAGES, CLOCK_SKEW_NS, MAX_STEPS_DUE
from distill_loop.learner.step import Learner
from distill_loop.stream import dedupe as window
from distill_loop.stream.dedupe import Dedupe
from protos import records_pb2 as records
from protos.records import ARM_UNIFORM, ID_BYTES
from protos.tensors import to_record
from protos.topics import LABELS, PAIRS, TRIALS
from tests.support.intakes import MODEL, IntakeUnderTest
from tests.support.learning import same_bits
from tests.support.publishing import NUM_CLASSES, add_row, evaluated_pair, make_pair, make_trial_rows, window_of


@pytest.fixture
def room(tmp_path: pathlib.Path) -> Iterator[IntakeUnderTest]:
    room = IntakeUnderTest(tmp_path / "stream.sqlite")
    yield room
    room.close()


def _strange_input(pair: records.LogitPair, name: str, array: np.ndarray) -> None:
    pair.ClearField("inputs")
    pair.inputs.append(to_record(name, array))


def _no_logits(pair: records.LogitPair) -> None:
    pair.student.version = "student-1"
    pair.student.logits.CopyFrom(to_record("logits", np.zeros((1, 0), np.float32)))


def _probability(value: float) -> Callable[[records.LogitPair], None]:
    def change(pair: records.LogitPair) -> None:
        pair.student.version = "student-1"
        pair.student.logits.CopyFrom(to_record("logits", np.ones((1, NUM_CLASSES), np.float32)))
        pair.arms[0].probability = value

    return change


HOSTILE: dict[str, Callable[[records.LogitPair], object]] = {
    "no teacher": lambda pair: pair.ClearField("teacher"),
    "short id": lambda pair: setattr(pair, "record_id", b"short"),
    "short key": lambda pair: setattr(pair, "input_key", b""),
    "another input": lambda pair: _strange_input(pair, "pixels", window_of(1, 1)),
    "one input too many": lambda pair: pair.inputs.append(to_record("more", window_of(1, 1))),
    "another datatype": lambda pair: _strange_input(pair, "bytes", window_of(1, 1).astype(np.float32)),
    "another width": lambda pair: _strange_input(pair, "bytes", window_of(1, 1)[:, :-1]),
    "two rows": lambda pair: _strange_input(pair, "bytes", np.repeat(window_of(1, 1), 2, axis=0)),
    "too few bytes": lambda pair: setattr(pair.inputs[0], "raw", b"1234"),
    "a teacher of NaN": lambda pair: pair.teacher.output.CopyFrom(
        to_record("output", np.full((1, NUM_CLASSES), np.nan, np.float32))
    ),
    "no student logits": _no_logits,
    "a probability of nought": _probability(0.0),
    "a probability that overflows a weight": _probability(1e-300),
    "a negative probability": _probability(-0.2),
    "a probability of NaN": _probability(float("nan")),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_pair_is_a_dead_letter_and_the_next_is_learned(what: str, room: IntakeUnderTest) -> None:
    hostile = make_pair(1)
    HOSTILE[what](hostile)
    room.writer.raw(PAIRS, 0, records.PairBatch(pairs=[hostile, make_pair(2)]).SerializeToString())

    room.read()

    assert (room.progress.dead, room.progress.learned) == (1, 1)
    assert [pair.record_id for pair in room.learner.pairs] == [make_pair(2).record_id]
    assert [records.PairBatch.FromString(letter.source.value).pairs[0] for letter in room.dead_letters()] == [hostile]
    assert room.consumer.lag() == 0


def test_a_batch_with_columns_is_taken_in_as_one_without(room: IntakeUnderTest) -> None:
    room.progress.live = "a" * 64
    pairs = [make_pair(number, label=number % 2, student_label=0) for number in range(4)]
    for pair in pairs:
        pair.student.version = "a" * 12
    pairs[3].record_id = b"short"
    room.writer.columns(pairs)
    room.writer.pairs(pairs[:1])

    room.read()

    assert [pair.record_id for pair in room.learner.pairs] == [pair.record_id for pair in pairs[:3]]
    assert (room.progress.learned, room.progress.dead, room.progress.repeats) == (3, 1, 1)
    assert room.promise.outlook("a" * 12) == Outlook(wins=1, losses=2, num=3)
    letter = room.dead_letters()[0]
    assert records.PairBatch.FromString(letter.source.value).pairs[0] == pairs[3]


def test_every_dead_record_of_one_message_is_kept(room: IntakeUnderTest) -> None:
    bad = [make_pair(1), make_pair(2)]
    for pair in bad:
        pair.ClearField("teacher")
    room.writer.raw(PAIRS, 0, records.PairBatch(pairs=bad).SerializeToString())

    room.read()

    assert room.progress.dead == len(room.dead_letters()) == 2


@pytest.mark.parametrize("headers", ["", "{", "[]", "7", '{"schema": "2"}', '{"schema": 1, "model": []}'])
def test_a_message_whose_headers_can_not_be_read_stops_nothing(headers: str, room: IntakeUnderTest) -> None:
    room.writer.pairs([make_pair(1)])
    with sqlite3.connect(room.path) as connection:
        connection.execute("UPDATE message SET headers = ?", (headers,))
    connection.close()
    room.writer.pairs([make_pair(2)])

    room.read()

    assert (room.progress.dead, room.progress.learned) == (1, 1)
    assert "schema version" in room.dead_letters()[0].detail


@pytest.mark.parametrize("deterministic", [True, False])
def test_a_deterministic_loop_owes_every_step_of_a_message_with_very_many_pairs(
    deterministic: bool, tmp_path: pathlib.Path
) -> None:
    room = IntakeUnderTest(tmp_path / "other.sqlite", deterministic=deterministic)
    room.writer.pairs([make_pair(number) for number in range(600)])

    room.read()

    earned = 600 * LearnerSection().steps_per_pair
    assert room.intake.learn(None) == int(earned if deterministic else min(earned, MAX_STEPS_DUE))
    room.close()


def test_trial_rows_and_labels_change_no_bit_of_a_deterministic_learner(tmp_path: pathlib.Path) -> None:
    numbers = range(2 * CLOCK_MESSAGES + 10)
    made = [evaluated_pair(number, label=number % 2, incumbent=0, candidate=1) for number in numbers]
    states = []
    for extras in (False, True):
        settings = LearnerSection(seed=1, batch_size=8, buckets=256, embedding=8, hidden=16)
        learner = Learner(settings, MODEL)
        room = IntakeUnderTest(tmp_path / f"{extras}.sqlite", deterministic=True, real_learner=learner)
        room.progress.trial = TrialState(TrialIdentity("t-1", "a" * 64, "b" * 64, 1.0, 1))
        for first in numbers[::2]:
            pairs = made[first : first + 2]
            batch, labels = records.TrialBatch(trial_id="t-1"), records.LabelBatch()
            for pair in pairs:
                add_row(batch, pair, agree=False)
                labels.labels.add(record_id=pair.record_id, label_class=0, known=True, time_unix_ns=pair.time_unix_ns)
            room.writer.pairs(pairs)
            if extras:
                room.writer.raw(TRIALS, 0, batch.SerializeToString())
                room.writer.raw(LABELS, 0, labels.SerializeToString())
        with contextlib.closing(sqlite3.connect(room.path)) as connection, connection:
            late = "CASE WHEN topic LIKE '%pairs' THEN 0 ELSE 1000000000000000000 END"
            connection.execute(f"UPDATE message SET time_unix_ns = 1700000000000000000 + offset + {late}")
        for message in room.intake.poll():
            room.intake.take([message])
            room.intake.learn(None)
        assert room.progress.trial.cautious().total == (len(made) if extras else 0)
        assert (room.labels.status(accepted=None) is not None) == extras
        states.append(learner.state_dict())
        room.close()

    assert states[0]["num_steps"] > 20
    assert same_bits(states[0], states[1])


@pytest.mark.parametrize("deterministic", [True, False])
def test_a_message_from_the_future_does_not_set_the_clock(deterministic: bool, tmp_path: pathlib.Path) -> None:
    room = IntakeUnderTest(tmp_path / "other.sqlite", deterministic=deterministic)
    for number in range(CLOCK_MESSAGES + 1):
        room.writer.pairs([make_pair(number)])
    with contextlib.closing(sqlite3.connect(room.path)) as connection, connection:
        connection.execute("UPDATE message SET time_unix_ns = ? WHERE offset = 3", (2**62,))

    for message in room.intake.poll():
        room.intake.take([message])

    assert room.learner.told_times
    assert max(room.learner.told_times) <= time.time_ns()
    room.close()


def test_a_record_from_the_future_does_not_make_a_newer_teacher_seem_old(tmp_path: pathlib.Path) -> None:
    learner = Learner(LearnerSection(hidden=8, embedding=4, buckets=16, holdout_ratio=0.0), MODEL)
    room = IntakeUnderTest(tmp_path / "stream.sqlite", real_learner=learner)
    early, ahead, newer = make_pair(1), make_pair(2), make_pair(3)
    early.time_unix_ns += CLOCK_SKEW_NS // 2  # another machine's clock
    ahead.time_unix_ns += 365 * 86_400 * 10**9
    newer.time_unix_ns += CLOCK_SKEW_NS
    newer.teacher.version = "teacher-2"
    for pair in (early, ahead, newer):
        room.writer.pairs([pair])
        room.read()
        if pair is early:
            assert room.progress.newest_pair_unix_ns == early.time_unix_ns
    room.close()

    assert room.progress.newest_pair_unix_ns <= newer.time_unix_ns
    assert (room.progress.learned, room.progress.refused) == (3, 0)
    assert learner.teacher_version == "teacher-2"


def test_a_repeat_is_counted_and_not_learned_again(room: IntakeUnderTest) -> None:
    room.writer.pairs([make_pair(1), make_pair(1)])
    room.writer.pairs([make_pair(1)])

    room.read()

    assert (room.progress.learned, room.progress.repeats, room.progress.read) == (1, 2, 3)


def test_a_record_is_judged_before_the_learner_sees_it(room: IntakeUnderTest) -> None:
    room.progress.trial = TrialState(TrialIdentity("t-1", "a" * 64, "b" * 64, 1.0, 1))
    batch, pairs = make_trial_rows("t-1", 5, 0)
    room.writer.trial(batch, pairs)

    room.read()

    assert room.learner.judged_before == [5]
    assert len(room.learner.pairs) == 5
    assert room.progress.trial.certain().wins == 5


def test_a_student_that_raises_loses_no_answer_of_the_teacher_and_counts_none_twice(room: IntakeUnderTest) -> None:
    room.learner.raises = True
    room.progress.live = "a" * 64
    trial = room.progress.trial = TrialState(TrialIdentity("t-1", "a" * 64, "b" * 64, 1.0, 1))
    batch, pairs = make_trial_rows("t-1", 1, 0)
    pairs[0].arms.add(arm=ARM_UNIFORM, probability=0.2)  # one pair for both arms
    pairs[0].student.CopyFrom(make_pair(0, student_label=0).student)
    pairs[0].student.version = "a" * 12

    for _ in range(2):
        room.writer.trial(batch, pairs)
        room.read()

    assert (trial.certain().wins, trial.tally().overall.pending) == (1, 0)
    assert (room.progress.dead, room.progress.repeats, len(room.dead_letters())) == (1, 1, 1)
    estimate = room.agreement.estimate()
    assert estimate is not None
    assert estimate.num == 1
    assert room.promise.outlook("a" * 12).num == 0


def test_a_dead_record_is_known_after_a_restart() -> None:
    dedupe = Dedupe(10)
    fates: list[window.Fate] = ["learned", "held_out", "dead"]
    for number, fate in enumerate(fates):
        dedupe.note(bytes([number]) * ID_BYTES, fate)

    restarted = Dedupe(10)
    restarted.load_state_dict(dedupe.state_dict())

    assert [restarted.records(fate) for fate in fates] == [{bytes([number]) * ID_BYTES} for number in range(3)]


def test_a_record_that_is_noted_again_is_the_newest() -> None:
    dedupe = Dedupe(2)
    notes: list[tuple[int, window.Fate]] = [(1, "dead"), (2, "learned"), (1, "learned"), (3, "learned")]
    for number, fate in notes:
        dedupe.note(bytes([number]) * ID_BYTES, fate)

    assert dedupe.records("learned") == {b"\1" * ID_BYTES, b"\3" * ID_BYTES}


def test_a_fresh_pair_is_asked_of_the_learner_too_before_it_learns_it(room: IntakeUnderTest) -> None:
    room.progress.live = "a" * 64
    pairs = [make_pair(number, label=label, student_label=0) for number, label in enumerate([0, 1, 1, 2])]
    for pair in pairs:
        pair.student.version = "a" * 12
    pairs[3].student.version = "b" * 12  # of the version before: it says nothing of this one
    room.writer.pairs(pairs)

    room.read()

    assert room.promise.outlook("a" * 12) == Outlook(wins=2, losses=1, num=3)
