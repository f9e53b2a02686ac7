"""The command line: help with examples, JSON for scripts, one line and an exit code for errors."""

import json
import pathlib
import subprocess
import sys

import pytest

from registry.ledger import Ledger
from registry.pointers import Live, Pointers
from registry.status import write_status
from registry.store import open_store
from tests.support.students import publish_student

COMMANDS = ["demo", "gateway", "teacher", "loop", "status", "versions", "show", "gate", "config"]


def everstill(*arguments: str, cwd: pathlib.Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-c", "from everstill.cli import main; main()", *arguments],
        capture_output=True,
        text=True,
        cwd=cwd,
        timeout=60,
    )


@pytest.fixture
def folder(tmp_path: pathlib.Path) -> pathlib.Path:
    """A configuration and a registry with two versions, the second promoted over the first."""
    (tmp_path / "everstill.toml").write_text('[registry]\nurl = "registry"\n')
    store = open_store(str(tmp_path / "registry"))
    first, second = publish_student(store, winner=3), publish_student(store, winner=5)
    ledger = Ledger(store, "filetypes")
    ledger.append(
        kind="bootstrap", trial_id="bootstrap", digest=first, previous_digest=None, evidence={"pairs": 64}, actor="test"
    )
    evidence = {"wins": 20, "losses": 1, "total": 90, "log_e": 6.2, "alpha": 0.01}
    line = ledger.append(
        kind="promote", trial_id="t-1", digest=second, previous_digest=first, evidence=evidence, actor="test"
    )
    Pointers(store, "filetypes").move_live(Live(digest=second, ledger_line=line.number, epoch=1), None)
    write_status(store, "filetypes", "loop", {"process": "loop", "live": second[:12], "pairs": {"read": 7}})
    return tmp_path


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
    assert "no version begins with 'zzzz'. Known are" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_status_shows_every_process(folder: pathlib.Path) -> None:
    text = everstill("status", cwd=folder).stdout

    assert "is live" in text
    assert "loop loop: running" in text


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
    done = everstill("gate", "--wins", "100", "--losses", "50", "--total", "3000", "--json", cwd=tmp_path)

    assert json.loads(done.stdout)["verdict"] == "PASS"
    assert everstill("gate", "--wins", "9", "--losses", "9", "--total", "3", cwd=tmp_path).returncode == 2


def test_a_folder_that_can_not_be_made_is_one_line(tmp_path: pathlib.Path) -> None:
    (tmp_path / "a-file").write_text("")
    (tmp_path / "everstill.toml").write_text('[registry]\nurl = "a-file/registry"\n')

    done = everstill("status", cwd=tmp_path)

    assert done.returncode == 4
    assert "registry" in done.stderr
    assert len(done.stderr.splitlines()) == 1
