"""The memory: one checkpoint of everything - student, optimizer, replay, gate, counters, stream positions - or none of it.

Decides when to save and how a checkpoint replaces the last one: the object is written first, then the pointer moves by
compare-and-swap with the lease's epoch, so a loop that was taken over can't overwrite its successor's. One thread.
"""

import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import structlog

from distill_loop.learner import checkpoint
from distill_loop.stream.consumer import Consumer, Position
from distill_loop.stream.dead_letter import DeadLetters
from distill_loop.telemetry import CHECKPOINT_S, CHECKPOINTS
from protos.errors import FormatError
from protos.topics import PAIRS
from registry.at_rest import AtRest
from registry.pointers import Checkpoint, Pointers
from registry.store import ObjectStore

#: Version of the checkpoint's layout.
LAYOUT = 6
#: Those before it that are read too.
UPGRADED = (4, 5)
#: Time between two checkpoints, in times that one takes.
SAVING_SHARE = 9.0


class Part(Protocol):
    """Something that is remembered: all of it as plain values and tensors."""

    def state_dict(self) -> dict[str, Any]:
        """Return everything."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Become what `state_dict` described."""
        ...


class Memory:
    """Saves and restores the loop.

    Args:
        parts: what is remembered beside the positions, by name.
        at_rest: seals checkpoints, where a key is configured: they hold captured inputs.
        dead_letters: made safe before a checkpoint that moves past them.
        epoch: of the lease.
        every_s: time between two checkpoints while something changes; more where saving takes long, so that it takes a tenth of the time at most.
        tip: number and hash of the newest ledger line that is known, for the checkpoint's pointer.
        every_messages: instead of time, checkpoints follow the offsets of pairs: one where they pass a multiple of this.
    """

    def __init__(
        self,
        store: ObjectStore,
        model: str,
        parts: Mapping[str, Part],
        consumer: Consumer,
        dead_letters: DeadLetters,
        at_rest: AtRest,
        *,
        epoch: int,
        every_s: float,
        every_messages: int | None = None,
        tip: Callable[[], tuple[int, str]] = lambda: (0, ""),
    ) -> None:
        self._store = store
        self._folder = f"models/{model}/checkpoints"
        self._pointers = Pointers(store, model)
        self._parts = parts
        self._consumer = consumer
        self._dead_letters = dead_letters
        self._at_rest = at_rest
        self._epoch = epoch
        self._every_s = every_s
        self._every_messages = every_messages
        self._tip = tip
        self._current: Checkpoint | None = None
        self._saved_at = time.monotonic()
        self._save_s = 0.0
        self._saved_positions: dict[Position, int] = consumer.positions()
        self._log = structlog.get_logger()

    def restore(self) -> bool:
        """Become what the newest checkpoint describes; False where there is none.

        Raises:
            FormatError: it is damaged, of another layout, or of a student of another shape. The process must end then.
        """
        self._current = self._pointers.checkpoint()
        if self._current is None:
            return False
        data = self._store.get(self._current.path).data
        state = checkpoint.load(self._at_rest.open(data, _context(self._current.path)))
        if state.get("layout") not in (LAYOUT, *UPGRADED):
            raise FormatError(f"{self._current.path} has layout {state.get('layout')}, this loop reads {LAYOUT}")
        _upgrade(state)
        for name, part in self._parts.items():
            if name in state:  # what came to be after it was written begins anew
                part.load_state_dict(state[name])
        positions = {(kind, partition): offset for kind, partition, offset in state["positions"]}
        times = {(kind, partition): time_ns for kind, partition, time_ns in state.get("times", [])}
        self._consumer.seek(positions, state["streams"], times)
        self._saved_positions = self._consumer.positions()
        self._log.info(
            "checkpoint restored", path=self._current.path, num_bytes=len(data), positions=state["positions"]
        )
        return True

    def due(self) -> bool:
        """Whether something was read since the last checkpoint and that is long enough ago."""
        if self._every_messages is not None:
            return self._period(self._consumer.positions()) != self._period(self._saved_positions)
        old = time.monotonic() - self._saved_at >= max(self._every_s, SAVING_SHARE * self._save_s)
        return old and self._saved_positions != self._consumer.positions()

    def _period(self, positions: dict[Position, int]) -> int:
        """Return the number of the period between checkpoints that these positions are in."""
        assert self._every_messages is not None
        return sum(offset for (kind, _), offset in positions.items() if kind == PAIRS) // self._every_messages

    def save(self) -> None:
        """Write a checkpoint and make it the newest.

        Raises:
            ConflictError: another loop took over. UnavailableError: the store or the stream takes nothing; the last checkpoint holds.
        """
        start = time.monotonic()
        self._dead_letters.flush()
        positions = self._consumer.positions()
        state: dict[str, Any] = {
            "layout": LAYOUT,
            **{name: part.state_dict() for name, part in self._parts.items()},
            "positions": [[kind, partition, offset] for (kind, partition), offset in positions.items()],
            "streams": self._consumer.streams(),
            "times": [[kind, partition, time_ns] for (kind, partition), time_ns in self._consumer.times().items()],
        }
        sequence = self._current.sequence + 1 if self._current else 1
        path, (ledger_line, ledger_hash) = f"{self._folder}/{self._epoch:06d}-{sequence:09d}", self._tip()
        new = Checkpoint(
            path=path, epoch=self._epoch, sequence=sequence, ledger_line=ledger_line, ledger_hash=ledger_hash
        )
        self._store.put(new.path, self._at_rest.seal(checkpoint.dump(state), _context(new.path)))
        self._pointers.move_checkpoint(new, self._current)
        previous = self._current.path if self._current else ""
        for path in self._store.list(self._folder):
            # Only older ones: a loop that was asleep here must not delete what its successor has written since.
            if path < new.path and path != previous:
                self._store.delete(path)
        self._current = new
        self._saved_at, self._saved_positions = time.monotonic(), positions
        self._save_s = self._saved_at - start
        CHECKPOINTS.inc()
        CHECKPOINT_S.set(self._save_s)


def _context(path: str) -> bytes:
    """Return what a sealed checkpoint is bound to: one that was put in another's place doesn't open."""
    return f"everstill checkpoint {path}".encode()


def _upgrade(state: dict[str, Any]) -> None:
    """Make a state of a version before this one: it didn't know whose offsets its positions are, or took the file's identity for all;
    layout 4 counted all gaps together, and its memory had no retention. A trial that was open has no rule (gates/trial.py)."""
    if "streams" not in state:
        stream = state.get("stream", "")
        state["streams"] = {kind: stream for kind, _, _ in state["positions"]} if stream else {}
    gaps = state["progress"]["gaps"]
    if isinstance(gaps, int):
        state["progress"]["gaps"] = {PAIRS: gaps} if gaps else {}
    if "newest_unix_ns" in state["learner"]:
        state["learner"]["times"] = [state["learner"].pop("newest_unix_ns"), 0, 0]
