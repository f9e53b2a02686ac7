"""A real gateway follows the registry: it serves, swaps, refuses what is unfit, and says so wherever one looks."""

import os
import signal
import threading
from collections.abc import Iterator

import numpy as np
import pytest

from registry.bundle import MODEL as MODEL_FILE
from registry.bundle import version_of
from registry.pointers import Trial
from registry.store import FolderStore
from serving.rpc.client import InferenceClient, RpcError
from tests.support.gateways import MODEL, RunningGateway, client, gateway
from tests.support.hostile import KEY, LOST, SIGNER, hostile_bundles
from tests.support.students import BYTES, make_student_files, publish_student
from tests.support.waiting import wait_for

ROW = {"bytes": np.zeros((1, 2048), np.int32)}
SIGNED_ONLY = f"""
[signing]
public_keys = ["{KEY.text}", "{LOST.text}"]
revoked_keys = ["{LOST.id}"]
required = true
"""
#: One of each kind; all of them go through a loader in tests/unit/test_hostile_bundles.py.
POINTED_AT = (
    "unsigned", "a revoked key", "an operator of its own", "a path out of the folder",
    "half of it", "golden answers that unfold",
)  # fmt: skip


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    """One gateway for the module that loads what is signed, serving winner 3 at first."""
    with gateway(tmp_path_factory.mktemp("gateway"), settings=SIGNED_ONLY) as started:
        digest = publish_student(started.store, SIGNER, winner=3)
        started.point(digest)
        started.wait_for_live(version_of(digest))
        yield started


@pytest.fixture
def asking(running: RunningGateway) -> Iterator[InferenceClient]:
    with client(running.address()) as connection:
        yield connection


class Callers:
    """Four callers who ask all the time while this is open. `answers` are versions and their top classes."""

    def __init__(self, running: RunningGateway) -> None:
        self.answers: list[tuple[str, int]] = []
        self.failures: list[str] = []
        self._running = running
        self._ending = threading.Event()
        self._threads = [threading.Thread(target=self._ask) for _ in range(4)]

    def _ask(self) -> None:
        with client(self._running.address()) as connection:
            while not self._ending.is_set():
                try:
                    answer = connection.infer(MODEL, ROW)
                except RpcError as error:
                    self.failures.append(str(error))
                else:
                    self.answers.append((answer.version, int(answer.outputs["logits"].argmax())))

    def __enter__(self) -> "Callers":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        for thread in self._threads:
            thread.join()


def winner(asking: InferenceClient) -> int:
    return int(asking.infer(MODEL, ROW).outputs["logits"].argmax())


def serve(running: RunningGateway, winner: int) -> str:
    digest = publish_student(running.store, SIGNER, winner=winner)
    running.point(digest)
    running.wait_for_live(version_of(digest))
    return digest


def refused_for(running: RunningGateway, digest: str, reason: str) -> None:
    """Check that a version's refusal is in the status object, the log and the metric."""
    assert running.wait_for_refusal(version_of(digest))["reason"].startswith(f"{reason}: ")
    assert any(line.get("reason") == reason and line.get("digest") == digest for line in running.logged())
    assert running.metric("everstill_student_refused_total", reason=reason) >= 1


def test_an_answer_names_the_version_that_gave_it(running: RunningGateway, asking: InferenceClient) -> None:
    digest = serve(running, winner=5)

    answer = asking.infer(MODEL, ROW)

    assert answer.version == version_of(digest)
    assert answer.outputs["logits"].argmax() == 5
    assert len(bytes.fromhex(str(answer.parameters["record_id"]))) == 16


def test_no_request_fails_while_versions_are_swapped(running: RunningGateway) -> None:
    digests = {version_of(publish_student(running.store, SIGNER, winner=one)): one for one in range(20, 26)}
    serve(running, winner=20)
    with Callers(running) as callers:
        for one in range(21, 26):
            serve(running, winner=one)

    assert not callers.failures
    assert {version for version, _ in callers.answers} == set(digests)
    assert all(digests[version] == top for version, top in callers.answers)


def test_hostile_bundles_cost_no_caller_an_answer(running: RunningGateway) -> None:
    hostile = hostile_bundles(BYTES, 214)
    before = serve(running, winner=30)
    assert isinstance(running.store, FolderStore)

    with Callers(running) as callers:
        for name in POINTED_AT:
            digest = hostile[name].publish(running.store)
            running.point(digest)
            refused_for(running, digest, hostile[name].reason)
        candidate = hostile["an unknown key"].publish(running.store)
        running.open_trial(Trial(trial_id="t-1", incumbent=before, candidate=candidate, share=1.0, opened_unix_s=0.0))
        refusal = running.wait_for_refusal(version_of(candidate))

    assert refusal["reason"].startswith("trial: unknown_key: ")
    assert running.metric("everstill_student_refused_total", reason="unknown_key") >= 1
    assert not callers.failures
    assert {version for version, _ in callers.answers} == {version_of(before)}


def test_a_torn_bundle_is_refused_and_the_old_version_serves_on(
    running: RunningGateway, asking: InferenceClient
) -> None:
    serve(running, winner=7)
    torn = publish_student(running.store, SIGNER, winner=8)
    path = f"bundles/{torn}/{MODEL_FILE}"
    running.store.put(path, running.store.get(path).data[:-10])

    running.point(torn)

    refused_for(running, torn, "wrong_digest")
    assert winner(asking) == 7
    assert running.status()["desired"] == version_of(torn)


def test_a_tampered_bundle_is_refused_and_the_old_version_serves_on(
    running: RunningGateway, asking: InferenceClient
) -> None:
    serve(running, winner=9)
    tampered = publish_student(running.store, SIGNER, winner=10)
    running.store.put(f"bundles/{tampered}/payload.py", b"import os")

    running.point(tampered)

    refused_for(running, tampered, "unlisted_file")
    assert winner(asking) == 9


def test_a_bundle_that_does_not_give_its_golden_answers_is_refused(
    running: RunningGateway, asking: InferenceClient
) -> None:
    serve(running, winner=11)
    wrong = publish_student(running.store, SIGNER, winner=12, golden_winner=13)

    running.point(wrong)

    refused_for(running, wrong, "wrong_golden")
    assert winner(asking) == 11


def test_a_bundle_of_another_model_is_refused(running: RunningGateway, asking: InferenceClient) -> None:
    serve(running, winner=14)
    other = publish_student(running.store, SIGNER, winner=15, num_classes=100)

    running.point(other)

    refused_for(running, other, "wrong_model")
    assert winner(asking) == 14


def test_a_bundle_that_is_mended_serves_without_another_word(running: RunningGateway, asking: InferenceClient) -> None:
    serve(running, winner=16)
    files = make_student_files(winner=17)
    torn = publish_student(running.store, SIGNER, winner=17)
    running.store.put(f"bundles/{torn}/{MODEL_FILE}", b"torn")
    running.point(torn)
    running.wait_for_refusal(version_of(torn))

    running.store.put(f"bundles/{torn}/{MODEL_FILE}", files[MODEL_FILE])

    running.wait_for_live(version_of(torn))
    assert winner(asking) == 17


def test_a_killed_worker_comes_back_on_its_port_with_its_version(running: RunningGateway) -> None:
    digest = serve(running, winner=18)
    address, before = running.address(), running.status()["worker_pid"]

    os.kill(before, signal.SIGKILL)

    wait_for(lambda: running.status()["worker_pid"] not in (None, before), deadline_s=20, what="another worker")
    running.wait_for_live(version_of(digest))
    assert running.address() == address
    with client(address) as asking:
        assert winner(asking) == 18


def test_a_killed_mirror_costs_no_caller_an_answer(running: RunningGateway, asking: InferenceClient) -> None:
    serve(running, winner=19)
    before = running.status()["mirror_pid"]

    os.kill(before, signal.SIGKILL)

    def another_mirror() -> bool:
        assert winner(asking) == 19
        return running.status()["mirror_pid"] not in (None, before)

    wait_for(another_mirror, deadline_s=20, what="another mirror")


def test_metrics_count_what_was_answered(running: RunningGateway, asking: InferenceClient) -> None:
    before = running.metric("everstill_gateway_requests_total", code="OK")

    for _ in range(3):
        asking.infer(MODEL, ROW)

    assert running.metric("everstill_gateway_requests_total", code="OK") == before + 3
