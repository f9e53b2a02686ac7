"""The pointers of a model: which version is live, which candidate is on trial, where the loop's newest checkpoint lies.

Decides only that a pointer moves by compare-and-swap and never to an older epoch. The loop moves them, and an operator's command the
live one; gateways only read. See docs/formats.md for their bytes. Any thread, any process.
"""

from typing import TypeVar

import pydantic

from protos.errors import ConflictError, FormatError
from registry.sections import Section
from registry.store import NotFound, ObjectStore


class Live(Section):
    """The version that gateways serve, and the ledger line that decided it."""

    digest: str = pydantic.Field(pattern=r"^[0-9a-f]{64}$")
    ledger_line: int
    epoch: int


class Trial(Section):
    """The candidate that is being compared with the incumbent, on a share of requests."""

    trial_id: str
    incumbent: str
    candidate: str
    share: float = pydantic.Field(ge=0, le=1)
    opened_unix_s: float


class Checkpoint(Section):
    """The loop's newest checkpoint, and the newest ledger line that the loop knew when it was written (0: none, or a version before wrote it)."""

    path: str
    epoch: int
    sequence: int
    ledger_line: int = 0
    ledger_hash: str = ""


class _OpenTrial(Trial):
    """The open trial as trial.json has it: with the epoch of the loop that opened it, or took it over."""

    epoch: int = 0

    @property
    def trial(self) -> Trial:
        return Trial.model_validate(self.model_dump(exclude={"epoch"}))


class _NoTrial(Section):
    """What the trial pointer holds between trials, so that it can be swapped like any other."""

    closed: str
    epoch: int = 0


class _TrialPointer(pydantic.RootModel[_OpenTrial | _NoTrial]):
    """What trial.json holds."""


#: A pointer has a few hundred bytes; more is somebody else's doing, and isn't read.
MAX_BYTES = 2**16
Pointer = TypeVar("Pointer", bound=pydantic.BaseModel)


class PointerMoved(ConflictError):
    """The pointer isn't any more what its mover had read."""


class StaleEpoch(ConflictError):
    """The pointer was moved by a newer holder of the lease."""


class Pointers:
    """The pointers of one model in one registry. Any thread, any process."""

    def __init__(self, store: ObjectStore, model: str) -> None:
        self._store = store
        self._folder = f"models/{model}"

    def live(self) -> Live | None:
        """Return the live version, or None before the first."""
        return self._read("live", Live)[0]

    def trial(self) -> Trial | None:
        """Return the open trial, or None."""
        body, _ = self._read("trial", _TrialPointer)
        return body.root.trial if body and isinstance(body.root, _OpenTrial) else None

    def checkpoint(self) -> Checkpoint | None:
        """Return where the newest checkpoint lies, or None before the first."""
        return self._read("checkpoint", Checkpoint)[0]

    def move_live(self, new: Live, expected: Live | None) -> None:
        """Move the live pointer if it still is `expected`.

        Raises:
            PointerMoved: it isn't. StaleEpoch: its epoch is newer than `new`'s.
        """
        current, version = self._read("live", Live)
        self._move("live", new, current, version, expected, current.epoch if current else 0)

    def move_checkpoint(self, new: Checkpoint, expected: Checkpoint | None) -> None:
        """Move the checkpoint pointer if it still is `expected`, or names this checkpoint already; raises as `move_live`.

        A path is one holder's alone: a move that was made and never heard of is made again, perhaps with a newer ledger line.
        """
        current, version = self._read("checkpoint", Checkpoint)
        if current is not None and current.path == new.path:
            expected = current
        self._move("checkpoint", new, current, version, expected, current.epoch if current else 0)

    def set_trial(self, new: Trial | None, *, epoch: int) -> None:
        """Open a trial, or close the open one with None. The pointer keeps the epoch, so that who has an older one can't move it any more.

        Args:
            epoch: of the mover's lease.

        Raises:
            StaleEpoch: a newer holder of the lease has set it. Moved: somebody else changed it at the same moment.
        """
        body, version = self._read("trial", _TrialPointer)
        held = body.root if body else _NoTrial(closed="")
        if held.epoch > epoch:
            raise _stale("trial", held.epoch, epoch)
        current = held.trial if isinstance(held, _OpenTrial) else None
        if new == current and held.epoch == epoch:
            return
        closed = held.trial_id if isinstance(held, _OpenTrial) else held.closed
        after = _OpenTrial(**new.model_dump(), epoch=epoch) if new else _NoTrial(closed=closed, epoch=epoch)
        self._store.swap(f"{self._folder}/trial.json", after.model_dump_json().encode(), version)

    def close_trial(self, trial_id: str, *, epoch: int) -> None:
        """Close this trial where it is the open one; raises as `set_trial`."""
        current = self.trial()
        if current is not None and current.trial_id == trial_id:
            self.set_trial(None, epoch=epoch)

    def _read(self, name: str, kind: type[Pointer]) -> tuple[Pointer | None, str | None]:
        path = f"{self._folder}/{name}.json"
        try:
            blob = self._store.get(path, max_bytes=MAX_BYTES)
        except NotFound:
            return None, None
        try:
            return kind.model_validate_json(blob.data), blob.version
        except pydantic.ValidationError as error:
            raise FormatError(
                f"{path} is not a pointer: {error.errors()[0]['msg']}", fix="Restore it from the ledger's last line"
            ) from None

    def _move(
        self,
        name: str,
        new: Live | Checkpoint,
        current: Section | None,
        version: str | None,
        expected: Section | None,
        epoch: int,
    ) -> None:
        if current == new:
            return
        if current != expected:
            raise PointerMoved(f"the {name} pointer was moved by somebody else", fix="Read it again and decide again")
        if new.epoch < epoch:
            raise _stale(name, epoch, new.epoch)
        self._store.swap(f"{self._folder}/{name}.json", new.model_dump_json().encode(), version)


def _stale(name: str, epoch: int, mine: int) -> StaleEpoch:
    return StaleEpoch(
        f"the {name} pointer belongs to epoch {epoch}, this process to {mine}",
        fix="A newer loop took over; stop this one",
    )
