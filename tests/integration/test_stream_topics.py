"""`everstill stream topics`, `brokers` and what keeps a demo's topics, on a real broker: checked, made, named where they differ, never changed."""

import json
import pathlib
import signal
import subprocess
import sys
import uuid
from typing import Any

import pytest

from distill_loop.stream import app
from tests.support.everstill_command import environment
from tests.support.waiting import wait_for

KINDS = ("pairs", "trials", "labels", "reports", "dead")


@pytest.fixture
def config(tmp_path: pathlib.Path, kafka_bootstrap: str) -> pathlib.Path:
    """A configuration of two models with topics of their own."""
    return configure(tmp_path, kafka_bootstrap, f"t-{uuid.uuid4().hex}")


def configure(folder: pathlib.Path, bootstrap: str, prefix: str, partitions: int = 2) -> pathlib.Path:
    path = folder / "everstill.toml"
    path.write_text(
        f'[stream]\npartitions = {partitions}\n[stream.kafka]\nbootstrap = "{bootstrap}"\ntopic_prefix = "{prefix}"\n'
        "[models.a.model]\n[models.b.model]\n"
    )
    return path


def prefix_of(config: pathlib.Path) -> str:
    return config.read_text().partition('topic_prefix = "')[2].partition('"')[0]


def ask(config: pathlib.Path, capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict[str, Any], str]:
    code = app.main([*arguments, "--json", "--config", str(config)])
    said = capsys.readouterr()
    return code, json.loads(said.out or "{}"), said.err


def test_topics_that_are_missing_are_named_and_made_once(
    config: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = ask(config, capsys, "topics")
    made = ask(config, capsys, "topics", "--create")
    again = ask(config, capsys, "topics", "--create")

    names = [f"{prefix_of(config)}.{model}.{kind}" for model in "ab" for kind in KINDS]
    assert before[0] == 2
    assert before[2] == (
        f"everstill stream: Kafka has no topic {', '.join(names)}. Make the topics: `everstill stream topics --create`\n"
    )
    assert (made[0], made[1]["created"], made[1]["problem"]) == (0, names, "")
    assert [one["partitions"] for one in made[1]["topics"]] == [2, 1, 2, 1, 1] * 2
    assert {one["state"] for one in made[1]["topics"]} == {"ok"}
    assert (again[0], again[1]["created"]) == (0, [])


def test_a_topic_that_differs_is_told_and_left_as_it_is(
    config: pathlib.Path, kafka_bootstrap: str, capsys: pytest.CaptureFixture[str]
) -> None:
    ask(config, capsys, "topics", "--create")
    configure(config.parent, kafka_bootstrap, prefix_of(config), partitions=3)
    config.write_text(config.read_text().replace("[stream]", "[stream]\nretention_s = 60"))

    code, body, said = ask(config, capsys, "topics", "--create", "--model", "a")

    assert code == 2
    assert body["created"] == []
    assert said.startswith(
        f"everstill stream: topic {prefix_of(config)}.a.pairs differs: partitions 2, not 3 (stream.partitions), "
        "retention.ms 604800000, not 60000 (stream.retention_s); so do "
    )
    configure(config.parent, kafka_bootstrap, prefix_of(config))
    assert ask(config, capsys, "topics")[0] == 0


def test_a_topic_that_brokers_won_t_make_is_told_with_their_reason(
    config: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config.write_text(config.read_text().replace("[stream.kafka]", "[stream.kafka]\nreplication = 9"))

    code, _, said = ask(config, capsys, "topics", "--create")

    assert code == 2
    assert "a.pairs can't be made: " in said
    assert "stream.kafka.replication" in said


def test_people_read_lines_and_brokers(config: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    app.main(["topics", "--create", "--config", str(config)])
    app.main(["brokers", "--config", str(config)])

    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["created", f"{prefix_of(config)}.a.pairs", "partitions", "2,", "replicas", "1"]
    assert lines[-1].startswith("cluster ")


def test_a_stream_that_is_a_file_has_no_topics(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, body, said = ask(configure(tmp_path, "", "t"), capsys, "brokers")

    assert (code, body) == (2, {})
    assert said.startswith("everstill stream: stream.kafka.bootstrap is not set: the stream is the file ")


def test_kept_topics_are_there_until_their_keeper_is_told_to_stop(
    config: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prefix = prefix_of(config)
    command = [sys.executable, "-m", "distill_loop.stream.app", "keep", "--prefix", prefix, "--config", str(config)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment()) as keeper:
        assert keeper.stdout is not None
        told = json.loads(keeper.stdout.readline())
        there = ask(config, capsys, "topics")
        second = ask(config, capsys, "keep", "--prefix", prefix)

        keeper.send_signal(signal.SIGTERM)
        assert keeper.wait(30) == 0

    assert len(told["topics"]) == 10
    assert there[0] == 0
    assert (second[0], "is there already, and isn't ours" in second[2]) == (5, True)
    wait_for(
        lambda: {one["state"] for one in ask(config, capsys, "topics")[1]["topics"]} == {"missing"},
        what="the topics to be gone",
    )


def test_nothing_is_kept_under_another_prefix_than_the_one_that_is_named(
    config: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, said = ask(config, capsys, "keep", "--prefix", "another")

    assert code == 2
    assert "nothing under it is made or deleted" in said
