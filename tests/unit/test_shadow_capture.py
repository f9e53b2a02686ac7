"""Capture: what of an answered request is handed over, and that the caller never notices."""

import dataclasses
import pathlib
import threading
from typing import Any

import numpy as np
import pytest

from protos import records_pb2 as records
from protos.errors import ConfigurationError
from protos.records import ARM_PASS_THROUGH, ARM_TRIAL, ARM_UNIFORM, input_key, mint_record_id, row_record_id
from protos.tensors import from_record
from registry.sections import ModelSection, TensorSpec
from serving.config import CaptureSection, TeacherSection
from serving.served import Served
from serving.shadow.capture import Capture
from serving.shadow.ring import Ring, create
from serving.telemetry import DROPPED

MODEL = ModelSection(
    name="m",
    inputs=(
        TensorSpec(name="bytes", datatype="INT32", shape=(-1, 4)),
        TensorSpec(name="secret", datatype="UINT8", shape=(-1, 8)),
    ),
    output="logits",
    num_classes=3,
)
SECRET = np.frombuffer(b"pa55word", np.uint8)


class Sampled:
    """A capture with its ring."""

    def __init__(self, folder: pathlib.Path, *, ring_bytes: int = 2**18, **values: Any) -> None:
        create(folder / "ring", ring_bytes)
        self.ring = Ring(folder / "ring")
        self.capture = Capture(
            CaptureSection.model_validate({"rate": 1.0, **values}), TeacherSection(), MODEL, self.ring
        )

    def samples(self) -> list[records.Sample]:
        """Return what waits in the ring."""
        return [records.Sample.FromString(payload) for _, payload in self.ring.read(10_000)]


def served(num_rows: int = 1, **parameters: bool | int | float | str) -> Served:
    rows = np.arange(num_rows, dtype=np.int32)[:, None]
    return Served(
        record_id=mint_record_id(),
        inputs={"bytes": np.repeat(rows, 4, 1), "secret": np.repeat(SECRET[None], num_rows, 0)},
        version="0123456789ab",
        logits_BC=np.repeat(rows, 3, 1).astype(np.float32),
        latency_s=0.001,
        teacher_output_BC=None,
        teacher_version="",
        teacher_latency_s=0.0,
        parameters=parameters,
    )


def passed_through(num_rows: int = 1) -> Served:
    answer_BC = np.eye(3, dtype=np.float32)[[1] * num_rows]
    return dataclasses.replace(
        served(num_rows), version="", logits_BC=None, teacher_output_BC=answer_BC, teacher_version="t-1"
    )


def test_each_row_becomes_a_sample_of_its_own(tmp_path: pathlib.Path) -> None:
    sampled = Sampled(tmp_path)
    request = served(3, slice="pdf", subject_key="alice")

    sampled.capture.offer(request)

    samples = sampled.samples()
    assert [sample.record_id for sample in samples] == [row_record_id(request.record_id, row) for row in range(3)]
    for row, sample in enumerate(samples):
        assert from_record(sample.inputs[0]).tolist() == [[row] * 4]
        assert from_record(sample.student.logits).tolist() == [[row] * 3]
        assert (sample.stratum, sample.slice, sample.student.version) == ("served", "pdf", "0123456789ab")
        assert [(arm.arm, arm.probability) for arm in sample.arms] == [(ARM_UNIFORM, 1.0)]
        assert len(sample.subject_tag) == 16
        assert b"alice" not in sample.SerializeToString()


def test_a_request_that_asks_for_no_capture_is_seen_and_goes_no_further(tmp_path: pathlib.Path) -> None:
    sampled = Sampled(tmp_path)
    sampled.capture.set_trial("trial-1", 1.0)

    sampled.capture.offer(served(2, no_capture=True))

    assert sampled.samples() == []
    assert sampled.ring.rows_seen == 2


@pytest.mark.parametrize("action", ["drop", "zero", "hash"])
def test_redacted_bytes_never_reach_the_ring_and_the_input_key_is_of_what_is_left(
    tmp_path: pathlib.Path, action: str
) -> None:
    sampled = Sampled(tmp_path, redact=[{"tensor": "secret", "action": action}])

    sampled.capture.offer(served())
    sampled.capture.offer(passed_through())

    assert SECRET.tobytes() not in (tmp_path / "ring").read_bytes()
    for sample in sampled.samples():
        assert sample.input_key == input_key(sample.inputs)


def test_a_rule_that_protects_nothing_stops_the_worker_from_starting(tmp_path: pathlib.Path) -> None:
    with pytest.raises(ConfigurationError):
        Sampled(tmp_path, redact=[{"tensor": "sceret", "action": "drop"}])


def test_a_trial_takes_its_rows_until_it_ends(tmp_path: pathlib.Path) -> None:
    sampled = Sampled(tmp_path, rate=0.0)
    sampled.capture.offer(served())

    sampled.capture.set_trial("trial-1", 1.0)
    sampled.capture.offer(served())
    sampled.capture.set_trial("", 1.0)
    sampled.capture.offer(served())

    (sample,) = sampled.samples()
    assert sample.trial_id == "trial-1"
    assert [arm.arm for arm in sample.arms] == [ARM_TRIAL]


def test_a_row_of_the_uniform_arm_belongs_to_the_open_trial_too(tmp_path: pathlib.Path) -> None:
    sampled = Sampled(tmp_path)
    sampled.capture.offer(served())
    sampled.capture.set_trial("trial-1", 1e-12)
    sampled.capture.offer(served())
    sampled.capture.offer(passed_through(1))

    samples = sampled.samples()
    assert [sample.trial_id for sample in samples] == ["", "trial-1", ""]
    assert [[arm.arm for arm in sample.arms] for sample in samples[:2]] == [[ARM_UNIFORM]] * 2


def test_the_teachers_own_answer_travels_with_the_row_that_it_answered(tmp_path: pathlib.Path) -> None:
    sampled = Sampled(tmp_path, rate=0.0)

    sampled.capture.offer(passed_through(2))

    samples = sampled.samples()
    assert [[arm.arm for arm in sample.arms] for sample in samples] == [[ARM_PASS_THROUGH]] * 2
    assert [sample.teacher.version for sample in samples] == ["t-1"] * 2
    assert from_record(samples[1].teacher.output).tolist() == [[0, 1, 0]]
    assert not any(sample.HasField("student") for sample in samples)


def test_a_full_ring_drops_and_counts_and_nobody_waits(tmp_path: pathlib.Path) -> None:
    sampled = Sampled(tmp_path, ring_bytes=4096)
    before = DROPPED.labels("served", "ring_full", MODEL.name)._value.get()

    for _ in range(10):
        sampled.capture.offer(served(10))

    num_samples = len(sampled.samples())
    assert 0 < num_samples < 100
    assert sampled.ring.rows_seen == 100
    assert (
        sampled.ring.dropped
        == 100 - num_samples
        == DROPPED.labels("served", "ring_full", MODEL.name)._value.get() - before
    )


def test_an_error_costs_the_sample_and_not_the_answer(tmp_path: pathlib.Path) -> None:
    sampled = Sampled(tmp_path)
    before = DROPPED.labels("served", "error", MODEL.name)._value.get()

    sampled.capture.offer(dataclasses.replace(served(), inputs={"bytes": np.array([["text"]])}))

    assert sampled.samples() == []
    assert DROPPED.labels("served", "error", MODEL.name)._value.get() == before + 1


def test_threads_that_answer_at_once_lose_nothing(tmp_path: pathlib.Path) -> None:
    sampled = Sampled(tmp_path, ring_bytes=2**20)
    requests = [[served(2) for _ in range(50)] for _ in range(4)]

    def offer(lot: list[Served]) -> None:
        for one in lot:
            sampled.capture.offer(one)

    threads = [threading.Thread(target=offer, args=(lot,)) for lot in requests]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    expected = {row_record_id(one.record_id, row) for lot in requests for one in lot for row in range(2)}
    assert {sample.record_id for sample in sampled.samples()} == expected
    assert sampled.ring.rows_seen == sampled.ring.next_sequence == 400
    assert sampled.ring.gaps == 0


def test_rows_are_counted_by_stratum_with_the_confidence_of_their_answers(tmp_path: pathlib.Path) -> None:
    sampled = Sampled(tmp_path)
    sampled.capture.offer(served(2))
    passed = dataclasses.replace(served(1), logits_BC=None, teacher_output_BC=np.full((1, 3), 1 / 3, np.float32))
    sampled.capture.offer(passed)
    sampled.capture.offer(dataclasses.replace(served(1), logits_BC=np.array([[np.inf, 0, np.nan]], np.float32)))

    counts = sampled.ring.counts()

    assert (counts["served"].seen, counts["served"].handed) == (3, 3)
    assert counts["served"].confidence_sum == pytest.approx(2 / 3)  # equal logits for three classes
    assert counts["served"].arms == {"uniform": 3, "trial": 0, "pass_through": 0}
    assert (counts["pass_through"].seen, counts["pass_through"].arms["pass_through"]) == (1, 1)
