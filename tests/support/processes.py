"""Finding the processes that a test left behind, also those whose parent is gone.

Every process that a test starts inherits a variable that names this session; a look through /proc finds who carries it.
Where there is no /proc (macOS), nothing is found. A fixture that keeps a service for several modules says so with
`shared`.
"""

import contextlib
import os
import pathlib
import signal
import uuid
from collections.abc import Iterator

from tests.support.waiting import wait_for

_VARIABLE = "TEST_SESSION_OF_EVERSTILL"
_shared: set[int] = set()


@contextlib.contextmanager
def marked() -> Iterator[None]:
    """Give this process's children the mark of a fresh session."""
    before = os.environ.get(_VARIABLE)
    os.environ[_VARIABLE] = uuid.uuid4().hex
    try:
        yield
    finally:
        if before is None:
            del os.environ[_VARIABLE]
        else:
            os.environ[_VARIABLE] = before


@contextlib.contextmanager
def shared(pid: int) -> Iterator[None]:
    """Let a process outlive the module that started it."""
    _shared.add(pid)
    try:
        yield
    finally:
        _shared.discard(pid)


def left_behind() -> dict[int, str]:
    """Return the running processes that carry this session's mark, by pid, with their command lines."""
    mark = f"{_VARIABLE}={os.environ[_VARIABLE]}".encode()
    found = {}
    for folder in pathlib.Path("/proc").glob("[0-9]*"):
        pid = int(folder.name)
        if pid == os.getpid() or pid in _shared:
            continue
        with contextlib.suppress(OSError):
            # A zombie has no environment any more, so it is not found: its parent has only to wait for it.
            if mark in (folder / "environ").read_bytes().split(b"\0"):
                found[pid] = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    return found


def end_left_behind(*, grace_s: float = 5.0) -> list[str]:
    """Return the commands of what is left after a moment of grace, having ended it."""
    with contextlib.suppress(TimeoutError):
        wait_for(lambda: not left_behind(), deadline_s=grace_s, what="the test's processes to end")
    left = left_behind()
    for pid in left:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return [f"{pid} {command[:200]}" for pid, command in left.items()]
