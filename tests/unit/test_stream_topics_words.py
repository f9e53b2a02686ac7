"""What `everstill stream topics` says where topics differ, or where no broker answers, around brokers of this test."""

import json
import pathlib
from collections.abc import Sequence
from typing import ClassVar

import pytest

from distill_loop.stream import app
from distill_loop.stream.topics import Difference, Topic, Wanted
from protos.errors import UnavailableError
from protos.topics import PAIRS, TRIALS

RETENTION = Difference("retention.ms", "60000", "1", "stream.retention_s")
TIMESTAMPS = Difference("message.timestamp.type", "LogAppendTime", "CreateTime")
PARTITIONS = Difference("partitions", "1", "3")


class FakeBrokers:
    """Brokers whose topics of a kind differ as a test says."""

    differences: ClassVar[dict[str, tuple[Difference, ...]]] = {}

    def __init__(self, settings: object) -> None:
        pass

    def __enter__(self) -> "FakeBrokers":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def look(self, wanted: Sequence[Wanted]) -> list[Topic]:
        of = self.differences
        return [Topic(one, "differs" if of.get(one.kind) else "ok", of.get(one.kind, ())) for one in wanted]


class Away(FakeBrokers):
    """Brokers of which none answers."""

    def __init__(self, settings: object) -> None:
        raise UnavailableError("Kafka at k:1 doesn't answer", fix="Start it")


def ask(folder: pathlib.Path, capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    config = folder / "everstill.toml"
    config.write_text('[stream.kafka]\nbootstrap = "k:1"\ntopic_prefix = "p"\n[model]\nname = "m"\n')
    code = app.main(["topics", *arguments, "--config", str(config)])
    said = capsys.readouterr()
    return code, said.out, said.err


@pytest.mark.parametrize(
    ("differences", "fix"),
    [
        (
            {PAIRS: (RETENTION,)},
            "set stream.retention_s to what the topics have, or let their owner change them",
        ),
        ({PAIRS: (TIMESTAMPS,)}, "only the topics' owner can change message.timestamp.type"),
        (
            {PAIRS: (RETENTION, TIMESTAMPS), TRIALS: (PARTITIONS, TIMESTAMPS)},
            "set stream.retention_s to what the topics have, or let their owner change them; "
            "only the topics' owner can change message.timestamp.type, partitions of p.m.trials",
        ),
    ],
)
def test_only_what_a_setting_can_follow_is_asked_to_be_set(
    differences: dict[str, tuple[Difference, ...]],
    fix: str,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(app, "Brokers", FakeBrokers)
    monkeypatch.setattr(FakeBrokers, "differences", differences)

    code, out, err = ask(tmp_path, capsys, "--json")

    assert code == 2
    assert json.loads(out)["fix"] == f"Everstill changes no topic: {fix}"
    assert err.endswith(f". Everstill changes no topic: {fix}\n")


def test_json_is_printed_where_no_broker_answers(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(app, "Brokers", Away)

    code, out, err = ask(tmp_path, capsys, "--json")
    plain = ask(tmp_path, capsys)

    body = json.loads(out)
    assert (code, body["problem"], body["fix"]) == (4, "Kafka at k:1 doesn't answer", "Start it")
    assert (body["created"], body["topics"]) == ([], [])
    assert err == "everstill stream: Kafka at k:1 doesn't answer. Start it\n"
    assert plain == (4, "", err)
