"""The loop was down for too long: what retention removed meanwhile is in the ledger with its exact offsets, once, whatever happens in between."""

import contextlib
import pathlib

import pytest
from obstore.store import MemoryStore

from distill_loop.app import LoopProcess
from distill_loop.loop import Loop
from protos import records_pb2 as records
from protos.embedded_stream import connect
from protos.errors import UnavailableError
from protos.topics import PAIRS
from registry.ledger import Ledger, Line
from registry.pointers import Pointers
from registry.store import ObjectStore
from tests.support.crash_points import start
from tests.support.either_stream import EitherStream, create_topics, on_kafka
from tests.support.faults import Fault, FaultyStore, Killed
from tests.support.loops import CONFIG, MODEL, LoopUnderTest
from tests.support.publishing import StreamWriter, make_pair
from tests.support.waiting import wait_for


class Stream:
    """A stream of one partition whose oldest messages go."""

    def __init__(self, folder: pathlib.Path, first: int = 0) -> None:
        self.folder = folder
        (folder / "everstill.toml").write_text(CONFIG.replace("partitions = 2", "partitions = 1"))
        self._writer = StreamWriter(folder / "stream.sqlite", MODEL, 1)
        self._number = first

    def publish(self, num_messages: int) -> None:
        """Publish messages of one pair."""
        for _ in range(num_messages):
            self._writer.pairs([make_pair(self._number)])
            self._number += 1

    def remove_before(self, offset: int) -> None:
        """Remove messages as retention does."""
        connection = connect(self.folder / "stream.sqlite")
        connection.execute("DELETE FROM message WHERE offset < ?", (offset,))
        connection.close()

    def close(self) -> None:
        """Close the file."""
        self._writer.close()


def gaps_of(store: ObjectStore) -> list[Line]:
    ledger = Ledger(store, MODEL)
    ledger.verify()
    return [line for line in ledger.lines() if line.kind == "gap"]


def offsets_of(lines: list[Line]) -> list[tuple[int, int]]:
    return [(line.evidence["first"], line.evidence["end"]) for line in lines]


def read_once(loop: Loop) -> None:
    """Start a loop, let it go round once, and stop it."""
    loop.start()
    loop.turn()
    loop.stop()


@pytest.mark.parametrize("pattern", [None, "ledger/", "/checkpoint.json"])
def test_another_stream_that_has_grown_past_the_checkpoint_is_read_and_told_of_and_its_gaps_are_others(
    pattern: str | None, tmp_path: pathlib.Path
) -> None:
    backend, num_read, identities = MemoryStore(), [], []
    for first in (0, 100):
        for file in tmp_path.glob("stream.sqlite*"):
            file.unlink()
        stream = Stream(tmp_path, first)
        stream.publish(4 + first // 10)
        stream.remove_before(2)
        if first and pattern is not None:
            killed = start(tmp_path, FaultyStore(backend, Fault(pattern, 1, "after", "killed"))).loop
            with pytest.raises(Killed):
                read_once(killed)
        process = start(tmp_path, ObjectStore(backend))
        read_once(process.loop)
        num_read.append(process.progress.read)
        identities.append(process._consumer.streams()[PAIRS])
        stream.close()

    assert num_read == [2, 2 + 12]
    replaced = [line for line in gaps_of(ObjectStore(backend)) if line.evidence["end"] is None]
    assert offsets_of(gaps_of(ObjectStore(backend))) == [(0, 2), (4, None), (0, 2)]
    told = {"stream": identities[0], "replaced_by": identities[1], "topic": PAIRS, "partition": 0, "first": 4}
    assert [{**line.evidence, **told} for line in replaced] == [line.evidence for line in replaced]
    assert process.progress.gaps == {PAIRS: 4}


@pytest.mark.parametrize("pattern", [None, "ledger/", "/checkpoints/", "/checkpoint.json"])
def test_a_gap_is_in_the_ledger_once_with_its_offsets(pattern: str | None, tmp_path: pathlib.Path) -> None:
    stream, backend = Stream(tmp_path), MemoryStore()
    stream.publish(10)
    loop = start(tmp_path, ObjectStore(backend)).loop
    read_once(loop)
    stream.publish(10)
    stream.remove_before(14)

    if pattern is not None:
        killed = start(tmp_path, FaultyStore(backend, Fault(pattern, 1, "after", "killed"))).loop
        with pytest.raises(Killed):
            read_once(killed)
        stream.remove_before(16)  # while it is down again
    process = start(tmp_path, ObjectStore(backend))
    read_once(process.loop)
    stream.close()

    longer = [(14, 16)] if pattern in ("ledger/", "/checkpoints/") else []  # the first line says what was known then
    assert offsets_of(gaps_of(ObjectStore(backend))) == [(10, 14), *longer]
    assert process.progress.gaps == {"pairs": 6 if longer else 4}
    assert process.progress.read + process.progress.gaps["pairs"] == 20
    assert Pointers(ObjectStore(backend), MODEL).live() is None


def test_a_registry_that_is_away_is_told_of_the_gap_later(tmp_path: pathlib.Path) -> None:
    stream, backend = Stream(tmp_path), MemoryStore()
    stream.publish(5)
    stream.remove_before(3)
    process = start(tmp_path, FaultyStore(backend, Fault("ledger/", 1, "before", "unavailable")))
    process.loop.start()
    with pytest.raises(UnavailableError, match="a fault of this test"):
        process.loop.turn()

    process.loop.go_on()
    process.loop.turn()
    process.loop.stop()
    stream.close()

    assert offsets_of(gaps_of(ObjectStore(backend))) == [(0, 3)]


def has_read(process: LoopProcess, num_pairs: int) -> bool:
    """Go round once more; whether so many pairs were read."""
    with contextlib.suppress(UnavailableError):  # it still connects
        process.loop.turn()
    return process.progress.read >= num_pairs


def test_a_gap_on_kafka_is_in_the_ledger_too(kafka_bootstrap: str, tmp_path: pathlib.Path) -> None:
    settings = on_kafka(kafka_bootstrap)
    create_topics(settings)
    loop = LoopUnderTest(tmp_path, settings.kafka)  # only its folder and its writer are used
    backend = MemoryStore()

    def read_until(num_pairs: int) -> None:
        process = start(tmp_path, ObjectStore(backend))
        with contextlib.closing(process._consumer):
            process.loop.start()
            wait_for(lambda: has_read(process, num_pairs), deadline_s=60, what="pairs")
            process.loop.stop()

    loop.writer.pairs([make_pair(number) for number in range(10)])
    read_until(10)
    for number in range(100, 104):
        loop.writer.raw(PAIRS, 0, records.PairBatch(pairs=[make_pair(number)]).SerializeToString())
    with contextlib.ExitStack() as stack:
        EitherStream(settings, stack).forget_before(4)
    read_until(11)
    loop.writer.close()

    assert offsets_of(gaps_of(ObjectStore(backend))) == [(1, 4)]
