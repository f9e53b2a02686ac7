"""A real loop process on a tiny model: from pairs to a promoted version, and what it does with trouble."""

import json
import pathlib
import subprocess
import sys
from collections.abc import Iterator

import onnx
import pytest

from distill_loop.gates.rejudge import rejudge
from protos.topics import PAIRS
from registry.fetching import Policy, fetch_bundle
from registry.lease import Lease
from tests.support.loops import MODEL, LoopUnderTest
from tests.support.publishing import make_pair, make_trial_rows
from tests.support.waiting import wait_for


@pytest.fixture
def loop(tmp_path: pathlib.Path) -> Iterator[LoopUnderTest]:
    loop = LoopUnderTest(tmp_path)
    yield loop
    if loop.process is not None:
        loop.stop()
    loop.writer.close()


def wait_for_kinds(loop: LoopUnderTest, kinds: list[str]) -> None:
    wait_for(
        lambda: [line.kind for line in loop.ledger.lines()] == kinds, deadline_s=60, what=f"the ledger to say {kinds}"
    )


def test_pairs_become_a_first_version_and_a_better_one_is_promoted(loop: LoopUnderTest, tmp_path: pathlib.Path) -> None:
    loop.writer.pairs([make_pair(number) for number in range(48)])
    loop.start()
    wait_for_kinds(loop, ["bootstrap"])
    loop.writer.pairs([make_pair(number) for number in range(100, 160)])
    trial = wait_for(loop.pointers.trial, deadline_s=30, what="a trial")

    loop.writer.trial(*make_trial_rows(trial.trial_id, 40, 1000))
    wait_for_kinds(loop, ["bootstrap", "promote"])

    line = loop.ledger.lines()[-1]
    rows = loop.store.get(f"models/{MODEL}/trials/{trial.trial_id}.jsonl").data
    assert line.digest == trial.candidate
    assert line.evidence["log_e"] >= 4.6
    assert rejudge(rows, line.evidence).differences == ()
    live = wait_for(
        lambda: (now := loop.pointers.live()) and now.digest == trial.candidate and now, what="the live pointer"
    )
    assert live.ledger_line == line.number
    bundle = fetch_bundle(loop.store, trial.candidate, tmp_path / "fetched", Policy())
    assert bundle.manifest.parent == trial.incumbent
    assert not any(node.metadata_props for node in onnx.load(bundle.folder / "model.onnx").graph.node)


def test_a_candidate_that_loses_is_rejected_and_nothing_moves(loop: LoopUnderTest) -> None:
    loop.writer.pairs([make_pair(number) for number in range(48)])
    loop.start()
    wait_for_kinds(loop, ["bootstrap"])
    live = wait_for(loop.pointers.live, what="the live pointer")
    loop.writer.pairs([make_pair(number) for number in range(100, 160)])
    trial = wait_for(loop.pointers.trial, deadline_s=30, what="a trial")

    batch, pairs = make_trial_rows(trial.trial_id, 40, 1000)
    for pair in pairs:
        pair.trial.candidate_class, pair.trial.incumbent_class = pair.trial.incumbent_class, pair.trial.candidate_class
    loop.writer.trial(batch, pairs)
    wait_for_kinds(loop, ["bootstrap", "reject"])

    assert loop.pointers.live() == live


def test_what_can_not_be_understood_is_a_dead_letter_and_the_rest_is_learned(loop: LoopUnderTest) -> None:
    wide, naked = make_pair(1), make_pair(2)
    wide.teacher.output.shape[1] = 4
    wide.teacher.output.raw = wide.teacher.output.raw[:16]
    naked.ClearField("teacher")
    loop.writer.raw(PAIRS, 0, b"\xff\xffnot a batch")
    loop.writer.pairs([wide, make_pair(3), naked, make_pair(4)])

    loop.start()
    wait_for(lambda: loop.status() and loop.status()["pairs"]["read"] == 5, deadline_s=60, what="five records")
    assert loop.stop() == 0

    status = loop.status()
    pairs = status["pairs"]
    assert (status["spoilt_steps"], status["student"], status["last_cut"]) == (0, "byte_window", None)
    assert status["steps_due"] < 1
    assert pairs["dead"] == 3
    assert pairs["learned"] + pairs["held_out"] == 2


def test_progressive_agreement_is_told_with_its_interval(loop: LoopUnderTest) -> None:
    loop.writer.pairs([make_pair(number, label=1, student_label=1 if number % 4 else 2) for number in range(20)])

    loop.start()
    agreement = wait_for(lambda: loop.status().get("agreement"), deadline_s=60, what="an estimate")

    assert agreement["estimate"] == pytest.approx(0.75)
    assert agreement["low"] < 0.75 < agreement["high"]
    assert agreement["num"] == 20


def test_a_second_loop_finds_the_lease_held_and_ends_with_one_line(loop: LoopUnderTest) -> None:
    loop.start()
    wait_for(loop.status, deadline_s=60, what="the loop")

    second = subprocess.run(
        [sys.executable, "-m", "distill_loop.app", "--config", str(loop.config)],
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert second.returncode == 5
    assert "is the loop of tiny" in second.stderr.splitlines()[-1]
    assert "Traceback" not in second.stderr


def test_a_loop_whose_lease_was_taken_over_ends(loop: LoopUnderTest) -> None:
    loop.start()
    wait_for(loop.status, deadline_s=60, what="the loop")
    path = f"models/{MODEL}/leases/loop.json"
    taken = json.loads(loop.store.get(path).data) | {"expires_unix_s": 0.0}
    loop.store.put(path, json.dumps(taken).encode())
    Lease.acquire(loop.store, MODEL, "loop", "a newer one", 60.0)

    assert loop.process is not None
    assert loop.process.wait(30) == 5
    assert "lost the lease" in loop.log().splitlines()[-1]


def test_a_damaged_checkpoint_is_named_and_not_overwritten(loop: LoopUnderTest) -> None:
    loop.writer.pairs([make_pair(number) for number in range(10)])
    loop.start()
    pointer = wait_for(loop.pointers.checkpoint, deadline_s=60, what="a checkpoint")
    loop.stop()
    pointer = loop.pointers.checkpoint()
    assert pointer is not None
    loop.store.put(pointer.path, loop.store.get(pointer.path).data[:1000])

    loop.start()

    assert loop.process is not None
    assert loop.process.wait(60) == 3
    assert "checkpoint" in loop.log().splitlines()[-1]
    assert loop.pointers.checkpoint() == pointer


def test_a_first_version_that_the_pre_check_rejects_is_tried_again_only_after_more_pairs(loop: LoopUnderTest) -> None:
    loop.config.write_text(loop.config.read_text().replace("[release]", "[release]\nmax_bytes = 10"))
    loop.writer.pairs([make_pair(number) for number in range(40)])
    loop.start()
    rejected = "rejected by the pre-check"
    wait_for(lambda: rejected in loop.log(), deadline_s=60, what="the first rejection")
    wait_for(lambda: loop.status() and loop.status()["steps"] >= 64, deadline_s=30, what="the steps to be told")

    loop.writer.pairs([make_pair(number) for number in range(100, 130)])
    wait_for(lambda: loop.log().count(rejected) == 2, deadline_s=30, what="the second rejection")
    assert loop.stop() == 0

    assert loop.log().count(rejected) == 2
    assert loop.pointers.live() is None
