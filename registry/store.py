"""The object store behind the registry: a folder now, S3 by a setting later, memory in tests.

Decides what a path, a version and a conflict are, on top of obstore. Knows nothing of bundles or pointers. obstore's folder
store creates if absent but has no compare-and-swap, so a folder swaps under a file lock; both kinds pass one test suite.
Synchronous; safe from any thread and, on a folder, from any process of the host.
"""

import contextlib
import dataclasses
import fcntl
import hashlib
import os
import pathlib
from collections.abc import Iterator

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError
from obstore.store import LocalStore, MemoryStore

from protos.errors import ConfigurationError, ConflictError, EverstillError, UnavailableError

LOCK_FILE = ".swap.lock"


class NotFound(EverstillError):
    """No object has this path."""


class AlreadyExists(ConflictError):
    """An object has this path already."""


class Moved(ConflictError):
    """The object changed since the version that was read."""


@dataclasses.dataclass(frozen=True)
class Blob:
    """An object's bytes and the version to swap against."""

    data: bytes
    version: str


class ObjectStore:
    """Objects by path, with create-if-absent and compare-and-swap.

    Args:
        backend: obstore's store.
        folder: the folder it is rooted at, or None where it isn't one.
    """

    def __init__(self, backend: LocalStore | MemoryStore, folder: pathlib.Path | None) -> None:
        self._backend = backend
        self._folder = folder

    def get(self, path: str) -> Blob:
        """Return the object; never torn, since every write is renamed into place.

        Raises:
            NotFound: no object has this path.
        """
        try:
            result = obstore.get(self._backend, path)
            data = bytes(result.bytes())
        except FileNotFoundError:
            raise NotFound(f"the registry has no object {path}") from None
        except (BaseError, OSError) as error:
            raise _unavailable("read", path, error) from None
        return Blob(data, self._version(data, str(result.meta["e_tag"] or "")))

    def create(self, path: str, data: bytes) -> str:
        """Write an object that must not exist yet and return its version.

        Raises:
            AlreadyExists: somebody was first.
        """
        try:
            result = obstore.put(self._backend, path, data, mode="create")
        except AlreadyExistsError:
            raise AlreadyExists(f"{path} exists already") from None
        except (BaseError, OSError) as error:
            raise _unavailable("write", path, error) from None
        return self._version(data, str(result["e_tag"] or ""))

    def put(self, path: str, data: bytes) -> str:
        """Write an object whatever was there: for status objects and content-addressed bytes only."""
        try:
            result = obstore.put(self._backend, path, data)
        except (BaseError, OSError) as error:
            raise _unavailable("write", path, error) from None
        return self._version(data, str(result["e_tag"] or ""))

    def swap(self, path: str, data: bytes, expected: str | None) -> str:
        """Replace the object only if its version is still `expected`; None means that it must not exist.

        Raises:
            Moved: somebody was first; read again and decide again.
        """
        if expected is None:
            try:
                return self.create(path, data)
            except AlreadyExists:
                raise Moved(f"{path} was made by somebody else") from None
        if self._folder is None:
            return self._swap_by_etag(path, data, expected)
        with self._lock():
            try:
                current = self.get(path).version
            except NotFound:
                current = None
            if current != expected:
                raise Moved(f"{path} was moved by somebody else")
            return self.put(path, data)

    def list(self, prefix: str) -> list[str]:
        """Return the paths below a prefix folder, sorted."""
        try:
            return sorted(str(meta["path"]) for page in obstore.list(self._backend, prefix) for meta in page)
        except FileNotFoundError:
            return []
        except (BaseError, OSError) as error:
            raise _unavailable("list", prefix, error) from None

    def delete(self, path: str) -> None:
        """Remove an object; one that is absent is no error."""
        try:
            obstore.delete(self._backend, path)
        except FileNotFoundError:
            return
        except (BaseError, OSError) as error:
            raise _unavailable("delete", path, error) from None

    def local_path(self, path: str) -> pathlib.Path | None:
        """Return where the object lies on this host's disk, or None for a remote store."""
        return self._folder / path if self._folder else None

    def _swap_by_etag(self, path: str, data: bytes, expected: str) -> str:
        try:
            result = obstore.put(self._backend, path, data, mode={"e_tag": expected})
        except BaseError as error:
            if type(error).__name__ in ("PreconditionError", "NotModifiedError", "AlreadyExistsError"):
                raise Moved(f"{path} was moved by somebody else") from None
            raise _unavailable("swap", path, error) from None
        return str(result["e_tag"])

    def _version(self, data: bytes, etag: str) -> str:
        """A folder's etag is of inode and time; the content's digest can't be fooled by a coarse clock."""
        return hashlib.sha256(data).hexdigest() if self._folder else etag

    @contextlib.contextmanager
    def _lock(self) -> Iterator[None]:
        assert self._folder is not None
        try:
            descriptor = os.open(self._folder / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise _unavailable("lock", LOCK_FILE, error) from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def _unavailable(verb: str, path: str, error: Exception) -> UnavailableError:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return UnavailableError(
        f"cannot {verb} {path} in the registry: {reason}",
        fix="Check that the store is reachable, writable and has space",
    )


def open_store(url: str) -> ObjectStore:
    """Open the store of a registry URL: a folder's path or file:// URL, or memory:// for one of its own.

    Raises:
        UnavailableError: the folder can't be made or written.
        ConfigurationError: a scheme that isn't served yet.
    """
    if url.startswith("memory://"):
        return ObjectStore(MemoryStore(), None)
    scheme, separator, rest = url.partition("://")
    if separator and scheme != "file":
        raise ConfigurationError(f"registry.url has the scheme {scheme!r}", fix="Name a folder")
    folder = pathlib.Path(rest if separator else url).absolute()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UnavailableError(
            f"cannot make the registry's folder {folder}: {error.strerror}", fix="Name another with registry.url"
        ) from None
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UnavailableError(
            f"the registry's folder {folder} is not writable", fix="Change its owner or name another"
        )
    return ObjectStore(LocalStore(folder), folder)
