"""From rows to messages: columns where rows look alike, pairs of their own where they don't, and never more than a message may hold."""

import numpy as np
import pytest

from protos import columns
from protos import records_pb2 as records
from protos.errors import TensorError
from protos.tensors import Array, strings, to_record
from serving.shadow.message import Message
from serving.shadow.pairs import labels_of, messages_of, pair_of, trial_message
from serving.shadow.rows import Row, RowReader, TeacherSaid, answers_of, inputs_of, lots_of
from tests.support.shadow import make_sample

EVERYTHING = 2**30


def row_of(sample: records.Sample, output_BC: Array | None = None) -> Row:
    row = RowReader().row_of(sample)
    form, (raw,) = answers_of("output", np.ones((1, 3), np.float32) if output_BC is None else output_BC)
    row.teacher = TeacherSaid("teacher-1", records.OUTPUT_KIND_LOGITS, 0.5, 2.0, form, raw)
    return row


def unpacked(messages: list[Message]) -> list[records.LogitPair]:
    batches = [records.PairBatch.FromString(message.value) for message in messages]
    return [pair for batch in batches for pair in columns.unpack(batch)]


def test_rows_that_look_alike_share_columns_and_lose_nothing() -> None:
    samples = [make_sample(number) for number in range(20)]
    samples[3].slice, samples[4].client_tag, samples[5].subject_tag = "eu", b"c" * 16, b"s" * 16
    rows = [row_of(sample) for sample in samples]
    rows[6].trial = records.TrialAnswer(trial_id="t", candidate_class=2)

    messages, oversized = messages_of(rows, 2, EVERYTHING)

    assert not oversized
    assert all(records.PairBatch.FromString(message.value).HasField("columns") for message in messages)
    assert sum(message.num_records for message in messages) == 20
    by_id = {pair.record_id: pair for pair in unpacked(messages)}
    assert by_id == {row.record.record_id: pair_of(row) for row in rows}
    assert [dict(message.rows) for message in messages] == [{"served": message.num_records} for message in messages]


def test_rows_that_do_not_look_alike_are_never_in_one_message() -> None:
    passed_through = make_sample(2)
    passed_through.ClearField("student")
    passed_through.stratum = "pass_through"
    texts = make_sample(3)
    texts.inputs[0].CopyFrom(to_record("text", strings(["a", "bb"])[None]))
    rows = [
        row_of(make_sample(0)),
        row_of(make_sample(1, width=8)),
        row_of(passed_through),
        row_of(texts),
        row_of(make_sample(4), np.ones((1, 3), np.float64)),
    ]

    messages, _ = messages_of(rows, 1, EVERYTHING)

    assert [message.num_records for message in messages] == [1] * 5
    assert unpacked(messages) == [pair_of(row) for row in rows]
    assert messages[2].rows == (("pass_through", 1),)


def test_a_tensor_that_is_not_one_row_stays_with_its_pair() -> None:
    sample = make_sample(0)
    sample.inputs[0].CopyFrom(to_record("bytes", np.zeros((2, 4), np.int32)))
    rows = [row_of(sample), row_of(sample)]

    (message,), _ = messages_of(rows, 1, EVERYTHING)

    batch = records.PairBatch.FromString(message.value)
    assert not batch.HasField("columns")
    assert list(batch.pairs) == [pair_of(row) for row in rows]


def test_messages_are_split_and_a_row_that_is_larger_than_one_is_told() -> None:
    rows = [row_of(make_sample(number, width=1000)) for number in range(10)]
    huge = row_of(make_sample(10, width=10_000))

    messages, oversized = messages_of([*rows[:5], huge, *rows[5:]], 1, 20_000)

    assert oversized == [huge]
    assert all(len(message.value) <= 20_000 for message in messages)
    assert unpacked(messages) == [pair_of(row) for row in rows]


def test_feedback_of_a_record_is_always_in_one_partition() -> None:
    labels = [records.Label(record_id=bytes(8) + bytes([number % 3] * 8), label=str(number)) for number in range(9)]

    messages = labels_of(labels, 4)

    places: dict[bytes, set[int]] = {}
    for message in messages:
        for label in records.LabelBatch.FromString(message.value).labels:
            places.setdefault(label.record_id, set()).add(message.partition)
    assert all(len(partitions) == 1 for partitions in places.values())
    assert sum(dict(message.rows)["labels"] for message in messages) == 9


def test_a_trials_message_is_the_fate_of_rows_that_no_pair_follows() -> None:
    batch = records.TrialBatch(rows=[records.TrialRow()] * 5)

    message = trial_message(batch, ["served", "served"])

    assert (message.num_records, message.rows) == (5, (("served", 2),))


def test_rows_are_asked_about_in_lots_of_one_form() -> None:
    rows = [row_of(make_sample(number, width=4 + 4 * (number % 2))) for number in range(7)]

    lots = lots_of(rows, 3)

    assert sorted(map(len, lots)) == [1, 3, 3]
    assert {len(inputs_of(lot)["bytes"][0]) for lot in lots} == {4, 8}
    assert inputs_of(lots[0])["bytes"][:, 0].tolist() == [0, 2, 4]


def test_a_row_whose_bytes_do_not_fit_its_form_can_not_be_asked_about() -> None:
    long, short = make_sample(0), make_sample(1)
    long.inputs[0].raw += bytes(4)
    short.inputs[0].raw = short.inputs[0].raw[4:]

    with pytest.raises(TensorError):
        inputs_of([row_of(long), row_of(short)])
