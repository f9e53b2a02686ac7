"""Reading the embedded stream: order, positions, gaps, dead letters, and counting each record once."""

import concurrent.futures
import contextlib
import pathlib
import threading
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distill_loop.stream.consumer import Message, Replaced
from distill_loop.stream.dead_letter import DeadLetters
from distill_loop.stream.dedupe import Dedupe
from distill_loop.stream.embedded_consumer import EmbeddedConsumer
from distill_loop.stream.streams import letters_of, open_writer
from protos.embedded_stream import connect, identity_of
from protos.errors import UnavailableError
from protos.records import MODEL_HEADER, RECORDS_HEADER, SCHEMA_HEADER
from protos.topics import PAIRS, TRIALS
from registry.sections import StreamSection
from tests.support.publishing import StreamWriter

MODEL = "tiny"


@pytest.fixture
def path(tmp_path: pathlib.Path) -> pathlib.Path:
    return tmp_path / "stream.sqlite"


@pytest.fixture
def writer(path: pathlib.Path) -> Iterator[StreamWriter]:
    writer = StreamWriter(path, MODEL, 2)
    yield writer
    writer.close()


@pytest.fixture
def consumer(path: pathlib.Path) -> Iterator[EmbeddedConsumer]:
    consumer = EmbeddedConsumer(path, MODEL, {PAIRS: 2, TRIALS: 1})
    yield consumer
    consumer.close()


def read_all(consumer: EmbeddedConsumer) -> list[Message]:
    messages = consumer.poll(100)
    for message in messages:
        consumer.advance(message)
    return messages


def test_messages_come_in_order_with_their_headers(writer: StreamWriter, consumer: EmbeddedConsumer) -> None:
    for number in range(3):
        writer.raw(PAIRS, 1, b"%d" % number)
    writer.raw(TRIALS, 0, b"row")

    messages = read_all(consumer)

    assert [(one.kind, one.partition, one.offset, one.value) for one in messages if one.kind == PAIRS] == [
        (PAIRS, 1, 0, b"0"),
        (PAIRS, 1, 1, b"1"),
        (PAIRS, 1, 2, b"2"),
    ]
    assert messages[0].headers == {SCHEMA_HEADER: "1", MODEL_HEADER: MODEL, RECORDS_HEADER: "1"}
    assert consumer.lag() == 0


def test_a_message_that_was_not_dealt_with_comes_again(writer: StreamWriter, consumer: EmbeddedConsumer) -> None:
    writer.raw(PAIRS, 0, b"first")

    assert [one.value for one in consumer.poll(10)] == [b"first"]
    assert [one.value for one in consumer.poll(10)] == [b"first"]
    assert consumer.lag() == 1


def test_another_reader_goes_on_from_positions(
    path: pathlib.Path, writer: StreamWriter, consumer: EmbeddedConsumer
) -> None:
    writer.raw(PAIRS, 0, b"old")
    read_all(consumer)
    writer.raw(PAIRS, 0, b"new")

    other = EmbeddedConsumer(path, MODEL, {PAIRS: 2, TRIALS: 1})
    other.seek(consumer.positions())

    assert [one.value for one in read_all(other)] == [b"new"]
    other.close()


def test_messages_that_retention_took_are_a_counted_gap(
    path: pathlib.Path, writer: StreamWriter, consumer: EmbeddedConsumer
) -> None:
    for number in range(4):
        writer.raw(PAIRS, 0, b"%d" % number)
    with connect(path) as connection:
        connection.execute("DELETE FROM message WHERE offset < 3")
    connection.close()

    assert [one.value for one in read_all(consumer)] == [b"3"]
    assert [gap.end - gap.first for gap in consumer.take_gaps()] == [3]


def test_a_stream_that_was_replaced_is_read_from_its_start(
    path: pathlib.Path, writer: StreamWriter, consumer: EmbeddedConsumer
) -> None:
    for number in range(3):
        writer.raw(PAIRS, 0, b"%d" % number)
    read_all(consumer)
    consumer.close()
    writer.close()
    for file in path.parent.glob("stream.sqlite*"):
        file.unlink()
    writer.raw(PAIRS, 0, b"anew")

    assert [one.value for one in read_all(consumer)] == [b"anew"]
    assert consumer.lag() == 0


def test_a_stream_that_was_replaced_and_has_grown_past_our_position_is_read_from_its_start(
    path: pathlib.Path, writer: StreamWriter, consumer: EmbeddedConsumer
) -> None:
    writer.raw(PAIRS, 0, b"old")
    read_all(consumer)
    positions, streams = consumer.positions(), consumer.streams()
    consumer.close()
    writer.close()
    assert streams[PAIRS] == streams[TRIALS] != ""

    consumer.seek(positions, streams)
    assert read_all(consumer) == []  # the same file
    consumer.close()
    for file in path.parent.glob("stream.sqlite*"):
        file.unlink()
    for number in range(3):
        writer.raw(PAIRS, 0, b"%d" % number)
    with contextlib.closing(connect(path)) as connection:
        connection.execute("DELETE FROM message WHERE offset = 0")
    consumer.seek(positions, streams)

    assert [one.value for one in read_all(consumer)] == [b"1", b"2"]
    (gap,) = consumer.take_gaps()
    assert (gap.first, gap.end) == (0, 1)
    assert gap.stream == consumer.streams()[PAIRS] != streams[PAIRS]
    assert consumer.take_replaced() == [Replaced(PAIRS, 0, 1, streams[PAIRS], gap.stream)]


@pytest.mark.parametrize("is_known", [True, False])
def test_an_older_copy_of_the_file_that_has_grown_is_read_on_from_what_is_new_and_no_gap_is_told(
    is_known: bool, path: pathlib.Path, writer: StreamWriter, consumer: EmbeddedConsumer
) -> None:
    for number in range(10):
        writer.raw(PAIRS, 0, b"%d" % number)
    with contextlib.closing(connect(path)) as connection:
        connection.execute("UPDATE message SET time_unix_ns = offset * 30000000000")
    read_all(consumer)
    positions, streams, times = consumer.positions(), consumer.streams(), consumer.times()
    with contextlib.closing(connect(path)) as connection:
        connection.execute("DELETE FROM message WHERE offset < 2 OR offset >= 4")
        connection.execute("UPDATE next_offset SET offset = 4")
    for number in range(4, 7):
        writer.raw(PAIRS, 0, b"new %d" % number)

    consumer.seek(positions, streams, times if is_known else None)

    repeats = [] if is_known else [b"2", b"3"]
    assert [one.value for one in read_all(consumer)] == [*repeats, b"new 4", b"new 5", b"new 6"]
    stream = streams[PAIRS]
    assert consumer.take_replaced() == [Replaced(PAIRS, 0, 10, stream, stream, 7, 4 if is_known else 2)]
    assert (consumer.take_gaps(), consumer.lag()) == ([], 0)


def test_a_damaged_file_is_said_to_be(path: pathlib.Path, consumer: EmbeddedConsumer) -> None:
    path.write_bytes(b"not a database" * 1000)

    with pytest.raises(UnavailableError, match=r"can't be read"):
        consumer.poll(1)


def test_several_that_make_the_file_at_once_all_open_it(tmp_path: pathlib.Path) -> None:
    for number in range(30):
        file, together = tmp_path / f"{number}.sqlite", threading.Barrier(3)

        def identity(file: pathlib.Path = file, together: threading.Barrier = together) -> str:
            together.wait()
            with contextlib.closing(connect(file)) as connection:
                return identity_of(connection)

        with concurrent.futures.ThreadPoolExecutor(3) as pool:
            told = [pool.submit(identity) for _ in range(3)]
        assert len({one.result() for one in told}) == 1


def test_the_stream_file_is_private(path: pathlib.Path, writer: StreamWriter) -> None:
    writer.raw(PAIRS, 0, b"x")

    assert path.stat().st_mode & 0o077 == 0


def test_a_dead_letter_is_written_once_with_its_reason(path: pathlib.Path, writer: StreamWriter) -> None:
    writer.raw(PAIRS, 0, b"x")
    stream = StreamSection(path=path)
    message = Message(PAIRS, 0, 7, {SCHEMA_HEADER: "1"}, b"rubbish", 5)

    for _ in range(2):  # the second as a loop that was killed before its checkpoint
        dead = DeadLetters(open_writer(stream, MODEL), lambda: letters_of(stream, MODEL))
        for _ in range(2):
            dead.put(message, "undecodable", "it is rubbish")
            dead.flush()

    assert [(one.source, one.reason, one.detail) for one in letters_of(stream, MODEL)] == [
        (message, "undecodable", "it is rubbish")
    ]
    with connect(path) as connection:
        (num,) = connection.execute("SELECT count(*) FROM message WHERE topic = 'everstill.tiny.dead'").fetchone()
    connection.close()
    assert num == 1


@given(st.lists(st.tuples(st.binary(min_size=16, max_size=16), st.booleans()), max_size=50))
def test_the_window_survives_a_restart(records: list[tuple[bytes, bool]]) -> None:
    window = Dedupe(1000)
    for record_id, held_out in records:
        window.note(record_id, "held_out" if held_out else "learned")

    again = Dedupe(1000)
    again.load_state_dict(window.state_dict())

    assert again.records("learned") == window.records("learned")
    assert again.records("held_out") == window.records("held_out")
    assert all(record_id in again for record_id, _ in records)


def test_the_window_is_bounded_and_forgets_the_oldest() -> None:
    window = Dedupe(10)
    for number in range(25):
        window.note(number.to_bytes(16, "big"), "learned")

    assert len(window) == 10
    assert (24).to_bytes(16, "big") in window
    assert (14).to_bytes(16, "big") not in window
