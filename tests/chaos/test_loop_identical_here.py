"""A deterministic loop in the test's process that dies at chosen writes becomes what an uninterrupted one becomes: several partitions, and a trial.

test_loop_identical.py kills real processes; here the loop ends by an exception that nothing catches, so that it is quick and dies where it is told to.
"""

import pathlib
import shutil
from collections.abc import Sequence
from typing import Any

import pytest
from obstore.store import MemoryStore

from distill_loop.desk import Desk
from distill_loop.learner import checkpoint
from distill_loop.release.precheck import Precheck
from protos import records_pb2 as records
from protos.topics import PAIRS, TRIALS
from registry.ledger import Ledger
from registry.pointers import Pointers, Trial
from registry.stopping import Stopping
from registry.store import ObjectStore
from tests.support.crash_points import start
from tests.support.faults import Fault, FaultyStore, Killed
from tests.support.lives import DETERMINISTIC, PAIRS_PER_MESSAGE, changed, digest_of, ids_in, messages_of, written
from tests.support.loops import CONFIG, MODEL
from tests.support.publishing import NUM_CLASSES, StreamWriter, add_row, make_pair

#: Steps of the mirror, and what is in each: rows, of which the candidate wins all but two, and how many pairs are a message.
NUM_STEPS, STEP_ROWS, STEP_PAIRS = 4, 8, 2


@pytest.fixture(autouse=True)
def _unprepared(monkeypatch: pytest.MonkeyPatch) -> None:
    """No life traces the student's graph before it begins: that takes a second of each, and says nothing here."""
    monkeypatch.setattr(Desk, "prepare", lambda self: Precheck(0.0, 1, 0.0, ()))


class Mirror(Stopping):
    """The loop's stop signal, which it looks at once a turn: plays the mirror whenever the loop has read everything, and stops it in the end."""

    def __init__(self, writer: StreamWriter, store: ObjectStore, *, num_steps: int = 0) -> None:
        super().__init__()
        self.steps: list[list[tuple[str, bytes]]] = []
        self._writer = writer
        self._pointers = Pointers(store, MODEL)
        self._num_steps = num_steps
        self._idle = False

    def heard(self, wait_s: float = 0.0) -> bool:
        """Go on where the loop is idle; True where nothing is left to say. Never waits."""
        if wait_s:
            self._idle = True
            return False
        idle, self._idle = self._idle, False
        return idle and not self._step()

    def step_again(self) -> None:
        """Place the last step once more, as a mirror that was killed in it."""
        for kind, value in self.steps[-1] if self.steps else []:
            self._writer.raw(kind, 0, value)

    def _step(self) -> bool:
        """Place the open trial's next rows, then the pairs that settle them; False where there is none left, or no trial."""
        trial = self._pointers.trial()
        if trial is None or len(self.steps) == self._num_steps:
            return False
        self.steps.append(step_of(trial, len(self.steps)))
        self.step_again()
        return True


def step_of(trial: Trial, number: int) -> list[tuple[str, bytes]]:
    """Return the messages of a step: rows of a trial, one that the candidate loses and one on which the students agree, and pairs."""
    batch, pairs = records.TrialBatch(trial_id=trial.trial_id), []
    for place in range(STEP_ROWS):
        pair = make_pair(1000 + number * STEP_ROWS + place)
        pair.time_unix_ns = int((trial.opened_unix_s + 1.0 + number) * 1e9)
        right, wrong = place % NUM_CLASSES, (place + 1) % NUM_CLASSES
        pair.trial.trial_id = trial.trial_id
        pair.trial.candidate_class = wrong if place == 0 else right
        pair.trial.incumbent_class = right if place < 2 else wrong
        add_row(batch, pair, agree=place == 1)
        pairs.append(pair)
    lots = [pairs[first : first + STEP_PAIRS] for first in range(0, STEP_ROWS, STEP_PAIRS)]
    return [
        (TRIALS, batch.SerializeToString()),
        *((PAIRS, records.PairBatch(pairs=lot).SerializeToString()) for lot in lots),
    ]


def lived(
    folder: pathlib.Path,
    stream: pathlib.Path,
    changes: dict[str, str],
    *,
    faults: Sequence[Fault] = (),
    repeated: Sequence[bytes] = (),
    num_steps: int = 0,
) -> tuple[dict[str, Any], FaultyStore]:
    """Let a loop read a copy of a stream to its end; it dies at each fault, and finds repeats when it is started again.

    Returns:
        What it has become, and the registry with what its last life wrote.
    """
    folder.mkdir()
    shutil.copy(stream, folder)
    (folder / "everstill.toml").write_text(changed(CONFIG, DETERMINISTIC | changes))
    backend = MemoryStore()
    store, writer = FaultyStore(backend), StreamWriter(folder / stream.name, MODEL, 1)
    mirror = Mirror(writer, store, num_steps=num_steps)
    for fault in faults:
        with pytest.raises(Killed):
            start(folder, FaultyStore(backend, fault)).run(mirror)
        for number, value in enumerate(repeated):
            writer.raw(PAIRS, number % 3, value)
        mirror.step_again()
    start(folder, store).run(mirror)
    writer.close()
    pointer = Pointers(store, MODEL).checkpoint()
    assert pointer is not None
    return checkpoint.load(store.get(pointer.path).data), store


def test_with_several_partitions_and_repeats_a_killed_loop_learns_the_same_records(tmp_path: pathlib.Path) -> None:
    stream = written(tmp_path, 36, 3)
    # It takes turns with the partitions, and no version is released.
    changes = {
        "partitions = 2": "partitions = 3",
        "bootstrap_pairs = 32": "bootstrap_pairs = 1000000",
        "nice = 0": "nice = 0\nmax_messages = 2",
        "batch_size = 16": "batch_size = 16\nsteps_per_pair = 0.1",
    }
    fault = Fault("/checkpoints/", 3, "before", "killed")

    straight, _ = lived(tmp_path / "straight", stream, changes)
    killed, _ = lived(tmp_path / "killed", stream, changes, faults=[fault], repeated=messages_of(8))

    assert len(ids_in(straight, "learned")) > 180
    for fate in ("learned", "held_out"):
        assert ids_in(killed, fate) == ids_in(straight, fate)
        assert killed["progress"][fate] == straight["progress"][fate] == len(ids_in(straight, fate))
    assert killed["progress"]["repeats"] == straight["progress"]["repeats"] + 8 * PAIRS_PER_MESSAGE


def test_a_loop_that_is_killed_in_a_trial_and_in_its_decision_decides_as_one_that_is_not(
    tmp_path: pathlib.Path,
) -> None:
    stream = written(tmp_path, 15, 1)
    changes = {
        "partitions = 2": "partitions = 1",
        "cut_every_pairs = 24": "cut_every_pairs = 40",
        "checkpoint_every_messages = 4": "checkpoint_every_messages = 3",
    }

    straight, decided = lived(tmp_path / "straight", stream, changes, num_steps=NUM_STEPS)
    opened = next(place for place, path in enumerate(decided.written) if path.endswith("/trial.json"))
    num_saved = sum("/checkpoints/" in path for path in decided.written[:opened])
    faults = [
        Fault("/checkpoints/", num_saved + 2, "before", "killed"),  # the one before holds some of the trial's rows
        Fault("ledger/00000002", 1, "after", "killed"),  # decided, and nothing done about it
    ]
    killed, again = lived(tmp_path / "killed", stream, changes, faults=faults, num_steps=NUM_STEPS)

    assert killed["progress"]["repeats"] > straight["progress"]["repeats"]
    lines = [list(Ledger(store, MODEL).lines()) for store in (decided, again)]
    assert [line.kind for line in lines[0]] == ["bootstrap", "promote"]
    assert [(line.kind, line.trial_id, line.digest) for line in lines[1]] == [
        (line.kind, line.trial_id, line.digest) for line in lines[0]
    ]
    assert lines[1][-1].evidence == lines[0][-1].evidence
    assert lines[1][-1].rows_digest == lines[0][-1].rows_digest
    for state in (straight, killed):
        del state["learner"]["times"]  # when the messages were written: some were written in each life
    assert digest_of(killed["learner"]) == digest_of(straight["learner"])
