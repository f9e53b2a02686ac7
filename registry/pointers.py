"""The pointers of a model: which version is live, which candidate is on trial, where the loop's newest checkpoint lies.

Decides only that a pointer moves by compare-and-swap and never to an older epoch. The loop and an operator's command move
them; gateways only read. See docs/formats.md for their bytes. Any thread, any process.
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
    """The loop's newest checkpoint."""

    path: str
    epoch: int
    sequence: int


class _NoTrial(Section):
    """What the trial pointer holds between trials, so that it can be swapped like any other."""

    closed: str


class _TrialPointer(pydantic.RootModel[Trial | _NoTrial]):
    """What trial.json holds."""


#: A pointer has a few hundred bytes; more is somebody else's doing, and isn't read.
MAX_BYTES = 2**16
Pointer = TypeVar("Pointer", bound=pydantic.BaseModel)


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
        return self._read_trial()[0]

    def checkpoint(self) -> Checkpoint | None:
        """Return where the newest checkpoint lies, or None before the first."""
        return self._read("checkpoint", Checkpoint)[0]

    def move_live(self, new: Live, expected: Live | None) -> None:
        """Move the live pointer if it still is `expected`.

        Raises:
            ConflictError: it isn't, or its epoch is newer than `new`'s.
        """
        current, version = self._read("live", Live)
        self._move("live", new, current, version, expected, current.epoch if current else 0)

    def move_checkpoint(self, new: Checkpoint, expected: Checkpoint | None) -> None:
        """Move the checkpoint pointer if it still is `expected`; raises as `move_live`."""
        current, version = self._read("checkpoint", Checkpoint)
        self._move("checkpoint", new, current, version, expected, current.epoch if current else 0)

    def set_trial(self, new: Trial | None) -> None:
        """Open a trial, or close the open one with None.

        Raises:
            ConflictError: somebody else changed it at the same moment.
        """
        current, version = self._read_trial()
        if new == current:
            return
        body = new or _NoTrial(closed=current.trial_id if current else "")
        self._store.swap(f"{self._folder}/trial.json", body.model_dump_json().encode(), version)

    def close_trial(self, trial_id: str) -> None:
        """Close this trial where it is the open one: a loop that slept must not close what its successor has opened.

        Raises:
            ConflictError: somebody else changed the pointer at the same moment.
        """
        current = self.trial()
        if current is not None and current.trial_id == trial_id:
            self.set_trial(None)

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

    def _read_trial(self) -> tuple[Trial | None, str | None]:
        body, version = self._read("trial", _TrialPointer)
        return (body.root if body and isinstance(body.root, Trial) else None), version

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
            raise ConflictError(f"the {name} pointer was moved by somebody else", fix="Read it again and decide again")
        if new.epoch < epoch:
            raise ConflictError(
                f"the {name} pointer belongs to epoch {epoch}, this process to {new.epoch}",
                fix="A newer loop took over; stop this one",
            )
        self._store.swap(f"{self._folder}/{name}.json", new.model_dump_json().encode(), version)
