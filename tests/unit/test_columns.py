"""Columns of a batch: pairs get their tensors back from it, bit for bit, and hostile columns are found."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distill_loop.learner.reading import PairReader
from protos import records_pb2 as records
from protos.columns import unpack
from protos.errors import RecordError
from protos.tensors import strings, to_record
from registry.sections import ModelSection, TensorSpec
from tests.support.packing import pack

MODEL = ModelSection(
    num_classes=3,
    inputs=(
        TensorSpec(name="text", datatype="BYTES", shape=(-1,)),
        TensorSpec(name="numbers", datatype="FP32", shape=(-1, 2)),
    ),
)


def make_pair(
    number: int, *, text: str = "", student: bool = True, kind: int = records.OUTPUT_KIND_LOGITS
) -> records.LogitPair:
    pair = records.LogitPair(record_id=number.to_bytes(16, "big"), input_key=b"k" * 16, time_unix_ns=number)
    pair.inputs.append(to_record("text", strings([text])))
    pair.inputs.append(to_record("numbers", np.array([[number, -number]], np.float32)))
    pair.teacher.version, pair.teacher.kind = "teacher-1", kind
    pair.teacher.output.CopyFrom(to_record("output", np.array([[number, 1, -1]], np.float16)))
    if student:
        pair.student.version = "student-1"
        pair.student.logits.CopyFrom(to_record("logits", np.array([[0, number, 1]], np.float32)))
    return pair


def copies_of(pairs: list[records.LogitPair]) -> list[records.LogitPair]:
    return [records.LogitPair.FromString(pair.SerializeToString()) for pair in pairs]


@given(st.lists(st.text(max_size=5), max_size=6), st.booleans())
def test_pairs_come_back_as_they_were(texts: list[str], student: bool) -> None:
    pairs = [make_pair(number, text=text, student=student) for number, text in enumerate(texts)]

    batch = records.PairBatch.FromString(pack(copies_of(pairs)).SerializeToString())

    assert unpack(batch) == pairs
    assert not any(pair.inputs or pair.teacher.HasField("output") for pair in batch.pairs)


def test_both_forms_teach_the_same() -> None:
    pairs = [make_pair(number, text="abc"[:number]) for number in range(4)]
    reader = PairReader(MODEL)
    opened = [reader.open(records.PairBatch(pairs=pairs)), reader.open(pack(copies_of(pairs)))]

    own, shared = ([(one, place) for place in range(4)] for one in opened)

    assert reader.top_classes(own) == reader.top_classes(shared) == [2, 1, 1, 1]
    for left, right in zip(reader.read(own), reader.read(shared), strict=True):
        assert not isinstance(left, RecordError)
        assert not isinstance(right, RecordError)
        assert (left.record_id, left.time_unix_ns, left.teacher_version) == (
            right.record_id,
            right.time_unix_ns,
            right.teacher_version,
        )
        assert left.teacher_probabilities_C.tobytes() == right.teacher_probabilities_C.tobytes()
        assert left.num_bytes == right.num_bytes
        assert all((left.inputs[name] == right.inputs[name]).all() for name in ("text", "numbers"))
        assert right.inputs["numbers"].base is None  # it doesn't keep the whole message in memory


HOSTILE: dict[str, tuple[Callable[[records.PairBatch], object], str]] = {
    "a row too few": (lambda batch: batch.pairs.add(), "wrong_shape"),
    "another input": (lambda batch: setattr(batch.columns.inputs[0], "name", "pixels"), "wrong_inputs"),
    "an input twice": (lambda batch: batch.columns.inputs.append(batch.columns.inputs[1]), "wrong_inputs"),
    "another datatype": (lambda batch: setattr(batch.columns.inputs[1], "datatype", "INT32"), "wrong_datatype"),
    "bytes that are cut off": (lambda batch: setattr(batch.columns.inputs[1], "raw", b"123"), "wrong_bytes"),
    "an impossible shape": (lambda batch: batch.columns.student_logits.shape.append(-1), "wrong_shape"),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_batch_with_hostile_columns_is_refused_with_a_reason(what: str) -> None:
    batch = pack([make_pair(number) for number in range(3)])
    change, reason = HOSTILE[what]
    change(batch)

    with pytest.raises(RecordError) as refused:
        PairReader(MODEL).open(batch)

    assert refused.value.reason == reason


def test_a_bad_row_is_refused_alone() -> None:
    pairs = [make_pair(number, kind=records.OUTPUT_KIND_PROBABILITIES) for number in range(3)]
    pairs[1].teacher.output.CopyFrom(to_record("output", np.array([[0.5, 0.25, 0.25]], np.float16)))
    reader = PairReader(MODEL)
    opened = reader.open(pack(copies_of(pairs)))

    told = reader.read([(opened, place) for place in range(3)])

    assert [one.reason if isinstance(one, RecordError) else "" for one in told] == [
        "not_probabilities",
        "",
        "not_probabilities",
    ]
    assert opened.alone(1) == pairs[1]
