"""What several integration tests begin with: a stream that is the embedded file once, and Kafka once."""

import contextlib
import pathlib
from collections.abc import Iterator

import pytest

from registry.sections import StreamSection
from tests.support.either_stream import PARTITIONS, EitherStream, create_topics, on_kafka


@pytest.fixture(params=["embedded", "kafka"])
def stream(request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> Iterator[EitherStream]:
    if request.param == "kafka":
        settings = on_kafka(request.getfixturevalue("kafka_bootstrap"))
        create_topics(settings)
    else:
        settings = StreamSection(path=tmp_path / "stream.sqlite", partitions=PARTITIONS)
    with contextlib.ExitStack() as stack:
        yield EitherStream(settings, stack)
