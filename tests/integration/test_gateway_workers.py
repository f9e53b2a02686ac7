"""Several workers behind one port, and several models in one gateway, as real processes."""

import contextlib
import os
import pathlib
import signal
import socket
from collections.abc import Iterator

import numpy as np
import pytest

from registry.bundle import version_of
from registry.pointers import Live, Pointers
from registry.status import read_statuses
from serving.rpc.client import RpcError
from serving.shadow.ring import Ring
from serving.shadow.rings import folder_of, path_of
from tests.support.connections import Connection, one_to_each
from tests.support.gateways import MODEL, RunningGateway, client, gateway
from tests.support.students import publish_student
from tests.support.waiting import wait_for

ROW = {"bytes": np.zeros((1, 2048), np.int32)}
WORKERS = 2


def has_ipv6() -> bool:
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET6) as probe:
        probe.bind(("::1", 0))
        return True
    return False


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    """One gateway of two workers for the module, serving winner 3 at first."""
    with gateway(tmp_path_factory.mktemp("gateway"), settings=f"workers = {WORKERS}") as started:
        serve(started, winner=3)
        yield started


def serve(running: RunningGateway, winner: int) -> str:
    digest = publish_student(running.store, winner=winner)
    running.point(digest)
    running.wait_for_live(version_of(digest))
    wait_for(lambda: len(listening(running)) == WORKERS, what="both workers to listen")
    return digest


def listening(running: RunningGateway) -> list[int]:
    return [one["pid"] for one in running.status().get("workers", []) if one["listening"]]


def rings(running: RunningGateway) -> list[Ring]:
    folder = folder_of(running.folder / "everstill-data/capture", MODEL)
    return [Ring(path_of(folder, number)) for number in range(WORKERS)]


def each(running: RunningGateway) -> contextlib.AbstractContextManager[list[Connection]]:
    """Return a connection to each worker."""
    return one_to_each(running.address(), rings(running), MODEL, ROW)


def test_workers_share_the_port_and_the_metrics_are_merged(running: RunningGateway) -> None:
    before = running.metric("everstill_gateway_requests_total", code="OK", model=MODEL)
    with each(running) as connections:
        own = [ring.rows_seen for ring in rings(running)]

        for connection in connections:
            for _ in range(3):
                connection.infer(MODEL, ROW)

    assert [ring.rows_seen for ring in rings(running)] == [rows + 3 for rows in own]
    assert running.metric("everstill_gateway_requests_total", code="OK", model=MODEL) >= before + 8


def test_the_status_object_lists_each_worker_and_what_one_more_costs(running: RunningGateway) -> None:
    serve(running, winner=4)

    status = running.status()

    assert [one["worker"] for one in status["workers"]] == [0, 1]
    assert {one["version"] for one in status["workers"]} == {status["live"]}
    assert all(one["resident_bytes"] >= one["private_bytes"] > 2**20 for one in status["workers"])
    assert status["memory_per_added_worker_bytes"] > 2**20


def test_both_workers_follow_the_pointer_and_no_connection_goes_back(running: RunningGateway) -> None:
    digests = [publish_student(running.store, winner=winner) for winner in range(30, 34)]
    order = [running.status()["live"], *map(version_of, digests)]
    with each(running) as connections:
        seen: list[list[int]] = [[] for _ in connections]

        for digest in digests:
            running.point(digest)

            def asked(version: str = version_of(digest)) -> bool:
                for versions, connection in zip(seen, connections, strict=True):
                    versions.append(order.index(connection.infer(MODEL, ROW).version))
                return running.status().get("live") == version

            wait_for(asked, deadline_s=20, what="the version to be live")

        assert all(versions == sorted(versions) for versions in seen)
        assert [connection.infer(MODEL, ROW).version for connection in connections] == [order[-1]] * 2


def test_a_rollback_reaches_every_worker(running: RunningGateway) -> None:
    before = serve(running, winner=40)
    serve(running, winner=41)

    running.point(before)

    running.wait_for_live(version_of(before))
    assert {one["version"] for one in running.status()["workers"]} == {version_of(before)}


def test_a_restarted_worker_that_cannot_load_stays_away_from_the_port(running: RunningGateway) -> None:
    """Both versions are unfit to load anew: the one that serves, and the one that is live."""
    digest = serve(running, winner=50)
    first, second = listening(running)
    paths = [f"bundles/{digest}/model.onnx"]
    whole = running.store.get(paths[0]).data
    running.store.put(paths[0], b"torn")
    cached = running.folder / "everstill-data/cache" / digest / "model.onnx"
    cached.write_bytes(b"torn")

    os.kill(second, signal.SIGKILL)
    running.wait_for_refusal(version_of(digest))

    assert listening(running) == [first]
    for _ in range(20):
        with contextlib.closing(Connection(running.address())) as asking:
            assert asking.infer(MODEL, ROW).version == version_of(digest)
    running.store.put(paths[0], whole)
    wait_for(lambda: len(listening(running)) == WORKERS, deadline_s=30, what="the mended worker")
    assert running.status()["workers"][1]["restarts"] == 1


@pytest.mark.parametrize("host", ["localhost"] if not has_ipv6() else ["::1"])
def test_a_connection_of_some_age_moves_on_without_a_failed_call_and_workers_are_pinned(
    tmp_path: pathlib.Path, host: str
) -> None:
    settings = f'host = "{host}"\nworkers = {WORKERS}\npin_workers = true\nmax_connection_age_s = 0.3'
    with gateway(tmp_path, settings=settings) as running:
        serve(running, winner=3)
        cores = [os.sched_getaffinity(pid) for pid in listening(running)]

        with contextlib.closing(Connection(running.address())) as asking:

            def asked_both() -> bool:
                asking.infer(MODEL, ROW)
                return all(ring.rows_seen for ring in rings(running))

            wait_for(asked_both, deadline_s=30, what="one channel to have reached both workers")

    assert all(len(one) == 1 for one in cores)
    assert len(set.union(*cores)) == min(WORKERS, len(os.sched_getaffinity(0)))


TWO_MODELS = """
port = 0
metrics_port = 0
follow_interval_s = 0.05

[capture]
ring_bytes = 1048576
rate = 1.0

[teacher]
address = "127.0.0.1:1"

[models.alpha.model]
num_classes = 20
[models.beta.model]
num_classes = 30
[models.beta.teacher]
address = "127.0.0.1:1"
"""


def test_one_gateway_serves_several_models_each_with_its_own_version_and_status(tmp_path: pathlib.Path) -> None:
    running = RunningGateway(tmp_path)
    (tmp_path / "everstill.toml").write_text(f'[gateway]\nhost = "localhost"\nworkers = 2\n{TWO_MODELS}')
    digests = {}
    for name, num_classes, winner in (("alpha", 20, 7), ("beta", 30, 8)):
        digests[name] = publish_student(running.store, model=name, num_classes=num_classes, winner=winner)
        Pointers(running.store, name).move_live(Live(digest=digests[name], ledger_line=1, epoch=1), None)
    running.start()

    def status(name: str) -> dict[str, object]:
        return read_statuses(running.store, name).get("gateway-1", {})

    try:
        for name, digest in digests.items():
            wait_for(lambda n=name, d=digest: status(n).get("live") == version_of(d), deadline_s=30, what="a version")
        with client(str(status("alpha")["address"])) as asking:
            answers = {name: asking.infer(name, ROW) for name in digests}
            with pytest.raises(RpcError, match="'alpha', 'beta'"):
                asking.infer("gamma", ROW)
        assert {name: answer.version for name, answer in answers.items()} == {
            name: version_of(digest) for name, digest in digests.items()
        }
        assert [int(answers[name].outputs["logits"].argmax()) for name in digests] == [7, 8]
    finally:
        assert running.stop() == 0
    for name in digests:
        folder = folder_of(tmp_path / "everstill-data/capture", name)
        assert sum(Ring(path_of(folder, number)).rows_seen for number in range(2)) == 1
        assert list((folder / "spool-teacher").glob("*.seg"))
