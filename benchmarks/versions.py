"""A series of versions for a benchmark of swaps, and what its answers must hold.

Two students in turn, each time under another digest, so that every swap is to a version that was never served: one that was
would be a rollback, which is told to all workers at once. Decides which answers are wrong, and which versions went back.
"""

import json
import pathlib
import shutil

import numpy as np

from benchmarks.load import Records
from benchmarks.processes import Gateway
from benchmarks.students import FloatArray, answers, make_files, make_inputs
from registry.bundle import MANIFEST, MODEL, version_of, write_bundle

#: Answers of one version to one input, alone or beside others in a batch, differ by less than this.
SAME_LOGIT = 1e-3
#: Bundles that stay in the registry behind the newest: a worker may still be loading one.
KEPT = 8


class Versions:
    """Makes one version after the other, and knows what each would say to each input."""

    def __init__(self, running: Gateway, num_inputs: int, seed: int) -> None:
        self._running = running
        self._files = [make_files(seed * 10 + number) for number in range(2)]
        inputs = make_inputs(num_inputs, seed)
        self._answers = [answers(files[MODEL], inputs) for files in self._files]
        self._digests: list[str] = []
        self.expected: dict[str, FloatArray] = {}

    @property
    def order(self) -> dict[str, int]:
        """The place of each version in the series."""
        return {version: place for place, version in enumerate(self.expected)}

    def next(self) -> str:
        """Publish another version and return its digest."""
        number = len(self._digests)
        files = dict(self._files[number % 2])
        files[MANIFEST] = json.dumps({**json.loads(files[MANIFEST]), "steps": number}).encode()
        digest = write_bundle(self._running.store, files)
        self._digests.append(digest)
        self.expected[version_of(digest)] = self._answers[number % 2]
        if number >= KEPT:
            folder = self._running.store.local_path(f"bundles/{self._digests[number - KEPT]}")
            assert isinstance(folder, pathlib.Path)
            shutil.rmtree(folder)
        return digest


def wrong_answers(records: Records, expected: dict[str, FloatArray]) -> np.ndarray:
    """Return, for each answered call, whether its content isn't what the version that it names would say."""
    right = np.zeros(len(records), bool)
    for version, logits_BC in expected.items():
        mine = records["version"] == version
        said = records[mine]
        mine_BC = logits_BC[said["input"]]
        right[mine] = (mine_BC.argmax(axis=1) == said["top"]) & (
            np.abs(mine_BC[:, 0] - said["first_logit"]) < SAME_LOGIT
        )
    return ~right


def went_back(records: Records, order: dict[str, int]) -> int:
    """Return how many calls got an older version than one whose answer was there, on their channel, before they were made."""
    count = 0
    for channel in np.unique(records["channel"]):
        mine = records[(records["channel"] == channel) & (records["code"] == "OK")]
        places = np.array([order.get(version, -1) for version in mine["version"]])
        ends = mine["start_s"] + mine["latency_s"]
        by_end = np.argsort(ends, kind="stable")
        newest = np.concatenate([[-1], np.maximum.accumulate(places[by_end])]) if len(mine) else np.array([-1])
        known = newest[np.searchsorted(ends[by_end], mine["start_s"], side="left")]
        count += int((places < known).sum())
    return count
