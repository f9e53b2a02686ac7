"""Capture: the worker's side of shadow sampling - toss the coins, redact, pack, hand over. The caller never pays for it.

Decides which rows become samples and what is in one. Never raises and never waits: a full ring drops the sample and counts it.
Feedback takes the same way, but who sends it is told where there is no room. Called by gRPC threads with each answered request; `set_trial` by the control thread.
"""

import time

import numpy as np
import structlog

from protos import records_pb2 as records
from protos.records import input_key, keyed_tag, row_record_id
from protos.tensors import Array, to_record
from registry.sections import ModelSection
from serving.config import CaptureSection, TeacherSection
from serving.served import Served, Truth
from serving.shadow.redact import check_rules, redact
from serving.shadow.ring import Ring
from serving.shadow.sampler import Arms, policy_id, toss
from serving.shadow.strata import PASS_THROUGH, SERVED
from serving.telemetry import DROPPED, SAMPLES

#: Request parameters with a meaning here.
NO_CAPTURE, SLICE, SUBJECT_KEY = "no_capture", "slice", "subject_key"
KINDS = {"logits": records.OUTPUT_KIND_LOGITS, "probabilities": records.OUTPUT_KIND_PROBABILITIES}
MAX_TAG_CHARACTERS = 64


class Capture:
    """Samples answered requests into a ring.

    Raises:
        ConfigurationError: at construction, where a redaction rule protects nothing.
    """

    def __init__(self, settings: CaptureSection, teacher: TeacherSection, model: ModelSection, ring: Ring) -> None:
        check_rules(settings.redact, model.inputs)
        self._settings = settings
        self._key = settings.key
        self._policy = policy_id(rate=settings.rate)
        self._teacher_kind = KINDS[teacher.kind]
        self._model = model.name
        self._output = model.output
        self._ring = ring
        self._trial: tuple[str, float] = ("", 0.0)
        self._log = structlog.get_logger()

    def set_trial(self, trial_id: str, share: float) -> None:
        """Hand a share of rows over for a trial, beside what the uniform arm takes; an empty id ends it."""
        self._trial = (trial_id, share if trial_id else 0.0)

    def offer(self, served: Served) -> None:
        """Sample the rows of an answered request."""
        try:
            self._offer(served)
        except Exception:  # a supervision point: capture must never cost a caller the answer
            DROPPED.labels(SERVED, "error", self._model).inc()
            self._log.exception("a sample was lost to an error")

    def feedback(self, truth: Truth) -> bool:
        """Hand over what a caller says was true of a row; False where the ring has no room."""
        label = records.Label(
            record_id=truth.record_id,
            label=truth.label,
            time_unix_ns=truth.time_unix_ns,
            label_class=truth.label_class,
            known=True,
        )
        return self._ring.append(records.Sample(label=label).SerializeToString(), feedback=True)

    def _offer(self, served: Served) -> None:
        num_rows = len(next(iter(served.inputs.values())))
        logits_BC = served.logits_BC
        if logits_BC is None:
            self._ring.count_seen(num_rows, PASS_THROUGH)
        else:
            self._ring.count_seen(num_rows, SERVED, _confidence_sum(logits_BC))
        if served.parameters.get(NO_CAPTURE):
            return
        trial_id, share = self._trial
        passed_through = logits_BC is None
        for row in range(num_rows):
            record_id = row_record_id(served.record_id, row)
            arms = toss(
                self._key, record_id, rate=self._settings.rate, trial_share=share, passed_through=passed_through
            )
            if not arms:
                continue
            sample = self._pack(served, row, record_id, arms, trial_id)
            taken_by = tuple(arm for arm, _ in arms)
            if self._ring.append(sample.SerializeToString(), stratum=sample.stratum, arms=taken_by):
                for arm in taken_by:
                    SAMPLES.labels(arm, self._model).inc()
            else:
                DROPPED.labels(sample.stratum, "ring_full", self._model).inc()

    def _pack(self, served: Served, row: int, record_id: bytes, arms: Arms, trial_id: str) -> records.Sample:
        rows = {name: array[row : row + 1] for name, array in served.inputs.items()}
        tensors = [to_record(name, array) for name, array in redact(self._settings.redact, self._key, rows).items()]
        parameters = served.parameters
        sample = records.Sample(
            record_id=record_id,
            input_key=input_key(tensors),
            time_unix_ns=time.time_ns(),
            stratum=PASS_THROUGH if served.logits_BC is None else SERVED,
            slice=str(parameters.get(SLICE, ""))[:MAX_TAG_CHARACTERS],
            inputs=tensors,
            arms=[records.ArmTaken(arm=arm, probability=probability) for arm, probability in arms],
            policy_id=self._policy,
        )
        if SUBJECT_KEY in parameters:
            sample.subject_tag = keyed_tag(self._key, str(parameters[SUBJECT_KEY]))
        if served.logits_BC is not None:
            sample.trial_id = trial_id  # also what only the uniform arm took: the teacher is asked anyway
            sample.student.version = served.version
            sample.student.latency_s = served.latency_s
            sample.student.logits.CopyFrom(to_record(self._output, served.logits_BC[row : row + 1]))
        elif served.teacher_output_BC is not None:
            sample.teacher.version = served.teacher_version
            sample.teacher.kind = self._teacher_kind
            sample.teacher.latency_s = served.teacher_latency_s
            sample.teacher.cost = 1.0
            sample.teacher.output.CopyFrom(to_record("output", served.teacher_output_BC[row : row + 1]))
        return sample


def _confidence_sum(logits_BC: Array) -> float:
    """Return the highest softmax probability of each row, summed; 0 where they can't be told."""
    with np.errstate(invalid="ignore", over="ignore"):
        scaled_BC = np.exp(logits_BC - logits_BC.max(axis=1, keepdims=True))
        told = float((1.0 / scaled_BC.sum(axis=1)).sum())
    return told if np.isfinite(told) else 0.0
