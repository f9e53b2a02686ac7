"""The demo's stream on Kafka: what its configuration says, what it refuses, and what is said where topics are left."""

import pathlib
import tomllib
from collections.abc import Sequence

import pytest

from distill_loop.stream import app
from distill_loop.stream.topics import Topic, Wanted
from everstill.demo.topics import Stream, check, own_topics
from protos.errors import ConfigurationError, UnavailableError


class FakeBrokers:
    """Brokers on which nothing is there, and that are away when topics shall be deleted."""

    def __init__(self, settings: object) -> None:
        self.created: list[str] = []

    def __enter__(self) -> "FakeBrokers":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def look(self, wanted: Sequence[Wanted]) -> list[Topic]:
        return [Topic(one, "missing") for one in wanted]

    def create(self, wanted: Sequence[Wanted]) -> None:
        self.created += [one.name for one in wanted]

    def delete(self, names: Sequence[str]) -> None:
        raise UnavailableError("Kafka at k:1 doesn't answer")


class ToldAtOnce:
    """A word to stop that comes at once."""

    def __init__(self, *_: int) -> None:
        pass

    def wait(self) -> None:
        pass


def test_each_run_has_a_prefix_of_its_own_and_the_file_says_it() -> None:
    first, second = Stream.of("k:9092"), Stream.of("k:9092")

    assert first.prefix != second.prefix
    assert tomllib.loads(first.settings()) == {
        "stream": {"kafka": {"bootstrap": "k:9092", "topic_prefix": first.prefix}}
    }
    assert (Stream.of(None).settings(), Stream.of("").report()) == ("", {"kind": "embedded"})


def test_an_address_that_is_none_is_told_with_an_example() -> None:
    with pytest.raises(ConfigurationError, match=r"--kafka 'kafka' is not host:port\. Name a broker, e\.g\. --kafka "):
        Stream.of("kafka")


def test_another_prefix_in_the_environment_is_refused_before_anything_is_made(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EVERSTILL_STREAM__KAFKA__TOPIC_PREFIX", "production")

    with pytest.raises(ConfigurationError, match="Unset EVERSTILL_STREAM__KAFKA__BOOTSTRAP and "):
        check(Stream.of("127.0.0.1:1"), tmp_path / "everstill.toml")


def test_without_kafka_nothing_is_kept(tmp_path: pathlib.Path) -> None:
    with own_topics(Stream(), tmp_path / "everstill.toml", print):
        assert list(tmp_path.iterdir()) == []


def test_topics_that_could_not_be_deleted_are_named(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "everstill.toml"
    config.write_text(Stream("k:1", "everstill-demo-1").settings())
    monkeypatch.setattr(app, "Brokers", FakeBrokers)
    monkeypatch.setattr(app, "Stopping", ToldAtOnce)

    code = app.main(["keep", "--prefix", "everstill-demo-1", "--config", str(config)])

    assert code == 4
    assert capsys.readouterr().err == (
        "everstill stream: the topics everstill-demo-1.* are left on Kafka: Kafka at k:1 doesn't answer. "
        "Delete them by Kafka's own tools\n"
    )
