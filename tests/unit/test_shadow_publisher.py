"""The embedded stream's writer: offsets without gaps, all or none, and an error that says to keep the messages."""

import contextlib
import pathlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protos.embedded_stream import connect
from protos.errors import UnavailableError
from serving.shadow import embedded_publisher
from serving.shadow.embedded_publisher import EmbeddedPublisher, check_stream
from serving.shadow.embedded_retention import used_bytes
from serving.shadow.message import Message, StreamUnavailable

MESSAGES = st.builds(
    Message,
    kind=st.sampled_from(["pairs", "reports"]),
    partition=st.integers(0, 3),
    value=st.binary(max_size=20),
    num_records=st.integers(0, 9),
    rows=st.lists(st.tuples(st.sampled_from(["served", "pass_through", "labels"]), st.integers(1, 9)), max_size=2).map(
        tuple
    ),
)


def read(path: pathlib.Path) -> list[tuple[str, int, int, bytes]]:
    """Return every message as (topic, partition, offset, value)."""
    with contextlib.closing(connect(path)) as connection:
        return connection.execute("SELECT topic, partition, offset, value FROM message").fetchall()


@given(MESSAGES)
def test_a_message_comes_out_of_the_spool_as_it_went_in(message: Message) -> None:
    assert Message.from_spool(message.to_spool()) == message


def test_a_spool_of_before_names_the_whole_topic_and_no_strata() -> None:
    old = Message.from_spool(b"everstill.m.pairs\n2\n7\nvalue")

    assert old == Message("pairs", 2, b"value", 7, (("served", 7),))
    assert Message.from_spool(b"everstill.m.reports\n0\n1\n").rows == ()


def test_offsets_count_up_in_each_partition(tmp_path: pathlib.Path) -> None:
    publisher = EmbeddedPublisher(tmp_path / "s.sqlite", "m", retention_s=1e6)

    publisher.publish([Message("t", 0, b"a"), Message("t", 1, b"b"), Message("t", 0, b"c"), Message("u", 0, b"d")])
    publisher.close()
    publisher.publish([Message("t", 0, b"e")])

    assert sorted(read(tmp_path / "s.sqlite")) == [
        ("everstill.m.t", 0, 0, b"a"),
        ("everstill.m.t", 0, 1, b"c"),
        ("everstill.m.t", 0, 2, b"e"),
        ("everstill.m.t", 1, 0, b"b"),
        ("everstill.m.u", 0, 0, b"d"),
    ]
    publisher.close()


def test_a_lot_that_fails_in_the_middle_leaves_nothing_and_no_gap(tmp_path: pathlib.Path) -> None:
    publisher = EmbeddedPublisher(tmp_path / "s.sqlite", "m", retention_s=1e6)

    with pytest.raises(StreamUnavailable):
        publisher.publish([Message("t", 0, b"a"), Message("t", 0, None)])  # type: ignore[arg-type]
    publisher.publish([Message("t", 0, b"b")])

    assert read(tmp_path / "s.sqlite") == [("everstill.m.t", 0, 0, b"b")]
    publisher.close()


def test_a_locked_stream_is_away_and_takes_messages_later(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded_publisher, "connect", lambda path: connect(path, timeout_s=0.01))
    publisher = EmbeddedPublisher(tmp_path / "s.sqlite", "m", retention_s=1e6)
    publisher.publish([Message("t", 0, b"a")])
    with contextlib.closing(connect(tmp_path / "s.sqlite")) as locker:
        locker.execute("BEGIN IMMEDIATE")

        with pytest.raises(StreamUnavailable, match="took nothing"):
            publisher.publish([Message("t", 0, b"b")])
        locker.execute("ROLLBACK")

    publisher.publish([Message("t", 0, b"b")])
    assert [row[2:] for row in read(tmp_path / "s.sqlite")] == [(0, b"a"), (1, b"b")]
    publisher.close()


@pytest.mark.parametrize("damage", ["no database", "a folder"])
def test_a_file_that_is_no_stream_is_said_in_a_sentence(tmp_path: pathlib.Path, damage: str) -> None:
    path = tmp_path / "s.sqlite"
    if damage == "a folder":
        path.mkdir()
    else:
        path.write_bytes(b"this is not a database" * 100)

    with pytest.raises(StreamUnavailable, match="took nothing"):
        EmbeddedPublisher(path, "m", retention_s=1e6).publish([Message("t", 0, b"a")])


def test_messages_past_their_retention_go_and_offsets_go_on(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "s.sqlite"
    publish(path, b"old")
    with contextlib.closing(connect(path)) as connection:
        connection.execute("UPDATE message SET time_unix_ns = 0")

    publish(path, b"new")

    assert read(path) == [("everstill.m.t", 0, 1, b"new")]


def test_a_file_that_is_too_large_loses_its_oldest_messages_and_stays_that_size(tmp_path: pathlib.Path) -> None:
    path, bound = tmp_path / "s.sqlite", 2**20
    publisher = EmbeddedPublisher(path, "m", retention_s=1e6, retention_bytes=bound)
    sizes = []

    for number in range(40):
        publisher.publish([Message(kind, 0, bytes(9_000 + 97 * number)) for kind in ("pairs", "trials")] * 3)
        with contextlib.closing(connect(path)) as connection:
            # Seconds pass between two of them.
            connection.execute("UPDATE message SET time_unix_ns = time_unix_ns - 1000000000")
            sizes.append(used_bytes(connection))
    publisher.close()

    assert max(sizes) < bound * 1.15
    assert min(sizes[25:]) > bound * 0.7
    messages = read(path)
    for kind in ("everstill.m.pairs", "everstill.m.trials"):
        offsets = [offset for name, _, offset, _ in messages if name == kind]
        assert offsets == list(range(offsets[0], 120))
    assert path.stat().st_size < bound * 1.5


def test_what_just_came_stays_however_large_it_is(tmp_path: pathlib.Path) -> None:
    publisher = EmbeddedPublisher(tmp_path / "s.sqlite", "m", retention_s=1e6, retention_bytes=2**20)

    publisher.publish([Message("pairs", 0, bytes(2**21))])
    publisher.close()

    assert len(read(tmp_path / "s.sqlite")) == 1


def test_the_file_is_its_owners_only(tmp_path: pathlib.Path) -> None:
    publisher = EmbeddedPublisher(tmp_path / "s.sqlite", "m", retention_s=1e6)
    publisher.publish([])

    assert (tmp_path / "s.sqlite").stat().st_mode & 0o077 == 0
    publisher.close()


def test_a_second_writer_continues_the_same_offsets(tmp_path: pathlib.Path) -> None:
    one, other = (EmbeddedPublisher(tmp_path / "s.sqlite", "m", retention_s=1e6) for _ in range(2))

    for number in range(6):
        (one, other)[number % 2].publish([Message("t", 0, bytes([number]))])

    assert [row[2:] for row in read(tmp_path / "s.sqlite")] == [(number, bytes([number])) for number in range(6)]
    one.close()
    other.close()


def publish(path: pathlib.Path, value: bytes) -> None:
    """Publish one message from a process that ends afterwards."""
    with contextlib.closing(EmbeddedPublisher(path, "m", retention_s=1e6)) as publisher:
        publisher.publish([Message("t", 0, value)])


def test_a_stream_that_can_be_written_is_made_at_the_check_and_left_as_it_is(tmp_path: pathlib.Path) -> None:
    check_stream(tmp_path / "new" / "s.sqlite")
    EmbeddedPublisher(tmp_path / "new" / "s.sqlite", "m", retention_s=1e6).publish([Message("t", 0, b"x")])

    check_stream(tmp_path / "new" / "s.sqlite")

    assert read(tmp_path / "new" / "s.sqlite") == [("everstill.m.t", 0, 0, b"x")]


def test_a_stream_that_another_process_writes_passes_the_check(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "s.sqlite"
    monkeypatch.setattr(embedded_publisher, "connect", lambda path: connect(path, timeout_s=0.05))
    with contextlib.closing(connect(path)) as other:
        other.execute("BEGIN IMMEDIATE")

        check_stream(path)


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("file/s.sqlite", "a file is where its folder should be"),
        ("file/below/s.sqlite", "a file is where its folder should be"),
        ("file", "file is not a database"),
        ("folder", "unable to open database file"),
    ],
)
def test_a_stream_that_cannot_be_used_fails_the_check_with_what_to_do(
    tmp_path: pathlib.Path, place: str, words: str
) -> None:
    (tmp_path / "file").write_text("not a database, and long enough that nobody could take it for an empty one" * 20)
    (tmp_path / "folder").mkdir()

    with pytest.raises(UnavailableError, match=words) as caught:
        check_stream(tmp_path / place)

    assert "stream.path" in caught.value.fix
    assert "Errno" not in str(caught.value)
