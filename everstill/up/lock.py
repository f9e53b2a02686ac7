"""Which `everstill up` owns a folder: the one that holds its lock.

Decides it before anything is checked, moved or started: two that begin at once would else see nothing of each other until their
processes tell their status. The system frees the lock when its holder ends, whatever ends it. Called by `up`; main thread.
"""

import contextlib
import fcntl
import os
import pathlib
from collections.abc import Iterator

from protos.errors import ConflictError, UnavailableError

LOCK_FILE = "up.lock"


@contextlib.contextmanager
def only_one(logs: pathlib.Path) -> Iterator[None]:
    """Hold the lock of a folder of logs.

    Raises:
        ConflictError: another `everstill up` holds it. UnavailableError: the folder can't be used.
    """
    try:
        logs.mkdir(parents=True, exist_ok=True)
        lock = os.open(logs / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o600)  # children don't inherit it
    except OSError as error:
        raise UnavailableError(
            f"cannot use the folder {logs}: {error.strerror}", fix="Set stream.path to where it can be written"
        ) from None
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.pread(lock, 32, 0).decode(errors="replace") or "unknown"
            raise ConflictError(
                f"another everstill up with logs in {logs} runs already (pid {owner})",
                fix="Stop it first, or give this one a stream.path of its own",
            ) from None
        os.ftruncate(lock, 0)
        os.pwrite(lock, str(os.getpid()).encode(), 0)
        yield
    finally:
        os.close(lock)
