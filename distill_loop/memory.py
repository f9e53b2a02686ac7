"""The memory: one checkpoint of everything - student, optimizer, replay, gate, counters, stream positions - or none of it.

Decides when to save and how a checkpoint replaces the last one: the object is written first, then the pointer moves by
compare-and-swap with the lease's epoch, so a loop that was taken over can't overwrite its successor's. One thread.
"""

import time
from typing import Any

import structlog

from distill_loop.gates.agreement import ProgressiveAgreement
from distill_loop.gates.promise import Promise
from distill_loop.learner import checkpoint
from distill_loop.learner.step import Learner
from distill_loop.progress import Progress
from distill_loop.stream.consumer import Consumer, Position
from distill_loop.stream.dedupe import Dedupe
from distill_loop.telemetry import CHECKPOINTS
from protos.errors import FormatError
from protos.topics import PAIRS
from registry.pointers import Checkpoint, Pointers
from registry.store import ObjectStore

#: Version of the checkpoint's layout.
LAYOUT = 5


class Memory:
    """Saves and restores the loop.

    Args:
        epoch: of the lease.
        every_s: longest time between two checkpoints while something changes.
        every_messages: instead of time, checkpoints follow the offsets of pairs: one where they pass a multiple of this.
    """

    def __init__(
        self,
        store: ObjectStore,
        model: str,
        *,
        epoch: int,
        every_s: float,
        every_messages: int | None = None,
        learner: Learner,
        progress: Progress,
        dedupe: Dedupe,
        agreement: ProgressiveAgreement,
        promise: Promise,
        consumer: Consumer,
    ) -> None:
        self._store = store
        self._folder = f"models/{model}/checkpoints"
        self._pointers = Pointers(store, model)
        self._epoch = epoch
        self._every_s = every_s
        self._every_messages = every_messages
        self._learner = learner
        self._progress = progress
        self._dedupe = dedupe
        self._agreement = agreement
        self._promise = promise
        self._consumer = consumer
        self._current: Checkpoint | None = None
        self._saved_at = time.monotonic()
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
        state = checkpoint.load(self._store.get(self._current.path).data)
        if state.get("layout") != LAYOUT:
            raise FormatError(f"{self._current.path} has layout {state.get('layout')}, this loop reads {LAYOUT}")
        self._learner.load_state_dict(state["learner"])
        self._progress.load_state_dict(state["progress"])
        self._dedupe.load_state_dict(state["dedupe"])
        self._agreement.load_state_dict(state["agreement"])
        self._promise.load_state_dict(state["promise"])
        self._consumer.seek({(kind, partition): offset for kind, partition, offset in state["positions"]})
        self._saved_positions = self._consumer.positions()
        self._log.info("checkpoint restored", path=self._current.path, pairs=self._progress.read)
        return True

    def due(self) -> bool:
        """Whether something was read since the last checkpoint and that is long enough ago."""
        if self._every_messages is not None:
            return self._period(self._consumer.positions()) > self._period(self._saved_positions)
        old = time.monotonic() - self._saved_at >= self._every_s
        return old and self._saved_positions != self._consumer.positions()

    def _period(self, positions: dict[Position, int]) -> int:
        """Return the number of the period between checkpoints that these positions are in."""
        assert self._every_messages is not None
        return sum(offset for (kind, _), offset in positions.items() if kind == PAIRS) // self._every_messages

    def save(self) -> None:
        """Write a checkpoint and make it the newest.

        Raises:
            ConflictError: another loop took over. UnavailableError: the store takes nothing; the last checkpoint holds.
        """
        positions = self._consumer.positions()
        state: dict[str, Any] = {
            "layout": LAYOUT,
            "learner": self._learner.state_dict(),
            "progress": self._progress.state_dict(),
            "dedupe": self._dedupe.state_dict(),
            "agreement": self._agreement.state_dict(),
            "promise": self._promise.state_dict(),
            "positions": [[kind, partition, offset] for (kind, partition), offset in positions.items()],
        }
        sequence = self._current.sequence + 1 if self._current else 1
        new = Checkpoint(path=f"{self._folder}/{self._epoch:06d}-{sequence:09d}", epoch=self._epoch, sequence=sequence)
        self._store.put(new.path, checkpoint.dump(state))
        self._pointers.move_checkpoint(new, self._current)
        previous = self._current.path if self._current else ""
        for path in self._store.list(self._folder):
            # Only older ones: a loop that was asleep here must not delete what its successor has written since.
            if path < new.path and path != previous:
                self._store.delete(path)
        self._current = new
        self._saved_at, self._saved_positions = time.monotonic(), positions
        CHECKPOINTS.inc()
