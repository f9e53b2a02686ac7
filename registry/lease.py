"""Leases: at most one loop acts for a model, and one that was silent too long finds out that it no longer does.

Decides who holds a lease and its epoch, which grows by one with each new holder; pointers refuse an older epoch, so a holder
that comes back from the dead can change nothing. Clocks of two hosts may differ by less than the lease's length.
"""

import time

import pydantic

from protos.errors import ConflictError
from registry.sections import Section
from registry.store import Moved, NotFound, ObjectStore


class LeaseHeld(ConflictError):
    """Somebody else holds the lease."""


class LeaseLost(ConflictError):
    """This process held the lease and doesn't any more."""


class _Holder(Section):
    owner: str
    epoch: int
    expires_unix_s: float


class Lease:
    """A held lease. Not thread-safe: one thread renews it."""

    def __init__(self, store: ObjectStore, path: str, owner: str, epoch: int, ttl_s: float, version: str) -> None:
        self._store = store
        self._path = path
        self._owner = owner
        self._ttl_s = ttl_s
        self._version = version
        self.epoch = epoch

    @classmethod
    def acquire(cls, store: ObjectStore, model: str, name: str, owner: str, ttl_s: float) -> "Lease":
        """Take the lease if nobody holds it.

        Args:
            owner: unique to this process, so that a restarted one is a new holder.

        Raises:
            LeaseHeld: naming the holder and the time until it may be taken over.
        """
        path = f"models/{model}/leases/{name}.json"
        try:
            blob = store.get(path)
            holder, version = _Holder.model_validate_json(blob.data), blob.version
        except NotFound:
            holder, version = None, None
        except pydantic.ValidationError:
            raise ConflictError(f"{path} is not a lease", fix="Remove it when no loop is running") from None
        remaining_s = holder.expires_unix_s - time.time() if holder else 0.0
        if holder and remaining_s > 0:
            raise LeaseHeld(
                f"{holder.owner} is the {name} of {model} for another {remaining_s:.0f} s", fix="Stop it, or wait"
            )
        epoch = holder.epoch + 1 if holder else 1
        body = _Holder(owner=owner, epoch=epoch, expires_unix_s=time.time() + ttl_s)
        try:
            version = store.swap(path, body.model_dump_json().encode(), version)
        except Moved:
            raise LeaseHeld(
                f"another {name} of {model} took the lease at the same moment", fix="Stop it, or wait"
            ) from None
        return cls(store, path, owner, epoch, ttl_s, version)

    def renew(self) -> None:
        """Hold the lease for another `ttl_s` seconds.

        Raises:
            LeaseLost: somebody took it over; this process must stop acting at once.
        """
        self._write(time.time() + self._ttl_s)

    def release(self) -> None:
        """Give the lease back, so that the next holder needn't wait."""
        self._write(0.0)

    def _write(self, expires_unix_s: float) -> None:
        body = _Holder(owner=self._owner, epoch=self.epoch, expires_unix_s=expires_unix_s)
        try:
            self._version = self._store.swap(self._path, body.model_dump_json().encode(), self._version)
        except Moved:
            raise LeaseLost(f"{self._owner} lost the lease {self._path}", fix="A newer process took over") from None
