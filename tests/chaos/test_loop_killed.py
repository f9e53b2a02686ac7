"""Kill the loop with SIGKILL at random moments: the same pairs are counted, no promotion is lost or done twice."""

import itertools
import pathlib
import random
import time

import pytest

from distill_loop.stream.dedupe import Dedupe
from protos import records_pb2 as records
from registry.bundle import version_of
from registry.sections import KafkaSection
from tests.support.either_stream import create_topics, on_kafka
from tests.support.loops import LoopUnderTest
from tests.support.publishing import NUM_CLASSES, make_pair, make_trial_rows
from tests.support.waiting import wait_for

ROWS_PER_TRIAL = 40


class TrialPlayer:
    """Publishes pairs, and plays the mirror of each trial that opens: its candidate wins every time."""

    def __init__(self, loop: LoopUnderTest, seed: int) -> None:
        self._loop = loop
        self._number = seed * 1_000_000
        self.answered: list[str] = []

    def publish_some(self) -> None:
        """Publish a few pairs, some twice, and answer an open trial."""
        pairs = [self._pair(number) for number in range(self._number, self._number + 4)]
        self._number += 4
        self._loop.writer.pairs(pairs)
        if self._number % 20 == 0:
            self._loop.writer.pairs(pairs[:1])  # a mirror that was killed publishes some again
        trial = self._loop.pointers.trial()
        if trial is not None and trial.trial_id not in self.answered:
            self.answered.append(trial.trial_id)
            self._loop.writer.trial(*make_trial_rows(trial.trial_id, ROWS_PER_TRIAL, self._number))
            self._number += ROWS_PER_TRIAL

    def _pair(self, number: int) -> records.LogitPair:
        """Return a pair that the live version answered wrong, so that the next candidate is worth a trial."""
        live = self._loop.pointers.live()
        if live is None:
            return make_pair(number)
        pair = make_pair(number, student_label=(number + 1) % NUM_CLASSES)
        pair.student.version = version_of(live.digest)
        return pair

    def publish_for(self, seconds: float) -> None:
        """Publish steadily."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.publish_some()
            time.sleep(0.05)  # the pace of the traffic, not a wait for something


def run_with_kills(
    folder: pathlib.Path, num_kills: int, seed: int, *, kafka: KafkaSection | None = None, num_promotions: int = 3
) -> None:
    rng = random.Random(seed)
    loop = LoopUnderTest(folder, kafka)
    player = TrialPlayer(loop, seed)

    for _ in range(num_kills):
        loop.start()
        # Up to a second after the restored loop has begun to work, or while it still starts.
        player.publish_for(rng.uniform(0.5, 7.0))
        loop.kill()
    loop.start()
    wait_for(lambda: _played_on(loop, player, num_promotions), deadline_s=90, what="more trials")
    wait_for(lambda: _is_idle(loop, player), deadline_s=60, what="the loop to read everything")
    assert loop.stop() == 0
    loop.writer.close()

    assert_counted_once(loop)
    assert_decided_once(loop, player)


def _played_on(loop: LoopUnderTest, player: TrialPlayer, num_promotions: int) -> bool:
    player.publish_some()
    return len([line for line in loop.ledger.lines() if line.kind == "promote"]) >= num_promotions


def _is_idle(loop: LoopUnderTest, player: TrialPlayer) -> bool:
    """Everything is read and every answered trial is decided; one that opened since may stay open."""
    status, decided = loop.status(), {line.trial_id for line in loop.ledger.lines()}
    if loop.process is None or status.get("pid") != loop.process.pid:
        return False  # the last word of one that was killed
    return status["lag"] == 0 and not status["stopped"] and set(player.answered) <= decided


def assert_counted_once(loop: LoopUnderTest) -> None:
    """Learned and held-out pairs together are exactly the published set, once each."""
    state = loop.checkpoint()
    progress, dedupe = state["progress"], Dedupe(10**6)
    dedupe.load_state_dict(state["dedupe"])
    learned, held_out = dedupe.records("learned"), dedupe.records("held_out")
    published = loop.writer.published

    assert learned | held_out == set(published)
    assert not learned & held_out
    assert (progress["learned"], progress["held_out"]) == (len(learned), len(held_out))
    assert progress["read"] == len(published)
    assert progress["repeats"] == len(published) - len(set(published))
    assert progress["dead"] == 0


def assert_decided_once(loop: LoopUnderTest, player: TrialPlayer) -> None:
    """Every trial that was answered is promoted by exactly one line, and the live version is the last line's."""
    loop.ledger.verify()
    lines = loop.ledger.lines()
    decided = [line.trial_id for line in lines]
    last, live = [line for line in lines if line.moves_live][-1], loop.pointers.live()

    assert len(decided) == len(set(decided))
    assert [line.kind for line in lines if line.kind == "bootstrap"] == ["bootstrap"]
    assert set(player.answered) <= {line.trial_id for line in lines if line.kind == "promote"}
    assert live is not None
    assert (live.digest, live.ledger_line) == (last.digest, last.number)
    for before, after in itertools.pairwise(lines):
        assert after.previous_digest == before.digest  # each was compared with the version that was live then


def test_two_kills_change_nothing_that_is_counted(tmp_path: pathlib.Path) -> None:
    run_with_kills(tmp_path, 2, seed=1)


@pytest.mark.slow  # CI kills a loop on Kafka in test_kafka_faults
def test_on_kafka_two_kills_change_nothing_either(kafka_bootstrap: str, tmp_path: pathlib.Path) -> None:
    stream = on_kafka(kafka_bootstrap)
    create_topics(stream)
    run_with_kills(tmp_path, 2, seed=3, kafka=stream.kafka, num_promotions=1)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("on", ["embedded", "kafka"])
def test_fifty_kills_change_nothing_that_is_counted(
    on: str, request: pytest.FixtureRequest, tmp_path: pathlib.Path
) -> None:
    kafka = None
    if on == "kafka":
        stream = on_kafka(request.getfixturevalue("kafka_bootstrap"))
        create_topics(stream)
        kafka = stream.kafka
    run_with_kills(tmp_path, 50, seed=2, kafka=kafka)
