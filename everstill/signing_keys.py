"""The commands `everstill signing-keys`: make, show, change and drop the keys that versions are signed with, and sign versions that are there.

Decides which file is meant where none is named, and says what to write where; configuration files are never changed. What a key and a signature are
is `registry.signing`'s business. Private keys are never printed.
"""

import json
import pathlib
from typing import Annotated, Any

import typer

from everstill.config import EverstillSettings
from everstill.looking import existing_store, known_digests
from everstill.options import ConfigOption, JsonOption, ModelOption, config_path, models_of
from everstill.signatures import Signatures
from protos.errors import ConfigurationError
from registry.bundle import sign_bundle, version_of
from registry.fetching import Policy, fetch_bundle
from registry.ledger import Ledger
from registry.pointers import Pointers
from registry.sections import public_key_bytes
from registry.signing import Key, Signer, Trust, create_key, drop_key, key_id, read_keys, rotate_key
from registry.standing import find_digest

DEFAULT_FILE = "signing-key.pem"
FileOption = Annotated[
    pathlib.Path | None,
    typer.Option(
        "--file", help=f"Private key file; signing.key_file where it is set, else {DEFAULT_FILE} beside everstill.toml."
    ),
]

app = typer.Typer(no_args_is_help=True, help="Keys that versions are signed with (docs/security.md).")


@app.command(epilog="Example: everstill signing-keys create --json | jq -r .public_key")
def create(config: ConfigOption = None, file: FileOption = None, json_output: JsonOption = False) -> None:
    """Make a key in a new file that its owner alone can read, and say what to write into everstill.toml."""
    path = _file(config, file)
    key = create_key(path)
    says = [
        f"key {key.id} is in {path}: keep it where the loop runs, and nowhere else",
        "where the loop runs:",
        "  [signing]",
        f"  key_file = {json.dumps(_as_written(path, config))}",
        "where versions are loaded:",
        "  [signing]",
        f"  public_keys = [{json.dumps(key.text)}]",
        "  required = true  # once every version that may be loaded is signed: everstill signing-keys sign VERSION",
    ]
    _print({"key": key.id, "public_key": key.text, "file": str(path)}, says, json_output)


@app.command(epilog="Example: everstill signing-keys show --json")
def show(config: ConfigOption = None, file: FileOption = None, json_output: JsonOption = False) -> None:
    """List the keys: what signs here, what is pinned, what is revoked. Public keys only."""
    settings, path = _settings(config), _file(config, file)
    own = (
        list(read_keys(path).keys) if file is not None or settings.signing.key_file is not None or path.exists() else []
    )
    pinned = {key_id(public_key_bytes(text)): text for text in settings.signing.public_keys}
    known = {**dict.fromkeys(settings.signing.revoked_keys, ""), **pinned, **{key.id: key.text for key in own}}
    ours, revoked = {key.id for key in own}, set(settings.signing.revoked_keys)
    keys = [
        {"key": name, "public_key": text, "signs": name in ours, "pinned": name in pinned, "revoked": name in revoked}
        for name, text in known.items()
    ]
    says = [
        f"{one['key']}  {one['public_key'] or '(public key unknown)'}  "
        + (", ".join(what for what in ("signs", "pinned", "revoked") if one[what]) or "unused")
        for one in keys
    ]
    says.append(
        "a version has to be signed"
        if settings.signing.required
        else "a version needs no signature (signing.required is off)"
    )
    _print({"file": str(path) if own else None, "required": settings.signing.required, "keys": keys}, says, json_output)


@app.command(epilog="Example: everstill signing-keys rotate")
def rotate(config: ConfigOption = None, file: FileOption = None, json_output: JsonOption = False) -> None:
    """Add a newer key to the private key file. Old and new keys both sign until the old one is dropped, so gateways learn of it at leisure."""
    path = _file(config, file)
    key, signer = rotate_key(path)
    old = ", ".join(one.id for one in signer.keys[1:])
    says = [
        f"key {key.id} is in {path}, beside {old}",
        "1. restart the loop: what it publishes from now on is signed by all of them",
        f"2. add {json.dumps(key.text)} to signing.public_keys wherever versions are loaded, and restart these",
        "3. sign what serves and what one may go back to: everstill signing-keys sign VERSION",
        f"4. everstill signing-keys drop {signer.keys[-1].id}, restart the loop, and take its public key out of signing.public_keys",
        "where the old key was stolen, name it in signing.revoked_keys at once, after 3",
    ]
    _print(_listed(path, signer, key), says, json_output)


@app.command(epilog="Example: everstill signing-keys drop 3f2a9c0d1e4b5a67")
def drop(
    key: Annotated[str, typer.Argument(help="Id of a key, see everstill signing-keys show.")],
    config: ConfigOption = None,
    file: FileOption = None,
    json_output: JsonOption = False,
) -> None:
    """Take a key out of the private key file, at the end of a rotation. What it signed stays signed, as long as it is pinned."""
    path = _file(config, file)
    left = drop_key(path, key)
    says = [f"key {key} is gone from {path}; {', '.join(one.id for one in left.keys)} signs", "restart the loop"]
    _print(_listed(path, left), says, json_output)


@app.command(epilog="Example: everstill signing-keys sign 3fa2b1c4d5e6")
def sign(
    versions: Annotated[list[str], typer.Argument(help="Versions, or the first characters of each.")],
    config: ConfigOption = None,
    model: ModelOption = None,
    file: FileOption = None,
    json_output: JsonOption = False,
) -> None:
    """Sign versions that are there already: where signing is switched on, or a key is changed.

    Each is fetched and checked first, but for its signatures. A signature says that you know where the version comes from: look at it with everstill show.
    """
    path = _file(config, file)
    signer = read_keys(path)
    models = models_of(config, model)
    if len(models) > 1:
        raise ConfigurationError(f"there are {len(models)} models: {', '.join(models)}", fix="Name one with --model")
    settings = next(iter(models.values()))
    store, name = existing_store(settings), settings.model.name
    known = known_digests(Ledger(store, name).lines(), Pointers(store, name).trial())
    digests = [find_digest(version, known, name) for version in versions]
    before, done = Signatures(store, settings), []
    for digest in digests:
        was = before.of(digest)["says"]
        fetch_bundle(store, digest, settings.registry.cache, Policy(Trust(), settings.bundles))
        sign_bundle(store, digest, signer)
        done.append(
            {"version": version_of(digest), "digest": digest, "was": was, **Signatures(store, settings).of(digest)}
        )
    says = [f"{one['version']}: was {one['was']}; now {one['says']}" for one in done]
    _print({"signed": done, "keys": [key.id for key in signer.keys]}, says, json_output)


def _settings(config: pathlib.Path | None) -> EverstillSettings:
    """Return the settings of any model: all share what is asked of them here."""
    return next(iter(models_of(config).values()))


def _file(config: pathlib.Path | None, file: pathlib.Path | None) -> pathlib.Path:
    path = file or _settings(config).signing.key_file or _folder(config) / DEFAULT_FILE
    return path.absolute()


def _folder(config: pathlib.Path | None) -> pathlib.Path:
    path = config_path(config)
    return (path.parent if path else pathlib.Path()).absolute()


def _as_written(path: pathlib.Path, config: pathlib.Path | None) -> str:
    """Return a path as everstill.toml names it: from its folder, where it lies inside."""
    folder = _folder(config)
    return str(path.relative_to(folder)) if path.is_relative_to(folder) else str(path)


def _listed(path: pathlib.Path, signer: Signer, new: Key | None = None) -> dict[str, Any]:
    body: dict[str, Any] = {"file": str(path), "keys": [{"key": key.id, "public_key": key.text} for key in signer.keys]}
    return {"key": new.id, "public_key": new.text, **body} if new else body


def _print(body: dict[str, Any], says: list[str], json_output: bool) -> None:
    print(json.dumps(body) if json_output else "\n".join(says))
