"""The slot: the place of the version that serves. Requests lease what is in it; a swap replaces one pointer and drains the old.

Decides that a leased version is never taken away and that a drained one gives its memory back. Leases are taken by gRPC
threads, swaps are made by one loader thread.
"""

import contextlib
import ctypes
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

from protos.errors import UnavailableError
from protos.tensors import Array


class Session(Protocol):
    """What a slot holds."""

    version: str
    digest: str

    def run(self, inputs: Mapping[str, Array]) -> Array:
        """Answer a batch with its logits."""
        ...

    def run_with(self, inputs: Mapping[str, Array], extra: Sequence[str]) -> tuple[Array, dict[str, Array]]:
        """Answer a batch with its logits and these further outputs."""
        ...


class NoVersion(UnavailableError):
    """There is no student version yet."""


class _Held:
    """A version and how many requests are using it."""

    def __init__(self, session: Session) -> None:
        self.session: Session | None = session
        self.leases = 0


class Slot:
    """Holds the serving version, or nothing before the first."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._held: _Held | None = None
        self._trim = _malloc_trim()

    @property
    def version(self) -> str | None:
        """The serving version's name."""
        held = self._held
        session = held.session if held else None
        return session.version if session else None

    @property
    def digest(self) -> str | None:
        """The serving version's digest."""
        held = self._held
        session = held.session if held else None
        return session.digest if session else None

    @contextlib.contextmanager
    def lease(self) -> Iterator[Session]:
        """Use the serving version; it stays loaded until the lease ends, whatever is swapped in.

        Raises:
            NoVersion: the slot is empty.
        """
        with self._changed:
            held = self._held
            if held is None or held.session is None:
                raise NoVersion(
                    "there is no student version yet", fix="Wait for the loop's first release, or ask again later"
                )
            held.leases += 1
            session = held.session
        try:
            yield session
        finally:
            del session
            with self._changed:
                held.leases -= 1
                if not held.leases:
                    self._changed.notify_all()

    def swap(self, session: Session, *, drain_deadline_s: float) -> bool:
        """Make a version the serving one, wait until nobody uses the old one, and free it.

        Returns:
            False where the old one was still in use at the deadline: it is freed by its last lease.
        """
        with self._changed:
            old, self._held = self._held, _Held(session)
            drained = old is None or self._drain(old, drain_deadline_s)
        if self._trim:  # a session is freed by its last reference: a collection would only stall the callers
            self._trim(0)
        return drained

    def _drain(self, old: _Held, deadline_s: float) -> bool:
        drained = self._changed.wait_for(lambda: not old.leases, deadline_s)
        old.session = None
        return drained


def _malloc_trim() -> "ctypes._NamedFuncPointer | None":
    """ONNX Runtime keeps a dropped session's memory in glibc's arenas; this gives it back (measured: flat against +70 MB)."""
    if not sys.platform.startswith("linux"):
        return None
    try:
        return ctypes.CDLL("libc.so.6").malloc_trim
    except (OSError, AttributeError):
        return None
