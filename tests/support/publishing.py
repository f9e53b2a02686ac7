"""Records for tests of the loop: pairs, trial rows, and a publisher for the embedded stream that plays the mirror."""

import hashlib
import pathlib
import time

import numpy as np

from protos import records_pb2 as records
from protos.records import ARM_UNIFORM, input_key, mint_record_id
from protos.tensors import to_record
from protos.topics import PAIRS, TRIALS, partition_of
from registry.sections import KafkaSection, StreamSection
from serving.shadow.message import Message
from serving.shadow.publishers import open_publisher
from tests.support.packing import pack

NUM_CLASSES = 8
WINDOW = 128


def window_of(label: int, number: int) -> np.ndarray:
    """Return bytes int32 [1, WINDOW] that look like their label: a stretch of one byte value among noise."""
    rng = np.random.default_rng(number)
    window = rng.integers(0, 256, (1, WINDOW)).astype(np.int32)
    window[0, :48] = 30 + 20 * label
    return window


def make_pair(number: int, *, label: int | None = None, student_label: int | None = None) -> records.LogitPair:
    """Return a pair of the uniform arm; the teacher is sure of `label`, the student said `student_label`."""
    label = number % NUM_CLASSES if label is None else label
    tensor = to_record("bytes", window_of(label, number))
    pair = records.LogitPair(
        record_id=hashlib.blake2b(f"pair {number}".encode(), digest_size=16).digest(),
        input_key=input_key([tensor]),
        time_unix_ns=time.time_ns(),
        inputs=[tensor],
        arms=[records.ArmTaken(arm=ARM_UNIFORM, probability=0.2)],
    )
    pair.teacher.version = "teacher-1"
    pair.teacher.kind = records.OUTPUT_KIND_PROBABILITIES
    pair.teacher.output.CopyFrom(to_record("output", _sure_of(label)))
    if student_label is not None:
        pair.student.version = "student-1"
        pair.student.logits.CopyFrom(to_record("logits", _sure_of(student_label)))
    return pair


def _sure_of(label: int) -> np.ndarray:
    output = np.full((1, NUM_CLASSES), 0.01, np.float32)
    output[0, label] = 1 - 0.01 * (NUM_CLASSES - 1)
    return output


def make_trial_rows(trial_id: str, num_rows: int, first: int) -> tuple[records.TrialBatch, list[records.LogitPair]]:
    """Return a batch of rows in which the candidate wins every disagreement, with the pairs that say so."""
    batch, pairs = records.TrialBatch(trial_id=trial_id), []
    for number in range(first, first + num_rows):
        pair = make_pair(number)
        pair.record_id = mint_record_id()
        pair.ClearField("arms")
        pair.arms.add(arm="trial", probability=1.0)
        label = number % NUM_CLASSES
        pair.trial.trial_id = trial_id
        pair.trial.candidate_class, pair.trial.incumbent_class = label, (label + 1) % NUM_CLASSES
        add_row(batch, pair, agree=False)
        pairs.append(pair)
    return batch, pairs


def add_row(batch: records.TrialBatch, pair: records.LogitPair, *, agree: bool) -> None:
    """Add the trial row of a pair."""
    batch.rows.add(
        record_id=pair.record_id,
        input_key=pair.input_key,
        agree=agree,
        probability=1.0,
        time_unix_ns=pair.time_unix_ns,
    )


def evaluated_pair(
    number: int, *, label: int, incumbent: int, candidate: int, trial_id: str = "t-1"
) -> records.LogitPair:
    """A pair of the uniform arm that was a row of a trial too."""
    pair = make_pair(number, label=label, student_label=incumbent)
    pair.student.version = "a" * 12
    pair.trial.trial_id = trial_id
    pair.trial.incumbent_class, pair.trial.candidate_class = incumbent, candidate
    return pair


class StreamWriter:
    """Publishes records to a stream as the mirror would.

    Args:
        partitions: of the pairs topic.
        kafka: brokers to publish to, instead of the file.
    """

    def __init__(self, path: pathlib.Path, model: str, partitions: int, kafka: KafkaSection | None = None) -> None:
        stream = StreamSection(path=path, partitions=partitions, retention_s=1e9, kafka=kafka or KafkaSection())
        self._publisher = open_publisher(stream, model)
        self._partitions = partitions
        self.published: list[bytes] = []

    def pairs(self, pairs: list[records.LogitPair]) -> None:
        """Publish pairs, one message for each partition, and remember their ids."""
        batches: dict[int, records.PairBatch] = {}
        for pair in pairs:
            batches.setdefault(partition_of(pair.input_key, self._partitions), records.PairBatch()).pairs.append(pair)
        self._publisher.publish([Message(PAIRS, place, batch.SerializeToString()) for place, batch in batches.items()])
        self.published += [pair.record_id for pair in pairs]

    def columns(self, pairs: list[records.LogitPair]) -> None:
        """Publish copies of pairs of one form to partition 0 as one batch with columns, and remember their ids."""
        batch = pack([records.LogitPair.FromString(pair.SerializeToString()) for pair in pairs])
        self._publisher.publish([Message(PAIRS, 0, batch.SerializeToString(), len(pairs))])
        self.published += [pair.record_id for pair in pairs]

    def trial(self, batch: records.TrialBatch, pairs: list[records.LogitPair]) -> None:
        """Publish a trial's rows, then the pairs that settle them."""
        self._publisher.publish([Message(TRIALS, 0, batch.SerializeToString())])
        self.pairs(pairs)

    def raw(self, kind: str, partition: int, value: bytes) -> None:
        """Publish bytes that may be anything."""
        self._publisher.publish([Message(kind, partition, value)])

    def close(self) -> None:
        """Close the file."""
        self._publisher.close()
