"""Dead letters of the intake: each kind with its reason, a flood that costs nothing extra, and what is replayed."""

import contextlib
import dataclasses
import pathlib
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from distill_loop.stream.dead_app import replay
from distill_loop.stream.streams import open_writer
from distill_loop.stream.writer import Outgoing
from protos import records_pb2 as records
from protos.errors import UnavailableError
from protos.records import MODEL_HEADER, RECORDS_HEADER, SCHEMA_HEADER
from protos.tensors import to_record
from protos.topics import LABELS, PAIRS, REPORTS, TRIALS
from tests.support.intakes import MODEL, IntakeUnderTest
from tests.support.publishing import NUM_CLASSES, make_pair

HEADERS = {SCHEMA_HEADER: "1", MODEL_HEADER: MODEL.name, RECORDS_HEADER: "1"}
GOOD = records.PairBatch(pairs=[make_pair(1)]).SerializeToString()


@pytest.fixture
def room(tmp_path: pathlib.Path) -> Iterator[IntakeUnderTest]:
    room = IntakeUnderTest(tmp_path / "stream.sqlite")
    yield room
    room.close()


def send(room: IntakeUnderTest, *values: bytes, kind: str = PAIRS, **headers: str) -> None:
    open_writer(room.stream, MODEL.name).write([Outgoing(kind, 0, {**HEADERS, **headers}, value) for value in values])


@pytest.mark.parametrize(
    ("value", "headers", "reason", "num"),
    [
        (b"\xff rubbish", {}, "undecodable", 1),
        (b"\xff rubbish", {RECORDS_HEADER: "7"}, "undecodable", 7),
        (b"\xff rubbish", {RECORDS_HEADER: "999999999"}, "undecodable", 9),
        (b"\xff" * 5000, {RECORDS_HEADER: "999999999"}, "undecodable", 4096),
        (b"\xff rubbish", {RECORDS_HEADER: "-7"}, "undecodable", 1),
        (b"\xff rubbish", {RECORDS_HEADER: "9" * 40}, "undecodable", 1),
        (GOOD, {SCHEMA_HEADER: "2"}, "wrong_schema", 1),
        (GOOD, {MODEL_HEADER: "another"}, "wrong_model", 1),
        (GOOD + b"\x00" * 2**20, {}, "oversized", 1),
    ],
)
def test_a_message_that_can_not_be_taken_in_is_kept_as_it_was(
    value: bytes, headers: dict[str, str], reason: str, num: int, room: IntakeUnderTest
) -> None:
    send(room, value, **headers)
    room.writer.pairs([make_pair(2)])

    room.read()

    (letter,) = room.dead_letters()
    assert (letter.reason, letter.source.value, letter.source.offset) == (reason, value, 0)
    assert letter.source.headers == {**HEADERS, **headers}
    progress = room.progress
    assert (progress.dead, progress.learned, progress.read, progress.taken) == (num, 1, num + 1, num + 1)


@pytest.mark.parametrize("kind", [TRIALS, LABELS, REPORTS])
def test_rubbish_on_another_topic_is_a_dead_letter_and_no_pair(kind: str, room: IntakeUnderTest) -> None:
    send(room, b"\xff rubbish", kind=kind)

    room.read()

    assert [(letter.source.kind, letter.reason) for letter in room.dead_letters()] == [(kind, "undecodable")]
    assert room.progress.read == 0
    assert room.progress.dead_others == {kind: 1}
    assert room.consumer.lag() == 0


def _spoilt(pair: records.LogitPair) -> None:
    pair.teacher.output.CopyFrom(to_record("output", np.full((1, NUM_CLASSES), np.nan, np.float32)))


POISON: dict[str, Callable[[records.LogitPair], object]] = {
    "non_finite": _spoilt,
    "no_teacher": lambda pair: pair.ClearField("teacher"),
    "wrong_kind": lambda pair: setattr(pair.teacher, "kind", records.OUTPUT_KIND_LABEL),
    "wrong_bytes": lambda pair: setattr(pair.inputs[0], "raw", b"1234"),
    "wrong_shape": lambda pair: pair.inputs[0].shape.append(1),
    "wrong_datatype": lambda pair: pair.inputs[0].CopyFrom(to_record("bytes", np.zeros((1, 128), np.float32))),
    "wrong_inputs": lambda pair: pair.ClearField("inputs"),
    "bad_identity": lambda pair: setattr(pair, "input_key", b""),
}


def test_a_flood_of_poison_is_written_in_a_few_goes_and_hides_no_pair(room: IntakeUnderTest) -> None:
    values = []
    for number in range(10_000):
        pair = make_pair(number)
        list(POISON.values())[number % len(POISON)](pair)
        values.append(records.PairBatch(pairs=[pair]).SerializeToString())
    send(room, *values)
    room.writer.pairs([make_pair(number) for number in range(20_000, 20_100)])

    while room.consumer.lag():
        room.intake.take(room.intake.poll())
    room.letters.flush()

    assert (room.progress.dead, room.progress.learned) == (10_000, 100)
    assert len(room.written) == 1
    letters = room.dead_letters()
    assert len(letters) == 10_000
    assert [letter.reason for letter in letters[: len(POISON)]] == list(POISON)


def test_messages_that_lie_about_their_records_make_no_poll_small(room: IntakeUnderTest) -> None:
    send(room, *[b"\xff" * 5000] * 300, **{RECORDS_HEADER: "999999999"})
    num_polls = 0
    while room.consumer.lag():
        room.read()
        num_polls += 1

    assert num_polls == 4  # 64, then a hundred messages each, as IntakeUnderTest asks for


def test_in_a_flood_that_the_dead_topic_does_not_take_the_loop_waits_and_its_memory_does_not_grow(
    room: IntakeUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("distill_loop.stream.dead_letter.MAX_WAITING_BYTES", 50_000)
    takes = {"writes": False}

    def write(messages: list[Outgoing]) -> None:
        if not takes["writes"]:
            raise UnavailableError("the stream is away: a fault of this test")
        open_writer(room.stream, MODEL.name).write(messages)

    monkeypatch.setattr(room, "write", write)
    send(room, *[b"\xff" * 1000] * 500)
    room.writer.pairs([make_pair(1)])
    read = [room.progress.dead]
    for _ in range(8):
        with contextlib.suppress(UnavailableError):
            room.intake.take(room.intake.poll())
        read.append(room.progress.dead)
    assert 0 < read[-1] <= 50 + 100  # what fits, and the poll in which it was reached
    assert read[-4:] == [read[-1]] * 4
    assert (room.consumer.lag(), room.progress.learned) == (501 - read[-1], 0)

    takes["writes"] = True
    while room.consumer.lag():
        room.read()

    assert (room.progress.dead, room.progress.learned) == (500, 1)
    assert [letter.source.offset for letter in room.dead_letters()] == list(range(500))


def test_a_replayed_record_that_was_dead_is_taken_and_one_that_was_learned_is_not(room: IntakeUnderTest) -> None:
    room.progress.live = "a" * 64
    pairs = [make_pair(number, student_label=1) for number in range(2)]
    _spoilt(pairs[0])
    room.writer.pairs(pairs)
    room.read()
    (letter,) = room.dead_letters()
    mended = make_pair(0, student_label=1)
    both = records.PairBatch(pairs=[mended, pairs[1]]).SerializeToString()
    source = dataclasses.replace(letter.source, value=both)

    for _ in range(2):
        assert replay(room.stream, MODEL.name, [dataclasses.replace(letter, source=source)]) == 1
        room.read()

    progress = room.progress
    assert [pair.record_id for pair in room.learner.pairs] == [pairs[1].record_id, mended.record_id]
    assert (progress.learned, progress.dead, progress.repeats, progress.replayed) == (2, 1, 3, 4)
    assert progress.taken == progress.read == 2 + progress.replayed  # what the mirror sent, and what was sent again
    estimate = room.agreement.estimate()
    assert estimate is not None
    assert estimate.num == 1  # a replayed record is old traffic: it says nothing of what serves now


def test_what_the_mirror_sends_again_is_a_repeat_though_it_was_dead(room: IntakeUnderTest) -> None:
    pair = make_pair(0)
    _spoilt(pair)
    room.writer.pairs([pair])
    room.read()
    room.writer.pairs([make_pair(0)])

    room.read()

    assert (room.progress.dead, room.progress.repeats, room.progress.learned) == (1, 1, 0)
