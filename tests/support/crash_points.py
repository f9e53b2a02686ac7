"""A loop that runs in the test's process, on a registry in memory and a stream file, and ends by an exception that nothing catches.

What is left is looked at: nothing may be lost, and nothing done twice.
"""

import hashlib
import itertools
import pathlib
from typing import Any

import pytest
from obstore.store import MemoryStore

from distill_loop.app import LoopProcess
from distill_loop.config import LoopSettings
from distill_loop.learner import checkpoint
from distill_loop.stream.dedupe import Dedupe
from registry.config import load
from registry.lease import Lease
from registry.ledger import Ledger
from registry.pointers import Pointers
from registry.stopping import Stopping
from registry.store import ObjectStore
from tests.support.faults import Fault, FaultyStore, Killed
from tests.support.loops import CONFIG, MODEL
from tests.support.publishing import StreamWriter, make_pair, make_trial_rows
from tests.support.tracing import TracedOnce

MAX_TURNS = 500
#: Turns after the last decision, so that a loop that was restarted in it reads what is left.
TURNS_AFTER = 5


def quick_and_slow(places: list[tuple[str, int]], *slow: str) -> list[Any]:
    """Return places as parameters; those whose path has one of these parts are for the slow tier."""
    return [
        pytest.param(*place, marks=[pytest.mark.slow] if any(part in place[0] for part in slow) else [])
        for place in places
    ]


class Script(Stopping):
    """The loop's stop signal, which it looks at once a turn: plays the mirror, and stops the loop some turns after a promotion."""

    def __init__(self, store: ObjectStore, writer: StreamWriter) -> None:
        super().__init__()
        self._pointers = Pointers(store, MODEL)
        self._ledger = Ledger(store, MODEL)
        self._writer = writer
        self._answered: set[str] = set()
        self._fed = False
        self._num_turns = 0
        self._turns_left = TURNS_AFTER

    def heard(self, wait_s: float = 0.0) -> bool:
        """Publish what is due; True some turns after it is over. Never waits."""
        if wait_s:
            return False
        self._num_turns += 1
        assert self._num_turns < MAX_TURNS, "the loop gets nowhere"
        if self.is_over():
            self._turns_left -= 1
            return self._turns_left < 0
        self.publish()
        return False

    def is_over(self) -> bool:
        """Whether a promotion is live and its trial closed."""
        trial, live = self._pointers.trial(), self._pointers.live()
        promoted = next((line for line in self._ledger.lines() if line.kind == "promote"), None)
        closed = promoted and live and live.ledger_line >= promoted.number
        return bool(closed and live and (not trial or trial.incumbent == live.digest))

    def publish(self) -> None:
        """Publish pairs for a candidate, then rows in which it wins."""
        trial, live = self._pointers.trial(), self._pointers.live()
        if live is not None and not self._fed:
            self._fed = True
            self._writer.pairs([make_pair(number) for number in range(100, 148)])
        if trial is not None and trial.trial_id not in self._answered:
            self._answered.add(trial.trial_id)
            self._writer.trial(*make_trial_rows(trial.trial_id, 40, 1000 * len(self._answered)))


def start(folder: pathlib.Path, store: ObjectStore) -> LoopProcess:
    """Return a new loop process, as a restart would: it knows only what was written."""
    settings = load(folder / "everstill.toml", LoopSettings)
    process = LoopProcess(settings, store, Lease.acquire(store, MODEL, "loop", "a loop of this test", 0.0))
    process._office._exporter = TracedOnce(settings.model, text_bytes=settings.learner.text_bytes)
    return process


def run_with(
    folder: pathlib.Path, fault: Fault | None, play: type["Script"] = Script
) -> tuple[ObjectStore, StreamWriter, list[str]]:
    """Run the loop to its first promotion and restart it where it dies; return what is left, and what it wrote."""
    text = CONFIG.replace("checkpoint_every_s = 0.3", "checkpoint_every_s = 1000.0")
    (folder / "everstill.toml").write_text(text.replace("cut_every_pairs = 24", "cut_every_pairs = 40"))
    writer = StreamWriter(folder / "stream.sqlite", MODEL, 2)
    writer.pairs([make_pair(number) for number in range(48)])
    backend = MemoryStore()
    store = FaultyStore(backend, fault)
    script = play(ObjectStore(backend), writer)
    try:
        start(folder, store).run(script)
    except Killed:
        writer.pairs([make_pair(number) for number in range(200, 204)])
        start(folder, store).run(script)
    writer.close()
    assert fault is None or fault.happened, "the fault's place was never reached"
    return store, writer, store.written


def assert_nothing_is_lost_or_done_twice(
    store: ObjectStore, published: list[bytes], kinds: tuple[str, ...] = ("bootstrap", "promote")
) -> None:
    """Every pair was taken in once, and the ledger has these lines and no others; the live pointer and the checkpoint follow it."""
    pointer, live = Pointers(store, MODEL).checkpoint(), Pointers(store, MODEL).live()
    assert pointer is not None
    assert live is not None
    state = checkpoint.load(store.get(pointer.path).data)
    counted = Dedupe(10**6)
    counted.load_state_dict(state["dedupe"])
    learned, held_out = counted.records("learned"), counted.records("held_out")
    lines = Ledger(store, MODEL).lines()
    last = [line for line in lines if line.moves_live][-1]

    assert learned | held_out == set(published)
    assert (state["progress"]["learned"], state["progress"]["held_out"]) == (len(learned), len(held_out))
    assert state["progress"]["read"] == len(published)
    assert Ledger(store, MODEL).verify() == len(lines)
    assert [line.kind for line in lines] == list(kinds)
    assert (live.digest, live.ledger_line) == (last.digest, last.number)
    assert state["progress"]["live"] == live.digest
    for before, after in itertools.pairwise(lines):
        rows = store.get(f"models/{MODEL}/trials/{after.trial_id}.jsonl").data
        assert after.previous_digest == before.digest
        assert after.rows_digest == hashlib.sha256(rows).hexdigest()
