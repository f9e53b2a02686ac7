"""The loop dies, or the registry fails it, where a trial makes room for the next, and where a file becomes the first version.

Each write in turn, as in test_loop_crash_points.py.
"""

import pathlib
import re
from typing import Literal

import pytest
from obstore.store import MemoryStore

from distill_loop.learner import checkpoint
from registry.bundle import version_of
from registry.ledger import Ledger
from registry.pointers import Pointers
from registry.sections import TensorSpec
from registry.store import ObjectStore
from tests.support.crash_points import Script, assert_nothing_is_lost_or_done_twice, quick_and_slow, run_with, start
from tests.support.faults import Fault, FaultyStore, Killed
from tests.support.loops import CONFIG, MODEL
from tests.support.publishing import NUM_CLASSES, WINDOW, StreamWriter, add_row, make_pair, make_trial_rows
from tests.support.students import build_onnx

#: Every write from the overtaken trial's end to its successor's opening.
SUPERSEDING = [
    ("bundles/.*/SHA256SUMS", 3),
    ("/trials/", 1),
    ("ledger/00000002", 1),
    ("/trial.json", 3),  # closed
    ("/checkpoints/", 4),  # it holds the new trial
    ("/checkpoint.json", 4),
    ("/trial.json", 4),
]
#: Every write from nothing to a first version from a file.
FIRST_VERSION = [("bundles/.*/SHA256SUMS", 1), ("ledger/00000001", 1), ("/live.json", 1), ("/checkpoint.json", 1)]
SPECS = (TensorSpec(name="bytes", datatype="INT32", shape=(-1, WINDOW)),)


class Overtaking(Script):
    """Lets the first trial's students agree always, while the live version is wrong where the learner is right."""

    def is_over(self) -> bool:
        """Whether the trial after the one that made room is open."""
        trial = self._pointers.trial()
        closed = {line.trial_id for line in self._ledger.lines() if line.kind == "inconclusive"}
        return bool(closed) and trial is not None and trial.trial_id not in closed

    def publish(self) -> None:
        """Publish pairs for a candidate, then rows that say nothing of it, and pairs that speak for the learner."""
        trial, live = self._pointers.trial(), self._pointers.live()
        if live is not None and not self._fed:
            self._fed = True
            self._writer.pairs([make_pair(number) for number in range(100, 148)])
        if live is not None and trial is not None and not self._answered:
            self._answered.add(trial.trial_id)
            batch, _ = make_trial_rows(trial.trial_id, 200, 1000)
            for row in batch.rows:
                row.agree = True
            pairs = [make_pair(number, student_label=(number + 1) % NUM_CLASSES) for number in range(300, 380)]
            # As the mirror publishes what the uniform arm took: both students give the same wrong class.
            for pair in pairs:
                pair.student.version = version_of(live.digest)
                pair.trial.trial_id = trial.trial_id
                pair.trial.incumbent_class = pair.trial.candidate_class = NUM_CLASSES
                add_row(batch, pair, agree=True)
            self._writer.trial(batch, pairs)


def assert_one_trial_made_room_for_the_next(store: ObjectStore, published: list[bytes]) -> None:
    assert_nothing_is_lost_or_done_twice(store, published, ("bootstrap", "inconclusive"))
    line, trial = Ledger(store, MODEL).lines()[-1], Pointers(store, MODEL).trial()
    pointer = Pointers(store, MODEL).checkpoint()
    assert trial is not None
    assert pointer is not None
    state = checkpoint.load(store.get(pointer.path).data)
    assert line.evidence["reason"] == "superseded: the learner has overtaken the candidate"
    assert (line.evidence["total"], line.evidence["wins"]) == (280, 0)
    assert trial.candidate != line.digest
    assert state["progress"]["trial"]["identity"]["trial_id"] == trial.trial_id
    assert state["progress"]["trial"]["rows"] == []


@pytest.mark.slow
def test_the_writes_of_making_room_are_the_ones_that_are_tried(tmp_path: pathlib.Path) -> None:
    """A write that a later change adds has to be added above."""
    store, writer, written = run_with(tmp_path, None, Overtaking)

    left_out = (".onnx", ".npz", "manifest.json", "status/loop.json", "leases/loop.json")
    tried = [path for path in written if not path.endswith(left_out)]
    first = [place for place, path in enumerate(tried) if path.endswith("/trial.json")][1]  # the one before says none
    end = first + 1 + len(SUPERSEDING)
    for path, (pattern, _) in zip(tried[first + 1 : end], SUPERSEDING, strict=True):
        assert re.search(pattern, path)
    assert all("checkpoint" in path for path in tried[end:])  # the one at the stop
    assert_one_trial_made_room_for_the_next(store, writer.published)


@pytest.mark.parametrize(("pattern", "nth"), quick_and_slow(SUPERSEDING, "SHA256SUMS", "/trials/", "/checkpoint"))
def test_a_loop_that_dies_while_a_trial_makes_room_goes_on(pattern: str, nth: int, tmp_path: pathlib.Path) -> None:
    store, writer, _ = run_with(tmp_path, Fault(pattern, nth, "before", "killed"), Overtaking)

    assert_one_trial_made_room_for_the_next(store, writer.published)


@pytest.mark.parametrize(
    ("pattern", "nth"), quick_and_slow(SUPERSEDING, "SHA256SUMS", "/trials/", "/trial.json", "/checkpoint")
)
@pytest.mark.parametrize("when", ["before", pytest.param("after", marks=pytest.mark.slow)])
def test_a_registry_that_fails_while_a_trial_makes_room_is_tried_again(
    pattern: str, nth: int, when: Literal["before", "after"], tmp_path: pathlib.Path
) -> None:
    store, writer, _ = run_with(tmp_path, Fault(pattern, nth, when, "unavailable"), Overtaking)

    assert_one_trial_made_room_for_the_next(store, writer.published)


@pytest.mark.parametrize(("pattern", "nth"), FIRST_VERSION)
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_loop_that_dies_while_a_file_becomes_the_first_version_goes_on(
    pattern: str, nth: int, when: Literal["before", "after"], tmp_path: pathlib.Path
) -> None:
    (tmp_path / "first.onnx").write_bytes(build_onnx(SPECS, NUM_CLASSES, winner=2, scale=1.0))
    text = CONFIG.replace("[release]", '[release]\nfirst_version = "first.onnx"\nmax_latency_ms = 60000.0')
    (tmp_path / "everstill.toml").write_text(text)
    writer = StreamWriter(tmp_path / "stream.sqlite", MODEL, 2)
    writer.pairs([make_pair(number) for number in range(8)])
    backend = MemoryStore()
    with pytest.raises(Killed):
        start(tmp_path, FaultyStore(backend, Fault(pattern, nth, when, "killed"))).loop.start()

    store = FaultyStore(backend)
    again = start(tmp_path, store).loop
    again.start()
    again.turn()
    again.stop()
    writer.close()

    assert_nothing_is_lost_or_done_twice(store, writer.published, ("bootstrap",))
    assert Ledger(store, MODEL).lines()[0].evidence["source"] == "file"
