"""From a sample to the pair that it becomes, and pairs that one call can ask about. Pure; any thread."""

from protos import records_pb2 as records


def pair_of(sample: records.Sample, answer: records.TrialAnswer | None) -> records.LogitPair:
    """Return the pair of a sample, without the teacher's answer unless the sample has it; `answer` is what it settles."""
    pair = records.LogitPair(
        record_id=sample.record_id,
        input_key=sample.input_key,
        time_unix_ns=sample.time_unix_ns,
        stratum=sample.stratum,
        slice=sample.slice,
        client_tag=sample.client_tag,
        subject_tag=sample.subject_tag,
        inputs=sample.inputs,
        arms=sample.arms,
        policy_id=sample.policy_id,
    )
    if sample.HasField("student"):
        pair.student.CopyFrom(sample.student)
    if sample.HasField("teacher"):
        pair.teacher.CopyFrom(sample.teacher)
    if answer is not None:
        pair.trial.CopyFrom(answer)
    return pair


def lots_of(pairs: list[records.LogitPair], max_batch: int) -> list[list[records.LogitPair]]:
    """Group pairs whose inputs have the same names, datatypes and shapes, at most `max_batch` in one lot."""
    by_shape: dict[tuple[tuple[str, str, tuple[int, ...]], ...], list[records.LogitPair]] = {}
    for pair in pairs:
        shape = tuple((tensor.name, tensor.datatype, tuple(tensor.shape)) for tensor in pair.inputs)
        by_shape.setdefault(shape, []).append(pair)
    return [same[start : start + max_batch] for same in by_shape.values() for start in range(0, len(same), max_batch)]
