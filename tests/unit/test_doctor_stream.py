"""What `everstill doctor` says of Kafka and of secrets: what is missing, what differs, what others could read, a key that is gone."""

import importlib.util
import json
import pathlib
from typing import Any

import pytest

from everstill import rooms
from everstill.doctor.check import Check
from everstill.doctor.stream import secrets, stream
from everstill.options import settings_of
from protos.errors import UnavailableError
from registry.at_rest import AtRest
from serving.shadow.spool import Spool

KEY = "QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVpBQkNERUY="
KAFKA = '[stream.kafka]\nbootstrap = "127.0.0.1:9092"\n'


def configure(folder: pathlib.Path, text: str) -> pathlib.Path:
    path = folder / "everstill.toml"
    path.write_text(text)
    path.chmod(0o600)
    return path


def checks_of(config: pathlib.Path, *, makes_topics: bool = False) -> dict[str, Check]:
    settings = settings_of(config)
    found = [*stream(settings, config, makes_topics=makes_topics), *secrets(settings, config)]
    return {one.about: one for one in found}


def topics(*states: str, problem: str = "", unread: bool = False) -> dict[str, Any]:
    return {
        "prefix": "everstill",
        "problem": problem,
        "fix": "Mend it",
        "topics": [{"state": one, "settings_unread": unread} for one in states],
    }


@pytest.mark.parametrize(
    ("answer", "state", "found"),
    [
        (topics("ok", "ok"), "ok", "all 2 are as configured"),
        (topics("ok", unread=True), "ok", "all 1 have the right partitions; this user can't read their other settings"),
        (topics("ok", "missing"), "warn", "1 of 2 are missing"),
        (topics("missing", "differs", problem="topic x differs"), "fail", "topic x differs"),
    ],
)
def test_topics_are_told_as_they_are(
    answer: dict[str, Any], state: str, found: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rooms, "ask", lambda *arguments, answers_with: answer)

    checks = checks_of(configure(tmp_path, KAFKA))

    assert checks["stream"].found == "Kafka at 127.0.0.1:9092 answers"
    assert (checks["topics everstill.*"].state, checks["topics everstill.*"].found) == (state, found)


def test_who_makes_the_topics_needs_no_warning_that_they_are_missing(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rooms, "ask", lambda *arguments, answers_with: topics("missing"))

    assert checks_of(configure(tmp_path, KAFKA), makes_topics=True)["topics everstill.*"].state == "ok"


def test_a_broker_that_is_away_fails_and_its_topics_are_not_spoken_of(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: str, answers_with: object) -> dict[str, Any]:
        raise UnavailableError("Kafka at 127.0.0.1:9092 doesn't answer", fix="Start it")

    monkeypatch.setattr(rooms, "ask", away)

    (check,) = checks_of(configure(tmp_path, KAFKA)).values()

    assert (check.state, check.exit_code, check.fix) == ("fail", 4, "Start it")


def test_checksums_in_python_are_a_warning(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rooms, "ask", lambda *arguments, answers_with: topics("ok"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)

    check = checks_of(configure(tmp_path, KAFKA))["crc32c"]

    assert check.state == "warn"
    assert "0.2 ms" in check.found


def test_a_password_that_others_can_read_is_a_warning(tmp_path: pathlib.Path) -> None:
    config = configure(tmp_path, f'[at_rest]\nkey = "{KEY}"\n[stream.kafka]\npassword = "secret"\n')
    alone = checks_of(config)["secrets in everstill.toml"]
    config.chmod(0o644)

    shared = checks_of(config)["secrets in everstill.toml"]

    assert (alone.state, shared.state) == ("ok", "warn")
    assert shared.found == "at_rest.key, stream.kafka.password can be read by others (mode 644)"


def test_a_key_that_is_gone_is_named_where_it_sealed_something(tmp_path: pathlib.Path) -> None:
    config = configure(tmp_path, f'[capture]\ndir = "capture"\n[at_rest]\nkey = "{KEY}"\n')
    before = checks_of(config)["at_rest"]
    spool = Spool(tmp_path / "capture/m/spool-stream", max_bytes=2**20, retention_s=60, at_rest=AtRest(b"o" * 32))
    spool.append([b"inputs"])

    after = checks_of(config)["at_rest"]

    assert before.found.startswith("captured inputs are encrypted with the key ")
    assert (after.state, after.exit_code) == ("fail", 2)
    assert "previous_keys" in after.fix


def test_older_keys_without_a_key_are_a_warning(tmp_path: pathlib.Path) -> None:
    config = configure(tmp_path, f"[at_rest]\nprevious_keys = {json.dumps([KEY])}\n")

    assert checks_of(config)["at_rest"].state == "warn"
