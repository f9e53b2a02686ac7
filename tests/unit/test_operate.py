"""The operator's commands and the ledger's, as they are typed: sentences, JSON, exit codes; and the story of a version."""

import json
import pathlib
import sys

import pytest

from everstill.ledger.story import story
from registry.bundle import version_of
from registry.ledger import Range
from registry.store import open_store
from tests.support.in_process import everstill, two_versions
from tests.support.served import Served, serve


@pytest.fixture
def folder(tmp_path: pathlib.Path) -> pathlib.Path:
    """A configuration and a registry with two versions, the second promoted over the first."""
    return two_versions(tmp_path)


def versions(folder: pathlib.Path) -> list[str]:
    body = json.loads(everstill("versions", "--json", cwd=folder).stdout)
    return [line["version"] for line in body["lines"]]


def test_a_rollback_is_typed_once_or_twice_and_is_one_line(folder: pathlib.Path) -> None:
    first, second = versions(folder)
    command = ("rollback", "--expect", second, "--reason", "complaints", "--actor", "ann")

    once = everstill(*command, cwd=folder)
    twice = everstill(*command, cwd=folder)

    assert once.returncode == twice.returncode == 0, once.stderr + twice.stderr
    assert once.stdout.startswith(
        f"rolled back to {first}: complaints; {first} serves as soon as gateways have it. Ledger line 3:"
    )
    assert twice.stdout == f"nothing was changed, line 3 says so already: rolled back to {first}: complaints (ann)\n"
    assert versions(folder) == [first, second, first]
    text = everstill("status", cwd=folder).stdout
    assert f"version {first} is live" in text
    assert "since line 3: rolled back" in text
    assert "(ann)" in text


def test_a_stale_order_is_one_line_and_exit_code_5(folder: pathlib.Path) -> None:
    first, second = versions(folder)

    done = everstill("promote", first, "--expect", first, "--reason", "a try", cwd=folder)

    assert done.returncode == 5
    assert done.stderr == (
        f"everstill: version {first} isn't live: {second} is, since line 2 (promote, test); nothing was changed. "
        "Look with everstill status and decide again\n"
    )


def test_an_order_is_held_to_the_keys_that_the_configuration_pins(folder: pathlib.Path) -> None:
    first, second = versions(folder)
    made = json.loads(everstill("signing-keys", "create", "--json", cwd=folder).stdout)
    signing = f'[signing]\nkey_file = "signing-key.pem"\npublic_keys = ["{made["public_key"]}"]\nrequired = true\n'
    config = folder / "everstill.toml"
    config.write_text(config.read_text() + signing)

    refused = everstill("rollback", cwd=folder)
    everstill("signing-keys", "sign", first[:6], cwd=folder)
    done = everstill("rollback", cwd=folder)

    assert refused.returncode == 3
    assert f"bundle {first} isn't signed" in refused.stderr
    assert len(refused.stderr.splitlines()) == 1
    assert done.returncode == 0, done.stderr
    assert versions(folder) == [first, second, first]


def test_a_promotion_past_the_gate_wants_a_reason(folder: pathlib.Path) -> None:
    assert everstill("promote", versions(folder)[0], cwd=folder).returncode == 2


def test_status_and_versions_say_what_holds_and_who_decided(folder: pathlib.Path) -> None:
    _, second = versions(folder)
    everstill("pin", "--reason", "audit week", "--actor", "ann", cwd=folder)
    body = json.loads(everstill("freeze", "--json", "--actor", "bob", cwd=folder).stdout)

    text = everstill("status", cwd=folder).stdout
    status = json.loads(everstill("status", "--json", cwd=folder).stdout)
    table = everstill("versions", cwd=folder).stdout

    assert f"pinned to {second}: audit week (line 3, ann): nothing is promoted" in text
    assert "promotions frozen (line 4, bob): nothing is promoted" in text
    assert (status["pin"]["line"], status["freeze"]["actor"], status["decided"]["kind"]) == (3, "bob", "promote")
    assert (body["written"], body["line"]["number"], body["live"]) == (True, 4, second)
    assert body["line"]["evidence"] == {"reason": ""}
    assert len(body["line"]["config_digest"]) == 64
    assert [row.split()[-4] for row in table.splitlines() if " pin " in row or " freeze " in row] == ["ann", "bob"]
    assert everstill("unpin", cwd=folder).stdout.startswith(f"{second} is pinned no more")
    assert everstill("unpin", cwd=folder).stdout == "nothing is pinned\n"


def test_status_says_what_is_decided_and_not_followed_yet(folder: pathlib.Path) -> None:
    live = folder / "registry/models/filetypes/live.json"
    before = live.read_text()
    everstill("rollback", cwd=folder)
    live.write_text(before)

    assert "ledger: line 3 is decided and the live pointer doesn't follow yet" in everstill("status", cwd=folder).stdout
    everstill("unfreeze", cwd=folder)
    assert "doesn't follow" not in everstill("status", cwd=folder).stdout


def test_the_ledger_is_printed_and_verified(folder: pathlib.Path) -> None:
    first, second = versions(folder)

    text = everstill("ledger", cwd=folder).stdout
    verified = everstill("ledger", "verify", cwd=folder)
    listed = json.loads(everstill("ledger", "list", "--json", cwd=folder).stdout)

    assert [line.split()[0] for line in text.splitlines()] == ["filetypes:", "1", "2"]
    assert f"first version {first}, from 64 teacher answers  (test)" in text
    assert f"{second} promoted: 20 wins, 1 losses in 90 requests, E = 493 of 100 needed  (test)" in text
    assert verified.stdout.startswith("filetypes: 2 lines, unbroken, kept rows as they were; the newest is 2:")
    assert "known too to: the live pointer" in verified.stdout
    assert len(listed["lines"]) == 2
    kept = f"2:{listed['lines'][1]['hash'][:12]}"
    assert everstill("ledger", "verify", "filetypes", "--at", kept, cwd=folder).returncode == 0
    assert everstill("ledger", "verify", "--at", f"2:{'0' * 12}", cwd=folder).returncode == 3
    assert "is not NUMBER:HASH" in everstill("ledger", "verify", "--at", "2", cwd=folder).stderr


def test_a_damaged_ledger_is_told_with_its_line(folder: pathlib.Path) -> None:
    (folder / "registry/models/filetypes/ledger/00000002.json").unlink()

    done = everstill("ledger", "verify", "--json", cwd=folder)

    body = json.loads(done.stdout)
    assert done.returncode == 3
    assert (body["whole"], body["line"]) == (False, 2)
    assert "line 2 is missing: the live pointer names line 2" in body["problem"]
    assert "ledger: ledger line 2 is missing" in everstill("status", cwd=folder).stdout
    assert everstill("rollback", cwd=folder).returncode == 3


def test_rows_that_are_gone_or_changed_are_told(folder: pathlib.Path) -> None:
    store = open_store(str(folder / "registry"))
    served = Served(store._backend, store, folder, [])  # type: ignore[arg-type]
    line = served.ledger.append(
        kind="reject",
        trial_id="t-9",
        digest="d" * 64,
        previous_digest=None,
        evidence={},
        rows_digest="0" * 64,
        actor="x",
    )

    gone = everstill("ledger", "verify", cwd=folder)
    store.put(served.ledger.rows_path(line.trial_id), b"{}\n")
    changed = everstill("ledger", "verify", cwd=folder)

    assert (gone.returncode, changed.returncode) == (3, 3)
    assert "the kept rows of trial t-9, ledger line 3, are gone" in gone.stdout
    assert "line 3, were changed" in changed.stdout


def test_an_audit_is_the_loop_s_room_to_answer(folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    became: list[list[str]] = []
    monkeypatch.setattr("os.execv", lambda path, arguments: became.append(arguments))

    everstill("ledger", "audit", "t-1", "--json", cwd=folder)

    assert became == [[sys.executable, "-m", "distill_loop.audit_app", "t-1", "--json", "--config", "everstill.toml"]]


def told(served: Served, digest: str, **more: bool) -> str:
    return "\n".join(story(digest, served.ledger.lines(), **more))


def test_the_story_of_a_version_that_the_gate_promoted(tmp_path: pathlib.Path) -> None:
    served = serve(tmp_path, 1)
    candidate = served.publish(5)
    source = tuple(Range(topic="pairs", partition=0, first=first, end=end) for first, end in ((0, 7), (9, 40)))
    evidence = {"wins": 20, "losses": 1, "total": 90, "log_e": 6.2, "alpha": 0.01, "reason": "evidence 493 reached 100"}
    served.ledger.append(
        kind="promote",
        trial_id="t-5",
        digest=candidate,
        previous_digest=served.digests[0],
        evidence=evidence,
        rows_digest="0" * 64,
        actor="loop epoch 3",
        learned_from=source,
        teacher_version="big-2",
    )

    text = told(served, candidate)

    version, first = version_of(candidate), version_of(served.digests[0])
    assert f"{version} serves since" in text
    assert "it passed the gate (line 2, loop epoch 3)" in text
    assert "it has learned from offsets pairs/0 0 to 6 and 9 to 39; the teacher was big-2" in text
    assert (
        f"promoted by the gate in trial t-5 against {first}: 20 wins, 1 losses in 90 requests, E = 493 of 100 needed"
        in text
    )
    served.order("rollback", reason="complaints")
    text = told(served, candidate)
    assert f"{version} served once and doesn't any more: {first} serves now" in text
    assert "then line 3, " in text
    assert f"rolled back to {first}: complaints, by ann@host" in text


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        ("reject", "it was rejected by the gate"),
        ("inconclusive", "it was not decided by its trial"),
        ("observe", "it passed the gate while nothing was to be promoted"),
    ],
)
def test_the_story_of_a_candidate_that_never_served(kind: str, why: str, tmp_path: pathlib.Path) -> None:
    served = serve(tmp_path, 1)
    candidate = served.publish(5)
    assert "nothing was decided about it" in told(served, candidate)
    assert "its trial is open" in told(served, candidate, on_trial=True)
    served.append(kind, candidate, "t-5", reason="for a test")  # type: ignore[arg-type]

    assert f"{version_of(candidate)} doesn't serve: {why}; {version_of(served.digests[0])} serves now" in told(
        served, candidate
    )


def test_the_story_of_what_an_operator_decided(tmp_path: pathlib.Path) -> None:
    served = serve(tmp_path)
    served.order("promote", version=served.digests[0], reason="by hand")
    served.order("freeze", reason="release day")

    text = told(served, served.digests[0])

    assert "it was promoted past the gate, by order (line 4, ann@host)" in text
    assert "promotions are frozen since line 5 by ann@host: release day: nothing is promoted" in text
    assert "it is the last resort" in text
