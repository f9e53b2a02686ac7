"""From rows to what is kept of them: messages of pairs, of feedback and of trial rows for the stream, and pairs that wait for the teacher.

Decides which rows share a message: those of one partition whose tensors look alike, as columns, up to the size that the stream takes. Pure; any thread.
"""

import collections
from collections.abc import Iterable, Sequence

from protos import records_pb2 as records
from protos.topics import LABELS, PAIRS, TRIALS, partition_of
from serving.shadow.message import Message
from serving.shadow.rows import Form, Forms, Row, TeacherSaid

#: Bytes of a pair beside its tensors, at most, as far as a caller doesn't choose them; and of a batch's columns.
PAIR_BYTES, COLUMNS_BYTES = 512, 1024


def messages_of(rows: Iterable[Row], num_partitions: int, max_bytes: int) -> tuple[list[Message], list[Row]]:
    """Return messages of answered rows, and the rows that alone are larger than a message may be.

    Rows of one input are in one partition and look alike, so they keep their order.
    """
    alike: dict[tuple[int, Forms, Form | None, Form], list[Row]] = {}
    for row in rows:
        assert row.teacher is not None
        partition = partition_of(row.record.input_key, num_partitions)
        alike.setdefault((partition, row.forms, row.student, row.teacher.form), []).append(row)
    messages: list[Message] = []
    oversized: list[Row] = []
    for (partition, *_), group in alike.items():
        for lot in _lots_within(group, max_bytes):
            value = _batch_of(lot).SerializeToString()
            if len(value) > max_bytes:
                oversized += lot
                continue
            messages.append(Message(PAIRS, partition, value, len(lot), count_rows(lot)))
    return messages, oversized


def labels_of(labels: Iterable[records.Label], num_partitions: int) -> list[Message]:
    """Return messages of feedback: all of one record meet in one partition."""
    batches: dict[int, records.LabelBatch] = {}
    for label in labels:
        partition = partition_of(label.record_id[8:], num_partitions)
        batches.setdefault(partition, records.LabelBatch()).labels.append(label)
    return [
        Message(LABELS, partition, batch.SerializeToString(), len(batch.labels), ((LABELS, len(batch.labels)),))
        for partition, batch in batches.items()
    ]


def trial_message(batch: records.TrialBatch, decided: Iterable[str]) -> Message:
    """Return the message of a trial's rows.

    Args:
        decided: strata of the rows that no pair follows.
    """
    rows = tuple(sorted(collections.Counter(decided).items()))
    return Message(TRIALS, 0, batch.SerializeToString(), len(batch.rows), rows)


def count_rows(rows: Iterable[Row]) -> tuple[tuple[str, int], ...]:
    """Return how many rows there are of each stratum."""
    return tuple(sorted(collections.Counter(row.stratum for row in rows).items()))


def pair_of(row: Row) -> records.LogitPair:
    """Return a row as a pair with tensors of its own."""
    record, pair = row.record, records.LogitPair()
    if isinstance(record, records.LogitPair):
        pair.CopyFrom(record)
    else:
        _describe(pair, row)
        pair.inputs.extend(record.inputs)
        if row.student is not None:
            pair.student.logits.CopyFrom(record.student.logits)
    if row.teacher is not None:
        _tell(pair, row.teacher)
        pair.teacher.output.CopyFrom(row.teacher.form.joined([row.teacher.raw]))
    return pair


def _lots_within(rows: Sequence[Row], max_bytes: int) -> list[Sequence[Row]]:
    """Return rows that look alike in lots that fit into a message."""
    sizes = [sum(map(len, row.raws)) for row in rows]
    beside = PAIR_BYTES + len(rows[0].logits) + (len(rows[0].teacher.raw) if rows[0].teacher else 0)
    if sum(sizes) + beside * len(rows) + COLUMNS_BYTES <= max_bytes:
        return [rows]
    lots: list[Sequence[Row]] = []
    start, room = 0, max_bytes - COLUMNS_BYTES
    for place, size in enumerate(sizes):
        if place > start and size + beside > room:
            lots.append(rows[start:place])
            start, room = place, max_bytes - COLUMNS_BYTES
        room -= size + beside
    return [*lots, rows[start:]]


def _batch_of(rows: Sequence[Row]) -> records.PairBatch:
    """Return rows that look alike as a batch, with columns where each tensor is one row."""
    first, batch = rows[0], records.PairBatch()
    assert first.teacher is not None
    forms = [*first.forms, first.teacher.form, *([first.student] if first.student else [])]
    if not all(form.is_row for form in forms):
        batch.pairs.extend(map(pair_of, rows))
        return batch
    columns, add = batch.columns, batch.pairs.add
    for place, form in enumerate(first.forms):
        columns.inputs.append(form.joined([row.raws[place] for row in rows]))
    columns.teacher_output.CopyFrom(first.teacher.form.joined([row.teacher.raw for row in rows if row.teacher]))
    if first.student is not None:
        columns.student_logits.CopyFrom(first.student.joined([row.logits for row in rows]))
    for row in rows:
        assert row.teacher is not None
        pair = add()
        _describe(pair, row)
        _tell(pair, row.teacher)
    return batch


def _describe(pair: records.LogitPair, row: Row) -> None:
    """Set everything of a pair but its tensors and what the teacher said. What isn't set costs nothing."""
    record = row.record
    pair.record_id = record.record_id
    pair.input_key = record.input_key
    pair.time_unix_ns = record.time_unix_ns
    pair.stratum = row.stratum
    pair.policy_id = record.policy_id
    pair.arms.extend(record.arms)
    if slice_ := record.slice:
        pair.slice = slice_
    if tag := record.client_tag:
        pair.client_tag = tag
    if tag := record.subject_tag:
        pair.subject_tag = tag
    if row.student is not None:
        told, said = pair.student, record.student
        told.version = said.version
        told.latency_s = said.latency_s
    if row.trial is not None:
        pair.trial.CopyFrom(row.trial)


def _tell(pair: records.LogitPair, said: TeacherSaid) -> None:
    teacher = pair.teacher
    teacher.version = said.version
    teacher.kind = said.kind  # type: ignore[assignment]
    teacher.latency_s = said.latency_s
    teacher.cost = said.cost
