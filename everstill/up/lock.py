"""Which `everstill up` owns a folder: the one that holds its lock.

Decides it before anything is checked, moved or started: two that begin at once would else see nothing of each other until their
processes tell their status. The system frees the lock when its holder ends, whatever ends it. Called by `up`; main thread.
"""

import contextlib
import os
import pathlib
from collections.abc import Iterator

from protos.errors import ConflictError, UnavailableError
from registry.store import lock_file

LOCK_FILE = "up.lock"


@contextlib.contextmanager
def only_one(logs: pathlib.Path, setting: str) -> Iterator[None]:
    """Hold the lock of a folder of logs; `setting` is what it follows from.

    Raises:
        ConflictError: another `everstill up` holds it. UnavailableError: the folder can't be used.
    """
    path = logs / LOCK_FILE
    with contextlib.ExitStack() as stack:
        try:
            logs.mkdir(parents=True, exist_ok=True)
            stack.enter_context(lock_file(path, wait=False))
            path.write_text(str(os.getpid()))
        except BlockingIOError:
            raise ConflictError(
                f"another everstill up with logs in {logs} runs already (pid {path.read_text() or 'unknown'})",
                fix=f"Stop it first, or give this one a {setting} of its own",
            ) from None
        except OSError as error:
            raise UnavailableError(
                f"cannot use the folder {logs}: {error.strerror}", fix=f"Set {setting} to where it can be written"
            ) from None
        yield
