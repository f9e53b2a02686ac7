"""The object store behind the registry: a folder now, S3 by a setting later, memory in tests.

Decides what a path, a version and a conflict are, on top of obstore. Knows nothing of bundles or pointers. obstore's folder
store creates if absent but has no compare-and-swap and doesn't fsync, so `FolderStore` writes by itself: staged beside the
target, fsynced, then renamed (or linked, where it must not exist), and swaps under a file lock. Both kinds pass one test
suite. Synchronous; safe from any thread and, on a folder, from any process of the host.
"""

import contextlib
import dataclasses
import fcntl
import hashlib
import itertools
import os
import pathlib
import re
from collections.abc import Iterator

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, NotFoundError, PreconditionError
from obstore.store import LocalStore, MemoryStore

from protos.errors import ConfigurationError, ConflictError, EverstillError, FormatError, UnavailableError

LOCK_FILE = ".swap.lock"
#: A path's segment. `#` is left out: obstore's folder store takes a name that ends in #digits for a staged file.
_SEGMENT = re.compile(r"[^/\x00-\x1f\x7f#]+")
_staged = itertools.count()


class NotFound(EverstillError):
    """No object has this path."""


class AlreadyExists(ConflictError):
    """An object has this path already."""


class Moved(ConflictError):
    """The object changed since the version that was read."""


class TooLarge(FormatError):
    """The object is larger than its reader allows."""


@dataclasses.dataclass(frozen=True)
class Blob:
    """An object's bytes and the version to swap against."""

    data: bytes
    version: str


#: Objects with this in their path hold captured inputs: their files are for their owner alone.
PRIVATE = "/checkpoints/"


class ObjectStore:
    """Objects by path, with create-if-absent and compare-and-swap, on a store that has both (by ETag).

    Every method raises `UnavailableError` where the store is away, full or closed to us, and `FormatError` where a path
    is not one: '..', empty segments and control characters have no place in it.

    Args:
        backend: obstore's store.
    """

    def __init__(self, backend: LocalStore | MemoryStore) -> None:
        self._backend = backend

    def get(self, path: str, *, max_bytes: int | None = None) -> Blob:
        """Return the object; never torn, since every write is renamed into place.

        Raises:
            NotFound: no object has this path.
            TooLarge: it has more than `max_bytes`; nothing of it was read.
        """
        _check_path(path)
        with _named_errors("read", path):
            result = obstore.get(self._backend, path)
            if max_bytes is not None:
                _check_size(path, result.meta["size"], max_bytes)
            data = bytes(result.bytes())
            return Blob(data, self._version(data, result.meta["e_tag"]))

    def download(self, path: str, target: pathlib.Path, *, max_bytes: int) -> None:
        """Copy an object into a new file of this host, in pieces, and fsync it.

        Raises:
            NotFound: no object has this path.
            TooLarge: it has more than `max_bytes`.
            OSError: the target can't be written.
        """
        _check_path(path)
        with _named_errors("read", path):
            result = obstore.get(self._backend, path)
        _check_size(path, result.meta["size"], max_bytes)
        num_bytes = 0
        with target.open("xb") as file:
            pieces = iter(result.stream())
            while True:
                with _named_errors("read", path):
                    piece = next(pieces, None)
                if piece is None:
                    break
                num_bytes += len(piece)
                _check_size(path, num_bytes, max_bytes)  # it may have grown meanwhile
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())

    def create(self, path: str, data: bytes) -> str:
        """Write an object that must not exist yet and return its version.

        Raises:
            AlreadyExists: somebody was first.
        """
        _check_path(path)
        with _named_errors("write", path):
            return self._version(data, obstore.put(self._backend, path, data, mode="create")["e_tag"])

    def put(self, path: str, data: bytes) -> str:
        """Write an object whatever was there: for status objects and content-addressed bytes only."""
        _check_path(path)
        with _named_errors("write", path):
            return self._version(data, obstore.put(self._backend, path, data)["e_tag"])

    def swap(self, path: str, data: bytes, expected: str | None) -> str:
        """Replace the object only if its version is still `expected`; None means that it must not exist.

        Raises:
            Moved: somebody was first; read again and decide again.
        """
        try:
            return self.create(path, data) if expected is None else self._swap(path, data, expected)
        except AlreadyExists:
            raise Moved(f"{path} was made by somebody else", fix="Read it again and decide again") from None

    def list(self, prefix: str) -> list[str]:
        """Return the paths below a prefix folder, sorted; an empty prefix is the whole store."""
        if prefix:
            _check_path(prefix)
        with _named_errors("list", prefix):
            paths = sorted(str(meta["path"]) for page in obstore.list(self._backend, prefix or None) for meta in page)
        return [path for path in paths if path != LOCK_FILE]

    def delete(self, path: str) -> None:
        """Remove an object; one that is absent is no error."""
        _check_path(path)
        with contextlib.suppress(NotFound), _named_errors("delete", path):
            obstore.delete(self._backend, path)

    def local_path(self, path: str) -> pathlib.Path | None:
        """Return where the object lies on this host's disk, or None for a remote store."""
        return None

    def _swap(self, path: str, data: bytes, expected: str) -> str:
        _check_path(path)
        with _named_errors("swap", path):
            return self._version(data, obstore.put(self._backend, path, data, mode={"e_tag": expected})["e_tag"])

    def _version(self, data: bytes, etag: str | None) -> str:
        return str(etag)


class FolderStore(ObjectStore):
    """Objects as files below a folder. What a call has written survives a kill and a loss of power.

    A version is the content's digest, so an object that went from A to B and back to A counts as not moved; whatever must
    notice that carries a counter (pointers an epoch, leases a time).
    """

    def __init__(self, folder: pathlib.Path) -> None:
        super().__init__(LocalStore(folder))
        self._folder = folder

    def create(self, path: str, data: bytes) -> str:
        """Write an object that must not exist yet and return its version; raises as the base does."""
        with self._staged(path, data) as staged:
            try:
                os.link(staged, self._folder / path)
            except FileExistsError:
                raise AlreadyExists(f"{path} exists already") from None
        return self._version(data, None)

    def put(self, path: str, data: bytes) -> str:
        """Write an object whatever was there."""
        with self._staged(path, data) as staged:
            staged.replace(self._folder / path)
        return self._version(data, None)

    def local_path(self, path: str) -> pathlib.Path | None:
        """Return the object's file."""
        return self._folder / path

    def _swap(self, path: str, data: bytes, expected: str) -> str:
        with _lock_of(self._folder / LOCK_FILE):
            try:
                current = self.get(path).version
            except NotFound:
                current = None
            if current != expected:
                raise Moved(f"{path} was moved by somebody else", fix="Read it again and decide again")
            return self.put(path, data)

    def _version(self, data: bytes, etag: str | None) -> str:
        """A folder's ETag is of inode and time; the content's digest can't be fooled by a coarse clock."""
        return hashlib.sha256(data).hexdigest()

    @contextlib.contextmanager
    def _staged(self, path: str, data: bytes) -> Iterator[pathlib.Path]:
        """Yield a synced file to rename or link into place, then sync the folder; `list` doesn't see such a file."""
        _check_path(path)
        target = self._folder / path
        staged = target.with_name(f"{target.name}#{os.getpid()}{next(_staged):09d}")
        with _named_errors("write", path):
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                mode = 0o600 if PRIVATE in path else 0o666
                with open(staged, "wb", opener=lambda name, flags: os.open(name, flags, mode)) as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                yield staged
            finally:
                staged.unlink(missing_ok=True)
            sync_folder(target.parent)


def open_store(url: str) -> ObjectStore:
    """Open the store of a registry URL: a folder's path or file:// URL, or memory:// for one of its own.

    Raises:
        UnavailableError: the folder can't be made or written.
        ConfigurationError: a scheme that isn't served yet.
    """
    if url.startswith("memory://"):
        return ObjectStore(MemoryStore())
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
    return FolderStore(folder)


@contextlib.contextmanager
def lock_file(path: pathlib.Path, *, wait: bool = True) -> Iterator[None]:
    """Hold an exclusive lock on a file of this host, made if absent; it ends with the process, however that ends.

    Raises:
        BlockingIOError: another holds it, and it isn't waited for. OSError: the file can't be made or locked.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)  # children don't inherit it
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield
    finally:
        os.close(descriptor)


def sync_folder(folder: pathlib.Path) -> None:
    """Make the names in a folder survive a loss of power."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _lock_of(path: pathlib.Path) -> Iterator[None]:
    with _named_errors("lock", path.name), lock_file(path):
        yield


def _check_path(path: str) -> None:
    for segment in path.split("/"):
        if segment in (".", "..") or not _SEGMENT.fullmatch(segment):
            raise FormatError(f"{path!r} is not a path of the registry")


def _check_size(path: str, num_bytes: int, max_bytes: int) -> None:
    if num_bytes > max_bytes:
        raise TooLarge(f"{path} has {num_bytes:,} bytes, more than the {max_bytes:,} that are allowed")


@contextlib.contextmanager
def _named_errors(verb: str, path: str) -> Iterator[None]:
    """Turn the errors of obstore and of the disk into ours."""
    try:
        yield
    except AlreadyExistsError:
        raise AlreadyExists(f"{path} exists already") from None
    except PreconditionError:
        raise Moved(f"{path} was moved by somebody else", fix="Read it again and decide again") from None
    except (BaseError, OSError) as error:
        if verb in ("read", "delete") and isinstance(error, FileNotFoundError | NotFoundError):
            raise NotFound(f"the registry has no object {path}") from None
        reason = getattr(error, "strerror", None) or (str(error) or type(error).__name__).splitlines()[0]
        raise UnavailableError(
            f"cannot {verb} {path} in the registry: {reason}",
            fix="Check that the store is reachable, writable and has space",
        ) from None
