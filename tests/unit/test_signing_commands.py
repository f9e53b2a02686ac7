"""`everstill signing-keys`, and what versions, show and doctor say of signatures: from unsigned, over a rotation, to a revoked key."""

import json
import pathlib
import stat

import pytest

from everstill.doctor.trust import trust
from everstill.options import settings_of
from tests.support.in_process import Done, everstill, two_versions


def keys(*arguments: str, cwd: pathlib.Path) -> dict[str, object]:
    done = everstill("signing-keys", *arguments, "--json", cwd=cwd)
    assert done.returncode == 0, done.stderr
    body: dict[str, object] = json.loads(done.stdout)
    return body


def configure(folder: pathlib.Path, **signing: object) -> None:
    lines = [f"{name} = {json.dumps(value)}" for name, value in signing.items()]
    (folder / "everstill.toml").write_text("\n".join(['[registry]\nurl = "registry"', "[signing]", *lines, ""]))


def states(folder: pathlib.Path) -> list[tuple[str, str]]:
    body = json.loads(everstill("versions", "--json", cwd=folder).stdout)
    return [(line["signature"]["state"], line["signature"]["key"]) for line in body["lines"]]


def version(folder: pathlib.Path, line: int) -> str:
    body = json.loads(everstill("versions", "--json", cwd=folder).stdout)
    return str(body["lines"][line]["version"])


@pytest.mark.parametrize("command", ["create", "show", "rotate", "drop", "sign"])
def test_every_command_has_help_with_an_example(command: str, tmp_path: pathlib.Path) -> None:
    assert (
        f"Example: everstill signing-keys {command}"
        in everstill("signing-keys", command, "--help", cwd=tmp_path).stdout
    )


def test_signing_is_switched_on_and_a_stolen_key_is_changed(tmp_path: pathlib.Path) -> None:
    folder = two_versions(tmp_path)
    assert states(folder) == [("unsigned", ""), ("unsigned", "")]

    made = keys("create", cwd=folder)
    file = pathlib.Path(str(made["file"]))
    configure(folder, key_file=file.name, public_keys=[made["public_key"]], required=True)
    assert [state for state, _ in states(folder)] == ["unsigned", "unsigned"]
    live = version(folder, 1)
    keys("sign", live, cwd=folder)
    assert states(folder) == [("unsigned", ""), ("signed", made["key"])]
    shown = everstill("show", live, cwd=folder).stdout
    assert f"signature: signed by the key {made['key']}, which is pinned" in shown

    new = keys("rotate", cwd=folder)
    keys("sign", live, cwd=folder)
    configure(
        folder, key_file=file.name, public_keys=[made["public_key"], new["public_key"]], revoked_keys=[made["key"]]
    )
    assert states(folder) == [("unsigned", ""), ("signed", new["key"])]
    keys("drop", str(made["key"]), cwd=folder)
    listed = {one["key"]: one for one in keys("show", cwd=folder)["keys"]}  # type: ignore[attr-defined]
    assert listed[new["key"]] | {"public_key": ""} == {
        "key": new["key"], "public_key": "", "signs": True, "pinned": True, "revoked": False,
    }  # fmt: skip
    assert (listed[made["key"]]["signs"], listed[made["key"]]["revoked"]) == (False, True)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_private_keys_are_never_printed(tmp_path: pathlib.Path) -> None:
    said = [everstill("signing-keys", command, cwd=tmp_path) for command in ("create", "show", "rotate", "show")]

    secrets = (tmp_path / "signing-key.pem").read_text().split("\n")
    assert all(done.returncode == 0 for done in said)
    assert not any(line in done.stdout for done in said for line in secrets if line and not line.startswith("-"))
    assert 'key_file = "signing-key.pem"' in said[0].stdout


def failed(done: Done) -> str:
    assert len(done.stderr.splitlines()) == 1
    return done.stderr


def test_what_can_not_be_done_is_one_line(tmp_path: pathlib.Path) -> None:
    folder = two_versions(tmp_path)
    assert "cannot read the private key" in failed(everstill("signing-keys", "sign", "abc", cwd=folder))
    keys("create", cwd=folder)
    assert "no key is overwritten" in failed(everstill("signing-keys", "create", cwd=folder))
    assert "no version begins" in failed(everstill("signing-keys", "sign", "nothing", cwd=folder))
    assert "holds no key" in failed(everstill("signing-keys", "drop", "abc", cwd=folder))
    (folder / "signing-key.pem").chmod(0o644)
    assert "can be read or changed by others" in failed(everstill("signing-keys", "show", cwd=folder))


def test_the_doctor_says_what_is_asked_of_versions(tmp_path: pathlib.Path) -> None:
    folder = two_versions(tmp_path)

    def found() -> tuple[str, str]:
        (check,) = trust(settings_of(folder / "everstill.toml"))
        return check.state, check.found

    assert found() == ("ok", "off: any version that is whole is loaded, signed or not")
    made = keys("create", cwd=folder)
    configure(folder, key_file="signing-key.pem", public_keys=[made["public_key"]], required=True)
    assert found()[1].startswith(f"versions are signed here by {made['key']}; loaded are those of 1 pinned key")
    configure(folder, public_keys=[made["public_key"]])
    assert found()[1].endswith("loaded are those of 1 pinned key, and those that nobody signed")
    configure(folder, key_file="signing-key.pem")
    (folder / "signing-key.pem").chmod(0o644)
    assert found()[0] == "fail"
