"""A stream that the first schema version wrote is read to its end: each pair is learned from or held out once, each trial row counts.

`golden/topics-v1.jsonl` is a dump of an embedded stream that the code before issue 6 wrote: topic, partition, offset, time, headers (only `schema`)
and value of each message. It is never rewritten.
"""

import base64
import json
import pathlib
from typing import Any

import pytest

from distill_loop.gates.trial import TrialIdentity, TrialState
from distill_loop.stream.streams import open_consumer, open_writer
from distill_loop.stream.writer import Outgoing
from protos.embedded_stream import connect
from protos.topics import PAIRS, REPORTS, TRIALS
from registry.sections import StreamSection
from tests.support.either_stream import create_topics, on_kafka
from tests.support.intakes import MODEL, IntakeUnderTest

GOLDEN = pathlib.Path(__file__).parent / "golden" / "topics-v1.jsonl"
TIME = 1_700_000_000_000_000_000


def golden_messages() -> list[dict[str, Any]]:
    return [json.loads(line) for line in GOLDEN.read_text().splitlines()]


def write_embedded(path: pathlib.Path) -> StreamSection:
    """Write the messages as they lay in the file."""
    connection = connect(path)
    for one in golden_messages():
        row = (one["topic"], one["partition"], one["offset"], one["time_unix_ns"], one["headers"])
        connection.execute("INSERT INTO message VALUES (?, ?, ?, ?, ?, ?)", (*row, base64.b64decode(one["value"])))
        connection.execute(
            "INSERT INTO next_offset VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET offset = excluded.offset",
            (one["topic"], one["partition"], one["offset"] + 1),
        )
    connection.close()
    return StreamSection(path=path, partitions=2)


def write_kafka(bootstrap: str) -> StreamSection:
    """Send the messages to topics of a broker."""
    stream = on_kafka(bootstrap)
    create_topics(stream)
    open_writer(stream, MODEL.name).write(
        [
            Outgoing(
                one["topic"].rpartition(".")[2],
                one["partition"],
                json.loads(one["headers"]),
                base64.b64decode(one["value"]),
            )
            for one in golden_messages()
        ]
    )
    return stream


@pytest.fixture(params=["embedded", "kafka"])
def stream(request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> StreamSection:
    if request.param == "kafka":
        return write_kafka(request.getfixturevalue("kafka_bootstrap"))
    return write_embedded(tmp_path / "golden.sqlite")


def test_a_stream_of_the_first_schema_version_is_read(stream: StreamSection, tmp_path: pathlib.Path) -> None:
    consumer = open_consumer(stream, MODEL.name, {TRIALS: 1, PAIRS: 2, REPORTS: 1})
    room = IntakeUnderTest(tmp_path / "letters.sqlite", consumer)
    room.progress.trial = TrialState(TrialIdentity("t-golden", "a" * 64, "b" * 64, 1.0, TIME))

    while consumer.lag():
        room.read()

    progress, trial = room.progress, room.progress.trial
    assert (progress.learned, progress.repeats, progress.dead, progress.dead_others) == (52, 1, 0, {})
    assert (trial.certain().wins, trial.cautious().total, progress.trial_rows) == (4, 4, 4)
    assert room.dead_letters() == []
    estimate = room.agreement.estimate()
    assert estimate is not None
    assert estimate.num == 24
    assert room.reports.strata()["all"]["seen"] == 300
    room.close()
