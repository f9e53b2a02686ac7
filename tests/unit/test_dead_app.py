"""What `everstill stream dead` says and refuses, on the embedded stream."""

import argparse
import contextlib
import json
import pathlib
import re

import pytest

from distill_loop.stream import app, dead_app
from distill_loop.stream.consumer import Message
from distill_loop.stream.dead_letter import REASONS, DeadLetters
from distill_loop.stream.streams import open_writer
from protos.errors import ConfigurationError
from protos.records import REPLAY_HEADER
from protos.topics import PAIRS
from registry.sections import StreamSection

MODEL = "tiny"
ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture
def stream(tmp_path: pathlib.Path) -> StreamSection:
    """A stream with a letter of this version, and a replay that died of what only another version says."""
    settings = StreamSection(path=tmp_path / "stream.sqlite")
    with contextlib.closing(DeadLetters(open_writer(settings, MODEL), list)) as dead:
        dead.put(Message(PAIRS, 0, 0, {}, b"x", 5), "undecodable", "it is rubbish")
        dead.put(Message(PAIRS, 0, 1, {REPLAY_HEADER: "1"}, b"x", 6), "of_tomorrow", "it is rubbish")
        dead.flush()
    return settings


def run(stream: StreamSection, *arguments: str) -> int:
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--json", action="store_true")
    parser = argparse.ArgumentParser()
    dead_app.add_commands(parser.add_subparsers(required=True), shared)
    parsed = parser.parse_args(["dead", *arguments])
    return int(parsed.run(parsed, stream, [MODEL]))


@pytest.mark.parametrize("action", ["list", "replay"])
def test_a_reason_that_nobody_gives_is_refused_with_those_that_are_known(action: str, stream: StreamSection) -> None:
    with pytest.raises(
        ConfigurationError, match=r"no dead letter has the reason 'nonsense'\. .*: undecodable, "
    ) as told:
        run(stream, action, "--reason", "nonsense")

    assert told.value.exit_code == 2


def test_a_reason_of_another_version_or_one_that_no_letter_has_is_none(
    stream: StreamSection, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(stream, "list", "--reason", "of_tomorrow", "--json") == 0
    tomorrow = json.loads(capsys.readouterr().out)["models"][MODEL]["letters"]
    assert run(stream, "list", "--reason", "oversized", "--json") == 0
    none = json.loads(capsys.readouterr().out)["models"][MODEL]["letters"]

    assert ([one["number"] for one in tomorrow], none) == ([1], [])


def test_a_replay_that_died_is_marked(stream: StreamSection, capsys: pytest.CaptureFixture[str]) -> None:
    run(stream, "list")
    lines = capsys.readouterr().out.splitlines()
    run(stream, "list", "--json")
    letters = json.loads(capsys.readouterr().out)["models"][MODEL]["letters"]

    assert lines[1].endswith("undecodable: it is rubbish")
    assert lines[2].endswith("of_tomorrow: it is rubbish (sent again)")
    assert [one["sent_again"] for one in letters] == [False, True]


def test_one_letter_is_one_and_nothing_sent_gives_no_hint(
    stream: StreamSection, capsys: pytest.CaptureFixture[str]
) -> None:
    run(stream, "replay", "0")
    one = capsys.readouterr().out.splitlines()
    run(stream, "replay", "--reason", "oversized")
    none = capsys.readouterr().out.splitlines()

    assert one == [f"{MODEL}: 1 dead letter sent again", "`everstill stream dead list` shows those that die again"]
    assert none == [f"{MODEL}: 0 dead letters sent again"]


@pytest.mark.parametrize("limit", ["0", "-1", "some"])
def test_less_than_one_letter_can_not_be_asked_for(limit: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        app.main(["dead", "list", f"--limit={limit}"])

    assert ended.value.code == 2
    assert f"{limit!r} is not a number of at least 1" in capsys.readouterr().err


def test_every_reason_that_the_code_gives_is_known_and_in_the_docs() -> None:
    sources = [*(ROOT / "distill_loop").rglob("*.py"), ROOT / "protos/tensors.py", ROOT / "protos/columns.py"]
    given = re.compile(
        r'RecordError\([^()]*(?:\([^()]*\)[^()]*)*?"([a-z]+_[a-z_]+|undecodable|oversized)"|reason="([a-z_]+)"'
    )
    found = {"".join(pair) for path in sources for pair in given.findall(path.read_text())}
    page = (ROOT / "docs/architecture.md").read_text()

    assert len(found) > 12
    assert not found - set(REASONS)
    assert not [reason for reason in REASONS if f"`{reason}`" not in page]
