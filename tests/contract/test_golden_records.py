"""Schema version 1 of what travels and what is stored, pinned by bytes: they stay readable for ever.

The files in golden/ were written once, by version 1. A change that breaks a test here breaks every stream, spool and ring in
use: add fields under new numbers, and never rewrite a golden file.
"""

import pathlib

import numpy as np
import pytest
from google.protobuf.message import Message

from protos import records, records_pb2, tensors

#: Fields that were added after the golden files were written; readers of version 1 pass them over.
ADDED_LATER = {
    "Sample": {"label"},
    "PairBatch": {"columns"},
    "Label": {"label_class", "known"},
    "TrialAnswer": {"brier_base", "brier_slope"},
    "CaptureReport": {"mirror", "topics", "labels", "time_unix_ns"},
    "Stratum": {"sampled", "published", "spooled", "gaps"},
}
GOLDEN = pathlib.Path(__file__).parent / "golden"
RECORD_ID = bytes.fromhex("01939a2b3c4d7e5f8a6b7c8d9eafb0c1")
INPUT_KEY = bytes(range(16))
TIME = 1_700_000_000_123_456_789


def inputs() -> list[records_pb2.Tensor]:
    return [
        tensors.to_record("bytes", np.array([[80, 75, 3, 256]], np.int32)),
        tensors.to_record("features", np.array([[0.5, -1.25]], np.float32)),
    ]


def student() -> records_pb2.StudentOutput:
    logits = tensors.to_record("logits", np.array([[1.5, -0.5, 0.25]], np.float32))
    return records_pb2.StudentOutput(version="0123456789ab", logits=logits, latency_s=0.0015)


def teacher() -> records_pb2.TeacherOutput:
    return records_pb2.TeacherOutput(
        version="teacher-1",
        kind=records_pb2.OUTPUT_KIND_PROBABILITIES,
        output=tensors.to_record("target_label", np.array([[0.7, 0.1, 0.2]], np.float32)),
        latency_s=0.004,
        cost=2.0,
    )


def arms() -> list[records_pb2.ArmTaken]:
    return [
        records_pb2.ArmTaken(arm=records.ARM_UNIFORM, probability=0.2),
        records_pb2.ArmTaken(arm=records.ARM_TRIAL, probability=0.5),
    ]


def identity() -> dict[str, object]:
    return {
        "record_id": RECORD_ID,
        "input_key": INPUT_KEY,
        "time_unix_ns": TIME,
        "stratum": "all",
        "slice": "large",
        "client_tag": b"client-tag-bytes",
        "subject_tag": b"subject-tag-byte",
        "policy_id": "uniform-0.2",
    }


def messages() -> dict[str, Message]:
    """Return one message of each kind with every field set."""
    trial = records_pb2.TrialAnswer(
        trial_id="trial-1",
        incumbent_version="0123456789ab",
        candidate_version="ba9876543210",
        incumbent_class=1,
        candidate_class=2,
    )
    pair = records_pb2.LogitPair(
        **identity(),
        inputs=inputs(),
        student=student(),
        teacher=teacher(),
        hidden_features=inputs()[1:],
        arms=arms(),
        trial=trial,
    )
    row = records_pb2.TrialRow(
        record_id=RECORD_ID,
        input_key=INPUT_KEY,
        slice="large",
        agree=True,
        incumbent_class=1,
        candidate_class=1,
        probability=0.5,
        time_unix_ns=TIME,
    )
    stratum = records_pb2.CaptureReport.Stratum(
        stratum="all",
        seen=1000,
        confidence_sum=812.5,
        arms=[records_pb2.CaptureReport.ArmCount(arm=records.ARM_UNIFORM, taken=200)],
        dropped=3,
        missing=2,
        pending=1,
    )
    return {
        "sample": records_pb2.Sample(
            **identity(),
            inputs=inputs(),
            student=student(),
            arms=arms(),
            trial_id="trial-1",
            teacher=teacher(),
            sequence=42,
        ),
        "pair_batch": records_pb2.PairBatch(pairs=[pair]),
        "trial_batch": records_pb2.TrialBatch(
            trial_id="trial-1", incumbent_version="0123456789ab", candidate_version="ba9876543210", rows=[row]
        ),
        "label": records_pb2.Label(record_id=RECORD_ID, label="python", time_unix_ns=TIME),
        "capture_report": records_pb2.CaptureReport(
            gateway="gateway-1",
            worker=1,
            epoch=7,
            first_sequence=1,
            last_sequence=200,
            strata=[stratum],
            breaker_open=[records_pb2.CaptureReport.Span(start_unix_ns=TIME, end_unix_ns=TIME + 5)],
            teacher_calls=201,
            gaps=4,
        ),
    }


@pytest.mark.parametrize("kind", sorted(messages()))
def test_golden_bytes_read_as_they_were_written(kind: str) -> None:
    expected = messages()[kind]

    read = type(expected).FromString((GOLDEN / f"{kind}.v1.bin").read_bytes())

    assert read == expected


@pytest.mark.parametrize("kind", sorted(messages()))
def test_today_writes_the_golden_bytes(kind: str) -> None:
    written = messages()[kind].SerializeToString(deterministic=True)

    assert written == (GOLDEN / f"{kind}.v1.bin").read_bytes()


@pytest.mark.parametrize("kind", sorted(messages()))
def test_every_field_of_version_1_is_in_its_golden_file(kind: str) -> None:
    def unset(message: Message, place: str) -> list[str]:
        empty = []
        for field in message.DESCRIPTOR.fields:
            if field.name in ADDED_LATER.get(message.DESCRIPTOR.name, ()):
                continue
            value = getattr(message, field.name)
            if not field.is_repeated and not value if field.message_type is None else False:
                empty.append(f"{place}{field.name}")
            if field.is_repeated and not len(value):
                empty.append(f"{place}{field.name}")
            if field.message_type is not None:
                for one in value if field.is_repeated else [value]:
                    empty += unset(one, f"{place}{field.name}.")
        return empty

    assert not unset(messages()[kind], "")


def test_a_message_of_a_later_version_is_read_without_its_new_fields() -> None:
    later = (GOLDEN / "label.v1.bin").read_bytes() + b"\xfa\x07\x03new"  # field 127, length-delimited

    assert records_pb2.Label.FromString(later).label == "python"


def test_tensors_in_golden_bytes_are_the_arrays_that_were_sent() -> None:
    pair = records_pb2.PairBatch.FromString((GOLDEN / "pair_batch.v1.bin").read_bytes()).pairs[0]

    assert tensors.from_record(pair.inputs[0]).tolist() == [[80, 75, 3, 256]]
    assert tensors.from_record(pair.student.logits).tolist() == [[1.5, -0.5, 0.25]]


def test_the_key_of_golden_inputs_never_changes() -> None:
    assert records.input_key(inputs()).hex() == "70fc0c2d15a6d6c8f00b4eac46299258"


def test_the_schema_version_is_1() -> None:
    assert (records.SCHEMA_HEADER, records.SCHEMA_VERSION) == ("schema", 1)
