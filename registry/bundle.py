"""A bundle: one student version as data - a manifest, an ONNX graph, golden answers, and the digests of all three.

Decides the layout, the address (SHA-256 of SHA256SUMS) and what makes a bundle unfit. Knows nothing of ONNX or of serving. The
loop writes bundles; gateway, mirror and command line fetch them. Nothing in a bundle is ever executed. See docs/formats.md.
Safe from any thread and any process of the host.
"""

import hashlib
import os
import pathlib
import re
import shutil
import tempfile
from collections.abc import Mapping
from typing import Literal

import pydantic

from protos.errors import FormatError, UnavailableError
from registry.sections import Section, TensorSpec
from registry.store import NotFound, ObjectStore, TooLarge, lock_file, sync_folder

MANIFEST = "manifest.json"
MODEL = "model.onnx"
GOLDEN = "golden.npz"
SUMS = "SHA256SUMS"
REQUIRED = frozenset({MANIFEST, MODEL, GOLDEN})
VERSION_DIGITS = 12
#: A file larger than this is refused before it is read.
MAX_FILE_BYTES = 8 * 2**30
MAX_SUMS_BYTES = 2**20
#: In a cache: the lock under which it changes, and how the names of copies under way begin.
LOCK_FILE = ".lock"
_ASIDE = ".fetch-"
_SUMS_LINE = re.compile(r"([0-9a-f]{64})  (\S.*)")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")
_DIGEST = re.compile(r"[0-9a-f]{64}")

Reason = Literal["missing_file", "wrong_digest", "unlisted_file", "bad_manifest", "bad_name", "oversize"]


class BundleError(FormatError):
    """A bundle that is torn, tampered with or not one. `reason` is a short slug for metrics."""

    def __init__(self, message: str, reason: Reason) -> None:
        super().__init__(message, fix="It is not loaded; publish the version again")
        self.reason = reason


class Manifest(Section):
    """What a version is and where it comes from."""

    schema_version: Literal[1] = 1
    model: str
    created: str
    origin: Literal["bootstrap", "candidate"]
    parent: str | None
    inputs: tuple[TensorSpec, ...]
    output: TensorSpec
    teacher_version: str
    pairs_learned: int
    steps: int
    parity_max_abs: float
    student: dict[str, int | float | str]
    newest_pair_unix_s: float = 0.0


class LocalBundle(pydantic.BaseModel):
    """A verified bundle on this host's disk."""

    model_config = pydantic.ConfigDict(frozen=True, protected_namespaces=())

    digest: str
    folder: pathlib.Path
    manifest: Manifest

    @property
    def version(self) -> str:
        """The name that answers carry."""
        return version_of(self.digest)


def version_of(digest: str) -> str:
    """Return the version name of a bundle: the first hex digits of its digest."""
    return digest[:VERSION_DIGITS]


def write_bundle(store: ObjectStore, files: Mapping[str, bytes]) -> str:
    """Write a bundle and return its digest. SHA256SUMS goes last: a bundle without it is not one.

    Writing the same files again is fine, and mends one that was torn.

    Raises:
        BundleError: a required file is missing, or a name that no file may have.
    """
    _check_names(files)
    sums = "".join(f"{hashlib.sha256(files[name]).hexdigest()}  {name}\n" for name in sorted(files)).encode()
    digest = hashlib.sha256(sums).hexdigest()
    for name in sorted(files):
        store.put(f"bundles/{digest}/{name}", files[name])
    store.put(f"bundles/{digest}/{SUMS}", sums)
    return digest


def fetch_bundle(store: ObjectStore, digest: str, cache: pathlib.Path) -> LocalBundle:
    """Return a verified bundle in `cache`, copied there if it isn't yet; a copy is verified at every call.

    One process at a time works on a cache, so two that want the same version copy it once.

    Raises:
        BundleError: the bundle, or the object under this digest, is unfit; nothing of it stays in the cache.
        UnavailableError: the store or the cache's disk is away or full.
    """
    if not _DIGEST.fullmatch(digest):
        raise BundleError(f"{digest!r} is not a bundle's digest", "bad_name")
    folder = cache / digest
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with lock_file(cache / LOCK_FILE):
            _sweep(cache)
            try:
                bundle = _verified(folder, digest)
                os.utime(folder)  # lately used: see prune_cache
                return bundle
            except (BundleError, OSError):  # absent, or no longer what it was: fetched anew
                _remove(folder)
            return _fetched(store, digest, folder)
    except OSError as error:
        raise UnavailableError(
            f"cannot keep a bundle in {cache}: {error.strerror}",
            fix="Make room there or name another folder with registry.cache",
        ) from None


def prune_cache(cache: pathlib.Path, *, keep: int) -> int:
    """Remove all but the `keep` bundles that were used last from a cache, and return how many went.

    A bundle that was loaded isn't needed any more, and one that was fetched just now is among those kept.

    Raises:
        UnavailableError: the cache's disk is away.
    """
    try:
        with lock_file(cache / LOCK_FILE):
            folders = [path for path in cache.iterdir() if _DIGEST.fullmatch(path.name)]
            folders.sort(key=lambda path: path.stat().st_mtime_ns, reverse=True)
            for folder in folders[keep:]:
                _remove(folder)
    except OSError as error:
        raise UnavailableError(
            f"cannot prune the cache {cache}: {error.strerror}", fix="Check registry.cache"
        ) from None
    return len(folders[keep:])


def read_manifest(store: ObjectStore, digest: str) -> Manifest:
    """Return a version's manifest without fetching its weights (for display; loading goes through `fetch_bundle`)."""
    return _parse_manifest(store.get(f"bundles/{digest}/{MANIFEST}").data, digest)


def _fetched(store: ObjectStore, digest: str, folder: pathlib.Path) -> LocalBundle:
    """Copy a bundle aside, verify it there, and rename it into place."""
    aside = pathlib.Path(tempfile.mkdtemp(prefix=_ASIDE, dir=folder.parent))
    try:
        _copy(store, digest, aside)
        bundle = _verified(aside, digest)
        sync_folder(aside)
        aside.rename(folder)
    finally:
        _remove(aside)
    sync_folder(folder.parent)
    return bundle.model_copy(update={"folder": folder})


def _copy(store: ObjectStore, digest: str, aside: pathlib.Path) -> None:
    prefix = f"bundles/{digest}"
    _download(store, prefix, SUMS, aside, MAX_SUMS_BYTES)
    listed = _read_sums(aside, digest)
    for path in store.list(prefix):
        if path.removeprefix(f"{prefix}/") not in (SUMS, *listed):
            raise BundleError(
                f"bundle {version_of(digest)} holds a file that {SUMS} doesn't list: {path}", "unlisted_file"
            )
    for name in listed:
        _download(store, prefix, name, aside, MAX_FILE_BYTES)


def _download(store: ObjectStore, prefix: str, name: str, aside: pathlib.Path, max_bytes: int) -> None:
    digest = prefix.rpartition("/")[2]
    source = store.local_path(f"{prefix}/{name}")
    if source is not None and (source.is_symlink() or not source.is_file()):
        raise BundleError(f"bundle {version_of(digest)} has no file {name}", "missing_file")
    try:
        store.download(f"{prefix}/{name}", aside / name, max_bytes=max_bytes)
    except NotFound:
        raise BundleError(f"bundle {version_of(digest)} lacks {name}", "missing_file") from None
    except TooLarge as error:
        raise BundleError(error.message, "oversize") from None


def _verified(folder: pathlib.Path, digest: str) -> LocalBundle:
    """Return the bundle in a folder of this host if every byte of it is what its address says."""
    version = version_of(digest)
    listed = _read_sums(folder, digest)
    for path in folder.iterdir():
        if path.name not in listed and path.name != SUMS:
            raise BundleError(f"bundle {version} holds a file that {SUMS} doesn't list: {path.name}", "unlisted_file")
    for name, expected in listed.items():
        path = folder / name
        if path.is_symlink() or not path.is_file():
            raise BundleError(f"bundle {version} lacks {name}", "missing_file")
        with path.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != expected:
                raise BundleError(
                    f"{name} of bundle {version} doesn't have its digest: torn or tampered with", "wrong_digest"
                )
    return LocalBundle(digest=digest, folder=folder, manifest=_parse_manifest((folder / MANIFEST).read_bytes(), digest))


def _read_sums(folder: pathlib.Path, digest: str) -> dict[str, str]:
    """Return the digest of each file that SHA256SUMS lists, once it has its own: only then are its lines looked at."""
    sums = (folder / SUMS).read_bytes()
    if hashlib.sha256(sums).hexdigest() != digest:
        raise BundleError(
            f"{SUMS} of bundle {version_of(digest)} is not the one that its address names", "wrong_digest"
        )
    return _parse_sums(sums, digest)


def _parse_sums(sums: bytes, digest: str) -> dict[str, str]:
    listed: dict[str, str] = {}
    for line in sums.decode("utf-8", "replace").splitlines():
        match = _SUMS_LINE.fullmatch(line)
        if match is None or match[2] in listed:
            raise BundleError(
                f"{SUMS} of bundle {version_of(digest)} has a line that isn't one: {line[:80]!r}", "bad_name"
            )
        listed[match[2]] = match[1]
    _check_names(listed)
    return listed


def _check_names(names: Mapping[str, object]) -> None:
    for name in names:
        if not _NAME.fullmatch(name) or name == SUMS:
            raise BundleError(f"no file of a bundle may be named {name!r}", "bad_name")
    if missing := REQUIRED - set(names):
        raise BundleError(f"a bundle needs {', '.join(sorted(missing))}", "missing_file")


def _parse_manifest(data: bytes, digest: str) -> Manifest:
    try:
        return Manifest.model_validate_json(data)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise BundleError(
            f"the manifest of {version_of(digest)} is wrong at {place or 'its start'}: {first['msg']}", "bad_manifest"
        ) from None


def _sweep(cache: pathlib.Path) -> None:
    """Remove what a process that was killed amid a copy left; nobody else copies while the lock is held."""
    for left in cache.glob(f"{_ASIDE}*"):
        _remove(left)


def _remove(folder: pathlib.Path) -> None:
    if folder.is_dir() and not folder.is_symlink():
        shutil.rmtree(folder)
    else:
        folder.unlink(missing_ok=True)
