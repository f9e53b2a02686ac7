"""The lock on a model's capture folder: two gateways on one would write over each other's rings and spools.

Decides that a folder has one gateway. The lock belongs to an open file that the children inherit, so it lasts as long as any
of them: where the parent was killed, a new one waits for the orphans to end. Main thread.
"""

import contextlib
import fcntl
import os
import pathlib
import time
from collections.abc import Callable

import structlog

from protos.errors import ConflictError, UnavailableError

LOCK_FILE = "gateway.lock"
WAIT_S = 0.1


def lock(folder: pathlib.Path, *, orphans_s: float, stopping: Callable[[], bool] = lambda: False) -> int:
    """Lock a folder, making it where it isn't there; returns the descriptor that holds the lock.

    Args:
        orphans_s: how long children of a gateway that is gone are waited for, in seconds.

    Raises:
        ConflictError: another gateway uses the folder. UnavailableError: it can't be written.
    """
    path = folder / LOCK_FILE
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise UnavailableError(
            f"the capture folder {folder} can't be used: {_why(error)}",
            fix="Set capture.dir to one that can be written",
        ) from None
    end = time.monotonic() + orphans_s
    while not _taken(descriptor):
        owner = _owner(descriptor)
        if _lives(owner) or time.monotonic() > end or stopping():
            os.close(descriptor)
            raise ConflictError(
                f"another gateway (process {owner or 'unknown'}) uses the capture folder {folder}",
                fix="Stop it, or give this one a capture.dir of its own",
            )
        if end - time.monotonic() > orphans_s - WAIT_S:
            structlog.get_logger().warning("waiting for the children of a gateway that is gone", folder=str(folder))
        time.sleep(WAIT_S)
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, str(os.getpid()).encode(), 0)
    return descriptor


def _taken(descriptor: int) -> bool:
    with contextlib.suppress(BlockingIOError):
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    return False


def _owner(descriptor: int) -> int:
    text = os.pread(descriptor, 32, 0)
    return int(text) if text.isdigit() else 0


def _lives(pid: int) -> bool:
    """Whether a process is there; one whose number isn't known may be."""
    if not pid:
        return True
    with contextlib.suppress(ProcessLookupError):
        with contextlib.suppress(PermissionError):
            os.kill(pid, 0)
        return True
    return False


def _why(error: OSError) -> str:
    """Return the reason as a person would say it: a file where a folder should be has misleading numbers."""
    return "a file is in its place" if isinstance(error, FileExistsError | NotADirectoryError) else str(error.strerror)
