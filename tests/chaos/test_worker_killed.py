"""Kill a worker or the mirror with SIGKILL under load: the others answer, the killed one is back, and no sample is lost."""

import contextlib
import os
import pathlib
import random
import signal
import threading
from collections.abc import Iterator

import grpc
import numpy as np
import pytest

from protos import records_pb2 as records
from registry.bundle import version_of
from serving.shadow.ring import Ring
from serving.shadow.rings import Rings, folder_of, path_of
from serving.shadow.spool import Spool
from tests.support.connections import Connection, one_to_each
from tests.support.environment import environment
from tests.support.gateways import MODEL, RunningGateway, gateway
from tests.support.shadow import open_rows
from tests.support.shadow_books import read_books
from tests.support.students import publish_student
from tests.support.waiting import wait_for

ROW = {"bytes": np.zeros((1, 2048), np.int32)}
PAUSE_S = 0.005
#: Every row is sampled, into rings that never fill; nobody is there to be asked, so that all waits in the spool.
SAMPLE_ALL = {
    "EVERSTILL_CAPTURE__RATE": "1.0",
    "EVERSTILL_CAPTURE__RING_BYTES": str(2**25),
    # A mirror that is behind reserves many rows at once: none may be missing for want of a budget.
    "EVERSTILL_TEACHER__BUDGET_BURST": "1000000",
    "EVERSTILL_TEACHER__MAX_CALLS_PER_S": "1000000",
}


class Caller:
    """A thread that asks over one connection without a pause longer than a moment."""

    def __init__(self, connection: Connection) -> None:
        self.answered: list[bytes] = []
        self.failures: list[str] = []
        self._connection = connection
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._ask)
        self._thread.start()

    def stop(self) -> None:
        """Ask no more."""
        self._stopping.set()
        self._thread.join()

    def _ask(self) -> None:
        while not self._stopping.wait(PAUSE_S):
            try:
                self.answered.append(self._connection.infer(MODEL, ROW).record_id)
            except grpc.RpcError as error:
                self.failures.append(str(error))


class Room:
    """A gateway under load, and what its callers were answered."""

    def __init__(self, running: RunningGateway, num_workers: int) -> None:
        self.running = running
        self.answered: set[bytes] = set()
        folder = folder_of(running.folder / "everstill-data/capture", MODEL)
        self._rings = [Ring(path_of(folder, number)) for number in range(num_workers)]

    def kill(self, victim: int | str) -> list[Caller]:
        """Kill a worker, or the mirror, and return a caller of each worker once the killed one is back."""
        with one_to_each(self.running.address(), self._rings, MODEL, ROW) as connections:
            callers = [Caller(connection) for connection in connections]
            try:
                wait_for(lambda: all(caller.answered for caller in callers), what="every caller to be answered")
                before = self._pid(victim)
                os.kill(before, signal.SIGKILL)
                wait_for(lambda: self._is_back(victim, before), deadline_s=60, what=f"another {victim}")
                enough = [len(caller.answered) + 20 for caller in callers]
                wait_for(
                    lambda: all(len(one.answered) > num for one, num in zip(callers, enough, strict=True)),
                    what="every caller to be answered again",
                )
            finally:
                for caller in callers:
                    caller.stop()
                    self.answered.update(caller.answered)
        return callers

    def sampled(self) -> set[bytes]:
        """Return what the spool holds: all that was ever sampled."""
        folder = folder_of(self.running.folder / "everstill-data/capture", MODEL)
        assert not any(ring.pending_bytes or ring.dropped for ring in self._rings)
        spool = Spool(folder / "spool-teacher", max_bytes=2**30, retention_s=1e9)
        found = set()
        while payloads := spool.peek(1000):
            found |= {records.LogitPair.FromString(payload).record_id for payload in payloads}
            spool.take()
        return found

    def _pid(self, victim: int | str) -> int:
        status = self.running.status()
        return int(status["mirror_pid"] if victim == "mirror" else status["workers"][victim]["pid"])

    def _is_back(self, victim: int | str, before: int) -> bool:
        status = self.running.status()
        if victim == "mirror":
            return status["mirror_pid"] not in (None, before)
        worker = status["workers"][victim]
        return worker["listening"] and worker["pid"] != before


@contextlib.contextmanager
def room(folder: pathlib.Path, num_workers: int) -> Iterator[Room]:
    """Run a gateway that serves; it has stopped when this returns."""
    with environment(**SAMPLE_ALL), gateway(folder, settings=f"workers = {num_workers}") as running:
        digest = publish_student(running.store, winner=3)
        running.point(digest)
        running.wait_for_live(version_of(digest))
        wait_for(
            lambda: all(one["listening"] for one in running.status()["workers"]), deadline_s=30, what="all workers"
        )
        yield Room(running, num_workers)
        assert running.stop() == 0
        check_accounts(folder_of(running.folder / "everstill-data/capture", MODEL))


def check_accounts(folder: pathlib.Path) -> None:
    """Check that the accounts of a gateway that has stopped close by stratum, and that each term is what the files hold."""
    books = read_books(folder, Rings.open(folder), MODEL)
    assert open_rows(books.report) == {}
    assert books.of("spooled") == books.spooled
    assert books.of("pending") == books.in_ring + books.in_flight


def test_a_killed_worker_costs_other_connections_nothing_and_no_sample(tmp_path: pathlib.Path) -> None:
    with room(tmp_path, 2) as survivors:
        _, untouched = survivors.kill(0)
        assert not untouched.failures
        assert survivors.running.status()["workers"][0]["restarts"] == 1

    assert survivors.answered <= survivors.sampled()


def test_a_killed_mirror_costs_no_caller_an_answer_and_no_sample(tmp_path: pathlib.Path) -> None:
    with room(tmp_path, 2) as survivors:
        callers = survivors.kill("mirror")
        assert not any(caller.failures for caller in callers)

    assert survivors.answered <= survivors.sampled()


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_ten_kills_under_load_lose_nothing(tmp_path: pathlib.Path, seed: int) -> None:
    rng = random.Random(seed)
    victims: list[int | str] = [0, 1, 2, "mirror"] * 2 + ["mirror", rng.randrange(3)]
    rng.shuffle(victims)
    with room(tmp_path, 3) as survivors:
        for victim in victims:
            callers = survivors.kill(victim)
            assert not any(caller.failures for number, caller in enumerate(callers) if number != victim)

    assert survivors.answered <= survivors.sampled()
