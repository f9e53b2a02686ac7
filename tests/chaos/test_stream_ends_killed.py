"""Kill a stream's writer and its reader with SIGKILL, on either stream: what was said to be safe is read, once for each offset, in order."""

import contextlib
import pathlib
import random

import pytest

from registry.sections import StreamSection
from tests.support.either_stream import PARTITIONS, EitherStream, create_topics, on_kafka, read
from tests.support.stream_ends import End
from tests.support.waiting import wait_for


@pytest.mark.parametrize("kind", ["embedded", "kafka"])
@pytest.mark.parametrize("num_lives", [2, pytest.param(20, marks=[pytest.mark.slow, pytest.mark.timeout(300)])])
def test_what_was_safe_is_read_whoever_is_killed(
    request: pytest.FixtureRequest, tmp_path: pathlib.Path, kind: str, num_lives: int
) -> None:
    if kind == "kafka":
        settings = on_kafka(request.getfixturevalue("kafka_bootstrap"))
        create_topics(settings)
    else:
        settings = StreamSection(path=tmp_path / "stream.sqlite", partitions=PARTITIONS)
    file, moment = tmp_path / "stream.json", random.Random(7)
    file.write_text(settings.model_dump_json())
    safe, dealt_with = [-1], []

    for _ in range(num_lives):
        writer = End("write", file, safe[-1] + 1)
        reader = End("read", file, len(dealt_with))
        try:
            enough = moment.randrange(20, 200)
            wait_for(lambda enough=enough, end=writer: len(end.said) > enough, deadline_s=60.0, what="the writer")
            safe += map(int, writer.kill())
            wait_for(lambda end=reader: end.said, deadline_s=60.0, what="the reader")
        finally:
            safe += [number for number in map(int, writer.kill()) if number > safe[-1]]
            dealt_with += [tuple(map(int, line.split())) for line in reader.kill()]

    with contextlib.ExitStack() as stack:
        consumer = EitherStream(settings, stack).consumer()
        messages = read(consumer, consumer.lag())
    assert [one.offset for one in messages] == list(range(len(messages)))
    assert dealt_with == [(one.offset, int(one.value)) for one in messages[: len(dealt_with)]]
    first_arrivals = list(dict.fromkeys(int(one.value) for one in messages))
    assert first_arrivals == list(range(len(first_arrivals)))
    assert safe[-1] < len(first_arrivals)
    # At most the two numbers that a killed writer had under way come again.
    assert len(messages) <= len(first_arrivals) + 2 * num_lives
