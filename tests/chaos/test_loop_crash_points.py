"""The loop dies, or the registry fails it, at every write between two versions: what was decided is done, once.

Where the kill test takes random moments of a real process, this one takes each write in turn: the loop runs in this process,
on a registry in memory and a stream file, and ends by an exception that nothing catches.
"""

import pathlib
import re

import pytest

from tests.support.crash_points import assert_nothing_is_lost_or_done_twice, quick_and_slow, run_with
from tests.support.faults import Fault

#: Every write from nothing to the first promotion, but the files of bundles and status objects: path and which time.
WRITES = [
    ("/trial.json", 1),  # no trial, and the epoch of this loop
    ("/checkpoints/", 1),  # it holds the first version's steps
    ("/checkpoint.json", 1),
    ("bundles/.*/SHA256SUMS", 1),
    ("ledger/00000001", 1),
    ("/live.json", 1),
    ("/checkpoints/", 2),
    ("/checkpoint.json", 2),
    ("bundles/.*/SHA256SUMS", 2),
    ("/checkpoints/", 3),  # it holds the trial
    ("/checkpoint.json", 3),
    ("/trial.json", 2),
    ("/trials/", 1),
    ("ledger/00000002", 1),  # the decision
    ("/live.json", 2),
    ("/trial.json", 3),
    ("/checkpoints/", 4),
    ("/checkpoint.json", 4),
]


def test_the_writes_are_the_ones_that_are_tried(tmp_path: pathlib.Path) -> None:
    """A write that a later change adds has to be added above."""
    store, writer, written = run_with(tmp_path, None)

    left_out = (".onnx", ".npz", "manifest.json", "status/loop.json", "leases/loop.json")
    tried = [path for path in written if not path.endswith(left_out)]
    for path, (pattern, _) in zip(tried, WRITES, strict=False):
        assert re.search(pattern, path)
    assert all("checkpoint" in path for path in tried[len(WRITES) :])  # the one at the stop
    assert_nothing_is_lost_or_done_twice(store, writer.published)


@pytest.mark.parametrize(
    ("pattern", "nth"),
    [
        pytest.param(*WRITES[0], marks=pytest.mark.slow),
        *quick_and_slow(WRITES[1:], "checkpoint", "SHA256SUMS", "ledger/00000001"),
    ],
)
def test_a_loop_that_dies_before_any_write_goes_on_after_a_restart(
    pattern: str, nth: int, tmp_path: pathlib.Path
) -> None:
    store, writer, _ = run_with(tmp_path, Fault(pattern, nth, "before", "killed"))

    assert_nothing_is_lost_or_done_twice(store, writer.published)


@pytest.mark.parametrize(
    ("pattern", "nth"), quick_and_slow(WRITES[1:], "checkpoint", "SHA256SUMS", "ledger/00000001", "/trials/")
)
@pytest.mark.parametrize("when", ["before", pytest.param("after", marks=pytest.mark.slow)])
def test_a_registry_that_fails_any_write_is_tried_again(
    pattern: str, nth: int, when: str, tmp_path: pathlib.Path
) -> None:
    store, writer, _ = run_with(tmp_path, Fault(pattern, nth, when, "unavailable"))  # type: ignore[arg-type]

    assert_nothing_is_lost_or_done_twice(store, writer.published)
