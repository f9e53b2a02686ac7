"""What a record must hold to be learned from."""

import numpy as np
import pytest

from distill_loop.learner.pair import TrainingPair, from_pair_record
from protos import records_pb2 as records
from protos.errors import FormatError
from protos.tensors import to_record

LOGITS, PROBABILITIES = records.OUTPUT_KIND_LOGITS, records.OUTPUT_KIND_PROBABILITIES


def make_record(output: list[float], kind: int, dtype: type = np.float32) -> records.LogitPair:
    record = records.LogitPair(record_id=b"r" * 16, input_key=b"k" * 16, time_unix_ns=7)
    record.inputs.append(to_record("bytes", np.arange(4, dtype=np.int32)[None]))
    record.teacher.version, record.teacher.kind = "teacher-1", kind
    record.teacher.output.CopyFrom(to_record("output", np.array([output], dtype)))
    return record


def test_logits_become_their_softmax() -> None:
    pair = from_pair_record(make_record([0.0, np.log(3.0), -50.0], LOGITS), 3)

    np.testing.assert_allclose(pair.teacher_probabilities_C, [0.25, 0.75, 0.0], atol=1e-7)
    assert pair.teacher_probabilities_C.dtype == np.float32


def test_large_logits_do_not_overflow() -> None:
    pair = from_pair_record(make_record([1e30, 0.0, -1e30], LOGITS), 3)

    assert pair.teacher_probabilities_C.tolist() == [1.0, 0.0, 0.0]


def test_half_precision_probabilities_are_made_to_sum_to_one() -> None:
    pair = from_pair_record(make_record([0.3333, 0.3333, 0.3333], PROBABILITIES, np.float16), 3)

    assert pair.teacher_probabilities_C.sum() == pytest.approx(1.0, abs=1e-6)


def test_a_record_keeps_what_names_it() -> None:
    pair = from_pair_record(make_record([0.2, 0.8], PROBABILITIES), 2)

    assert (pair.record_id, pair.input_key, pair.time_unix_ns) == (b"r" * 16, b"k" * 16, 7)
    assert pair.teacher_version == "teacher-1"
    assert pair.teacher_class == 1
    assert pair.inputs["bytes"].tolist() == [[0, 1, 2, 3]]


@pytest.mark.parametrize(
    ("output", "kind", "said"),
    [
        ([0.5, 0.5], PROBABILITIES, "2 classes"),
        ([0.5, 0.5, np.nan], PROBABILITIES, "NaN"),
        ([0.5, 0.5, np.inf], LOGITS, "infinity"),
        ([1.2, -0.1, -0.1], PROBABILITIES, "not probabilities"),
        ([0.5, 0.5, 0.5], PROBABILITIES, "not probabilities"),
        ([0.0, 0.0, 0.0], PROBABILITIES, "not probabilities"),
        ([1.0, 0.0, 0.0], records.OUTPUT_KIND_LABEL, "of kind"),
        ([1.0, 0.0, 0.0], records.OUTPUT_KIND_UNSPECIFIED, "of kind"),
    ],
)
def test_an_output_that_cannot_be_learned_from_is_refused(output: list[float], kind: int, said: str) -> None:
    with pytest.raises(FormatError, match=said):
        from_pair_record(make_record(output, kind), 3)


def test_a_pair_without_a_teacher_is_refused() -> None:
    with pytest.raises(FormatError, match="no teacher output"):
        from_pair_record(records.LogitPair(record_id=b"r" * 16), 3)


def test_a_pair_counts_its_arrays_and_ids() -> None:
    pair = TrainingPair(b"r" * 16, b"k" * 16, {"x": np.zeros((1, 8), np.int32)}, np.zeros(3, np.float32), 0, "t")

    assert pair.num_bytes == 32 + 12 + 32
