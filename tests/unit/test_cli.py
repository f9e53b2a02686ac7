"""The command line: help with examples, JSON for scripts, one line and an exit code for errors."""

import json
import os
import pathlib
import sys

import pytest

from everstill import cli
from registry.status import write_status
from registry.store import open_store
from tests.support import everstill_command
from tests.support.in_process import everstill, two_versions

COMMANDS = [
    "demo",
    "init",
    "doctor",
    "infer",
    "feedback",
    "gateway",
    "teacher",
    "loop",
    "status",
    "versions",
    "show",
    "promote",
    "rollback",
    "pin",
    "unpin",
    "freeze",
    "unfreeze",
    "ledger",
    "gate",
    "config",
]


@pytest.fixture
def folder(tmp_path: pathlib.Path) -> pathlib.Path:
    """A configuration and a registry with two versions, the second promoted over the first."""
    return two_versions(tmp_path)


@pytest.mark.parametrize("command", [name for name in COMMANDS if name != "gate"])
def test_every_command_has_help_with_an_example(command: str, tmp_path: pathlib.Path) -> None:
    done = everstill(command, "--help", cwd=tmp_path)

    assert done.returncode == 0
    assert f"Example: everstill {command}" in done.stdout


def test_versions_lists_the_ledger_after_checking_it(folder: pathlib.Path) -> None:
    body = json.loads(everstill("versions", "--json", cwd=folder).stdout)

    assert body["chain"] == "2 lines, unbroken"
    assert [line["kind"] for line in body["lines"]] == ["bootstrap", "promote"]
    assert "promote" in everstill("versions", cwd=folder).stdout


def test_a_changed_ledger_line_is_named(folder: pathlib.Path) -> None:
    line = folder / "registry/models/filetypes/ledger/00000002.json"
    line.write_text(line.read_text().replace('"wins":20', '"wins":90'))

    done = everstill("versions", cwd=folder)

    assert done.returncode == 3
    assert done.stderr.strip() == "everstill: ledger line 2 was changed after it was written"


def test_show_tells_a_version_by_its_first_characters(folder: pathlib.Path) -> None:
    version = json.loads(everstill("status", "--json", cwd=folder).stdout)["live"]

    body = json.loads(everstill("show", version[:6], "--json", cwd=folder).stdout)

    assert body["version"] == version
    assert body["live"] is True
    assert body["lines"][0]["evidence"]["wins"] == 20


def test_an_unknown_version_is_answered_with_the_known_ones(folder: pathlib.Path) -> None:
    done = everstill("show", "zzzz", cwd=folder)

    assert done.returncode == 1
    assert "no version begins with 'zzzz' in model filetypes. Known are" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_status_shows_every_process(folder: pathlib.Path) -> None:
    text = everstill("status", cwd=folder).stdout

    assert "is live" in text
    assert "loop: running" in text


def test_an_unknown_key_is_an_error_with_a_suggestion(tmp_path: pathlib.Path) -> None:
    (tmp_path / "everstill.toml").write_text("[gateway]\nprot = 1\n")

    done = everstill("gateway", cwd=tmp_path)

    assert done.returncode == 2
    assert "unknown key gateway.prot, did you mean port?" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_the_schema_describes_every_section(tmp_path: pathlib.Path) -> None:
    schema = json.loads(everstill("config", "--schema", cwd=tmp_path).stdout)

    assert {
        "model",
        "registry",
        "stream",
        "gateway",
        "capture",
        "teacher",
        "learner",
        "gate",
        "release",
        "loop",
    } <= set(schema["properties"])
    assert schema["additionalProperties"] is False


def test_secrets_are_masked(tmp_path: pathlib.Path) -> None:
    (tmp_path / "everstill.toml").write_text('[capture]\nseed = "very-secret"\n')

    done = everstill("config", cwd=tmp_path)

    assert done.returncode == 0
    assert "very-secret" not in done.stdout


def test_the_gate_answers_as_json(tmp_path: pathlib.Path) -> None:
    counters = ("--wins", "100", "--losses", "50", "--total", "3000", "--json")

    done = everstill_command.run(tmp_path, "gate", *counters)

    assert json.loads(done.stdout)["verdict"] == "PASS"


def test_impossible_counters_are_one_line(tmp_path: pathlib.Path) -> None:
    done = everstill_command.run(tmp_path, "gate", "--wins", "9", "--losses", "9", "--total", "3")

    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1


def test_the_gate_s_help_has_an_example(tmp_path: pathlib.Path) -> None:
    assert "Example: everstill gate --wins" in everstill_command.run(tmp_path, "gate", "--help").stdout


def test_a_folder_that_can_not_be_made_is_one_line(tmp_path: pathlib.Path) -> None:
    (tmp_path / "a-file").write_text("")
    (tmp_path / "everstill.toml").write_text('[registry]\nurl = "a-file/registry"\n')

    done = everstill("status", cwd=tmp_path)

    assert done.returncode == 4
    assert "registry" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("command", ["status", "versions", "show"])
def test_looking_where_there_is_no_registry_makes_none(command: str, tmp_path: pathlib.Path) -> None:
    done = everstill(command, *(["abc"] if command == "show" else []), cwd=tmp_path)

    assert done.returncode == 4
    assert "there is no registry at" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_configuration_that_is_not_there_is_one_line(tmp_path: pathlib.Path) -> None:
    done = everstill("loop", "--config", "nowhere.toml", cwd=tmp_path)

    assert done.returncode == 2
    assert done.stderr.startswith("everstill: cannot read nowhere.toml")
    assert len(done.stderr.splitlines()) == 1


def test_wrong_usage_has_a_code_of_its_own(tmp_path: pathlib.Path) -> None:
    assert everstill("demo", "--requests", "few", cwd=tmp_path).returncode == 2
    assert everstill("promote", cwd=tmp_path).returncode == 2


@pytest.mark.parametrize(
    ("command", "module"),
    [("gateway", ["serving.app", "gateway"]), ("teacher", ["serving.app", "teacher"]), ("loop", ["distill_loop.app"])],
)
def test_what_runs_for_long_becomes_its_room_s_process(
    command: str, module: list[str], tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    became: list[list[str]] = []
    monkeypatch.setattr(os, "execv", lambda path, arguments: became.append(arguments))
    (tmp_path / "everstill.toml").write_text("")

    everstill(command, cwd=tmp_path)

    assert became == [[sys.executable, "-m", *module, "--config", "everstill.toml"]]


def test_what_is_asked_of_the_stream_is_its_room_s_to_answer(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    became: list[list[str]] = []
    monkeypatch.setattr(os, "execv", lambda path, arguments: became.append(arguments))

    everstill("stream", "topics", "--create", "--config", "mine.toml", cwd=tmp_path)

    room = [sys.executable, "-m", "distill_loop.stream.app"]
    assert became == [[*room, "topics", "--create", "--config", "mine.toml"]]


def test_the_demo_names_the_packages_that_it_misses(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "DEMO_NEEDS", ("numpy", "no_such_package"))

    done = everstill("demo", cwd=tmp_path)

    assert done.returncode == 4
    assert done.stderr == "everstill: the demo needs no_such_package. Install everstill[serving,loop,demo]\n"


def test_a_version_whose_bundle_is_gone_still_has_its_lines(folder: pathlib.Path) -> None:
    version = json.loads(everstill("status", "--json", cwd=folder).stdout)["live"]
    for path in folder.glob(f"registry/bundles/{version}*/*"):
        path.unlink()

    body = json.loads(everstill("show", version, "--json", cwd=folder).stdout)

    assert body["manifest"] is None
    assert len(body["lines"]) == 1


def test_versions_show_the_evidence_and_what_was_needed(folder: pathlib.Path) -> None:
    row = next(line for line in everstill("versions", cwd=folder).stdout.splitlines() if "promote" in line)

    assert [cell.strip() for cell in row.strip("│").split("│")][4:] == [
        "20",
        "1",
        "90",
        "493",
        "100",
        "test",
        "unsigned",
    ]


def test_status_says_who_stopped_who_is_silent_and_what_was_refused(folder: pathlib.Path) -> None:
    store = open_store(str(folder / "registry"))
    refused = [{"version": "c" * 12, "reason": "wrong_digest"}]
    write_status(
        store, "filetypes", "gateway-1", {"process": "gateway", "stopped": True, "live": None, "refused": refused}
    )
    old = folder / "registry/models/filetypes/status/loop.json"
    old.write_text(json.dumps({**json.loads(old.read_text()), "time_unix_s": 0.0}))

    text = everstill("status", cwd=folder).stdout

    assert "gateway gateway-1: stopped, serving nothing" in text
    assert "nothing runs here now" in text
    assert "refused cccccccccccc: wrong_digest" in text
    assert "loop: silent for" in text
