"""Stores of each kind, so that one suite of promises runs on them all."""

import pathlib

from registry.store import ObjectStore, open_store

KINDS = ("memory", "folder")


def make_store(kind: str, folder: pathlib.Path) -> ObjectStore:
    """Return an empty store; a folder store lies in `folder`/registry."""
    return open_store("memory://" if kind == "memory" else str(folder / "registry"))
