"""Fetching a bundle: from the registry to a verified copy on this host, or a refusal that says why.

Decides in which order a bundle is examined - its sums' address, who signed them, names, sizes, digests, manifest, graph - so that as little as can be
is read of one that won't do, and nothing of it reaches a runtime before every check has passed. Called by whoever loads a version: gateway, mirror,
loop, command line. Safe from any thread and any process of the host.
"""

import contextlib
import dataclasses
import hashlib
import os
import pathlib
import re
import shutil
import tempfile

import pydantic

from protos.errors import UnavailableError
from registry import signing
from registry.bundle import (
    MANIFEST,
    MAX_FILE_BYTES,
    MODEL,
    MODEL_DATA,
    SIGNATURES,
    SUMS,
    BundleError,
    Manifest,
    check_sums,
    parse_manifest,
    parse_sums,
    read_small,
    version_of,
    vouched,
)
from registry.graph_check.model import check_model
from registry.graph_check.wire import GraphError
from registry.sections import BundlesSection, SigningSection
from registry.signing import Trust
from registry.store import NotFound, ObjectStore, TooLarge, lock_file, sync_folder

#: In a cache: the lock under which it changes, and how the names of copies under way begin.
LOCK_FILE = ".lock"
_ASIDE = ".fetch-"
_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclasses.dataclass(frozen=True)
class Policy:
    """What a bundle has to be, beside whole: signed by whom, and how large and made of what at most."""

    trust: Trust = dataclasses.field(default_factory=Trust)
    limits: BundlesSection = dataclasses.field(default_factory=BundlesSection)

    @classmethod
    def of(cls, signed: SigningSection, bundles: BundlesSection) -> "Policy":
        """Return what the configuration says."""
        return cls(Trust.of(signed), bundles)


class LocalBundle(pydantic.BaseModel):
    """A verified bundle on this host's disk. signed_by: the id of the trusted key that signed it, empty where nobody had to."""

    model_config = pydantic.ConfigDict(frozen=True, protected_namespaces=())

    digest: str
    folder: pathlib.Path
    manifest: Manifest
    signed_by: str = ""

    @property
    def version(self) -> str:
        """The name that answers carry."""
        return version_of(self.digest)


def fetch_bundle(store: ObjectStore, digest: str, cache: pathlib.Path, policy: Policy) -> LocalBundle:
    """Return a verified bundle in `cache`, copied there if it isn't yet; a copy is verified at every call.

    Nothing but its sums and their signatures is copied of a bundle that isn't signed as the policy asks, and nothing of its graph is given to a
    runtime before every check has passed. One process at a time works on a cache, so two that want the same version copy it once.

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
                _sign_anew(store, digest, folder, policy.trust)
                bundle = _verified(folder, digest, policy)
                os.utime(folder)  # lately used: see prune_cache
                return bundle
            except (BundleError, OSError):  # absent, or no longer what it was: fetched anew
                _remove(folder)
            return _fetched(store, digest, folder, policy)
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


def _sign_anew(store: ObjectStore, digest: str, folder: pathlib.Path, trust: Trust) -> None:
    """Bring a copy's signatures up to date where they aren't enough; the copy itself is what it was.

    Raises:
        BundleError, OSError: the copy is torn or absent, or its new signatures aren't enough either.
    """
    sums = _read_sums(folder, digest)
    with contextlib.suppress(BundleError):
        vouched(sums, _signatures_in(folder), digest, trust)
        return
    try:
        signatures = read_small(store, f"bundles/{digest}", SIGNATURES)
    except (NotFound, UnavailableError):
        return  # what there is decides
    vouched(sums, signatures, digest, trust)
    aside = folder.parent / f"{_ASIDE}{SIGNATURES}"
    aside.write_bytes(signatures)
    aside.replace(folder / SIGNATURES)


def _fetched(store: ObjectStore, digest: str, folder: pathlib.Path, policy: Policy) -> LocalBundle:
    """Copy a bundle aside, verify it there, and rename it into place."""
    aside = pathlib.Path(tempfile.mkdtemp(prefix=_ASIDE, dir=folder.parent))
    try:
        _copy(store, digest, aside, policy)
        bundle = _verified(aside, digest, policy)
        sync_folder(aside)
        aside.rename(folder)
    finally:
        _remove(aside)
    sync_folder(folder.parent)
    return bundle.model_copy(update={"folder": folder})


def _copy(store: ObjectStore, digest: str, aside: pathlib.Path, policy: Policy) -> None:
    prefix = f"bundles/{digest}"
    _download(store, prefix, SUMS, aside, MAX_FILE_BYTES[SUMS])
    sums = _read_sums(aside, digest)
    with contextlib.suppress(NotFound):
        _download(store, prefix, SIGNATURES, aside, MAX_FILE_BYTES[SIGNATURES], optional=True)
    vouched(sums, _signatures_in(aside), digest, policy.trust)
    listed = parse_sums(sums, digest)
    for path in store.list(prefix):
        if path.removeprefix(f"{prefix}/") not in (SUMS, SIGNATURES, *listed):
            raise BundleError(
                f"bundle {version_of(digest)} holds a file that {SUMS} doesn't list: {path}", "unlisted_file"
            )
    left = policy.limits.max_bytes
    for name in listed:
        _download(store, prefix, name, aside, min(left, MAX_FILE_BYTES.get(name, left)))
        left -= (aside / name).stat().st_size


def _download(
    store: ObjectStore, prefix: str, name: str, aside: pathlib.Path, max_bytes: int, *, optional: bool = False
) -> None:
    digest = prefix.rpartition("/")[2]
    source = store.local_path(f"{prefix}/{name}")
    if source is not None and (source.is_symlink() or (not source.is_file() and (not optional or source.exists()))):
        raise BundleError(f"bundle {version_of(digest)} has no file {name}", "missing_file")
    try:
        store.download(f"{prefix}/{name}", aside / name, max_bytes=max_bytes)
    except NotFound:
        if optional:
            raise
        raise BundleError(f"bundle {version_of(digest)} lacks {name}", "missing_file") from None
    except TooLarge as error:
        raise BundleError(error.message, "oversize") from None


def _verified(folder: pathlib.Path, digest: str, policy: Policy) -> LocalBundle:
    """Return the bundle in a folder of this host if every byte of it is what its address says, and what the policy asks for."""
    version = version_of(digest)
    sums = _read_sums(folder, digest)
    signed_by = vouched(sums, _signatures_in(folder), digest, policy.trust)
    listed = parse_sums(sums, digest)
    for path in folder.iterdir():
        if path.name not in listed and path.name not in (SUMS, SIGNATURES):
            raise BundleError(f"bundle {version} holds a file that {SUMS} doesn't list: {path.name}", "unlisted_file")
    for name in listed:
        if (folder / name).is_symlink() or not (folder / name).is_file():
            raise BundleError(f"bundle {version} lacks {name}", "missing_file")
    if (num_bytes := sum((folder / name).stat().st_size for name in listed)) > policy.limits.max_bytes:
        raise BundleError(
            f"bundle {version} has {num_bytes:,} bytes, bundles.max_bytes allows {policy.limits.max_bytes:,}",
            "oversize",
        )
    for name, expected in listed.items():
        path = folder / name
        with path.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != expected:
                raise BundleError(
                    f"{name} of bundle {version} doesn't have its digest: torn or tampered with", "wrong_digest"
                )
    manifest = parse_manifest((folder / MANIFEST).read_bytes(), digest)
    data = {MODEL_DATA: (folder / MODEL_DATA).stat().st_size} if MODEL_DATA in listed else {}
    try:
        check_model(folder / MODEL, manifest.inputs, manifest.output, policy.limits, data)
    except GraphError as error:
        raise BundleError(f"version {version}'s graph {error.message}", error.reason) from None
    return LocalBundle(digest=digest, folder=folder, manifest=manifest, signed_by=signed_by)


def _signatures_in(folder: pathlib.Path) -> bytes | None:
    path = folder / SIGNATURES
    if path.is_symlink() or not path.is_file():
        return None
    with path.open("rb") as file:
        return file.read(signing.MAX_BYTES + 1)


def _read_sums(folder: pathlib.Path, digest: str) -> bytes:
    """Return the bytes of SHA256SUMS, once they have their own digest: only then are their lines looked at."""
    if folder.is_symlink():
        raise BundleError(f"{folder} is a link", "missing_file")
    sums = (folder / SUMS).read_bytes()
    check_sums(sums, digest)
    return sums


def _sweep(cache: pathlib.Path) -> None:
    """Remove what a process that was killed amid a copy left; nobody else copies while the lock is held."""
    for left in cache.glob(f"{_ASIDE}*"):
        _remove(left)


def _remove(folder: pathlib.Path) -> None:
    if folder.is_dir() and not folder.is_symlink():
        shutil.rmtree(folder)
    else:
        folder.unlink(missing_ok=True)
