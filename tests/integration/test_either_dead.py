"""Dead letters on either stream, the embedded file and Kafka: written once, looked at and sent again from a command line."""

import argparse
import contextlib
import json
import pathlib

import pytest

from distill_loop.stream import dead_app
from distill_loop.stream.consumer import Message
from distill_loop.stream.dead_letter import DeadLetters, read_letters
from distill_loop.stream.streams import letters_of, open_consumer, open_writer
from protos.errors import ConfigurationError, FormatError
from protos.records import REPLAY_HEADER, SCHEMA_HEADER
from protos.topics import DEAD, PAIRS, TRIALS
from tests.support.either_stream import MODEL, EitherStream, read


def put_letters(stream: EitherStream, *, max_bytes: int = 1000) -> None:
    """Write what a loop that is killed before its checkpoint writes again."""
    for _ in range(2):
        dead = DeadLetters(
            open_writer(stream.settings, MODEL), lambda: letters_of(stream.settings, MODEL), max_bytes=max_bytes
        )
        for offset in range(3):
            dead.put(
                Message(PAIRS, 1, offset, {SCHEMA_HEADER: "1"}, b"rubbish %d" % offset, 5),
                "undecodable",
                "it is rubbish",
            )
        dead.put(Message(TRIALS, 0, 9, {SCHEMA_HEADER: "2"}, b"x" * 1500, 6), "wrong_schema", "version 2")
        dead.flush()
        dead.close()


def run(stream: EitherStream, *arguments: str, models: tuple[str, ...] = (MODEL,)) -> int:
    """Run a command as `distill_loop.stream.app` does."""
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--json", action="store_true")
    parser = argparse.ArgumentParser()
    dead_app.add_commands(parser.add_subparsers(required=True), shared)
    parsed = parser.parse_args(["dead", *arguments])
    return int(parsed.run(parsed, stream.settings, models))


def test_letters_are_written_once_and_come_back_as_they_were(stream: EitherStream) -> None:
    put_letters(stream)

    letters = list(letters_of(stream.settings, MODEL))

    assert [(one.number, one.source.offset, one.reason, one.cut_from) for one in letters] == [
        (0, 0, "undecodable", None),
        (1, 1, "undecodable", None),
        (2, 2, "undecodable", None),
        (3, 9, "wrong_schema", 1500),
    ]
    assert letters[1].source == Message(PAIRS, 1, 1, {SCHEMA_HEADER: "1"}, b"rubbish 1", 5)
    assert 400 < len(letters[3].source.value) < 1000
    with contextlib.closing(open_consumer(stream.settings, MODEL, {DEAD: 1})) as consumer:
        assert [one.number for one in read_letters(consumer, newest=2)] == [2, 3]
        assert consumer.positions() == {(DEAD, 0): 4}


def test_letters_are_listed_shown_and_sent_again(
    stream: EitherStream, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put_letters(stream)

    assert run(stream, "list", "--limit", "2") == 0
    listed = capsys.readouterr().out
    assert run(stream, "show", "1", "--json", "--output", str(tmp_path / "bytes")) == 0
    shown = json.loads(capsys.readouterr().out)
    assert run(stream, "replay", "2", "0") == 0
    assert run(stream, "replay", "--all") == 0
    replayed = capsys.readouterr().out

    assert "4 dead letters (undecodable 3, wrong_schema 1)" in listed
    assert "pairs/1@2  undecodable: it is rubbish" in listed
    assert "pairs/1@1" not in listed
    assert (shown["offset"], shown["reason"], shown["headers"]) == (1, "undecodable", {SCHEMA_HEADER: "1"})
    assert (tmp_path / "bytes").read_bytes() == b"rubbish 1"
    assert replayed.splitlines() == [
        f"{MODEL}: 2 dead letters sent again",
        "`everstill stream dead list` shows those that die again",
        f"{MODEL}: 3 dead letters sent again; 1 was too long to be kept whole, and can't be",
        "`everstill stream dead list` shows those that die again",
    ]
    messages = read(stream.consumer(), 5)
    assert [(one.kind, one.partition, one.value) for one in messages] == [
        (PAIRS, 1, b"rubbish %d" % number) for number in (0, 2, 0, 1, 2)
    ]
    assert all(one.headers == {SCHEMA_HEADER: "1", REPLAY_HEADER: "1"} for one in messages)


def test_what_others_wrote_does_nothing_to_a_terminal(stream: EitherStream, capsys: pytest.CaptureFixture[str]) -> None:
    dead = DeadLetters(open_writer(stream.settings, MODEL), list)
    dead.put(Message(PAIRS, 0, 0, {}, b"x"), "undecodable", "\x1b[2Jgone")
    dead.flush()
    dead.close()

    assert run(stream, "list") == 0
    assert run(stream, "show", "0") == 0
    assert "\x1b" not in capsys.readouterr().out


def test_what_can_not_be_meant_is_said(stream: EitherStream) -> None:
    put_letters(stream)

    with pytest.raises(FormatError, match="no dead letter 77"):
        run(stream, "show", "77")
    with pytest.raises(ConfigurationError, match="numbers, --reason or --all"):
        run(stream, "replay")
    with pytest.raises(ConfigurationError, match="2 models"):
        run(stream, "show", "1", models=(MODEL, "other"))
