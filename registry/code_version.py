"""Which code this is: the package's version and a digest of its sources, so that a line in a ledger names exactly what decided it.

Decides nothing. Reads the sources once in a process's life. Any thread.
"""

import functools
import hashlib
import importlib.metadata
import pathlib

PACKAGE = "everstill"
ROOMS = ("protos", "registry", "serving", "distill_loop", "everstill")
DIGITS = 12


@functools.cache
def code_version() -> str:
    """Return `<version>+<first 12 hex digits of the SHA-256 over every Python source's path and bytes>`."""
    root, digest = pathlib.Path(__file__).parents[1], hashlib.sha256()
    for room in ROOMS:
        for path in sorted((root / room).rglob("*.py")):
            content = path.read_bytes()
            digest.update(f"{path.relative_to(root).as_posix()}\0{len(content)}\0".encode() + content)
    try:
        version = importlib.metadata.version(PACKAGE)
    except importlib.metadata.PackageNotFoundError:
        version = "0"
    return f"{version}+{digest.hexdigest()[:DIGITS]}"
