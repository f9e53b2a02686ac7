"""An operator's command with the loop down: the gateway follows, at once, and no request fails meanwhile."""

import json
import pathlib
import threading

import numpy as np
import pytest

from registry.bundle import version_of
from registry.pointers import Pointers
from registry.standing import apply_ledger
from serving.rpc.client import RpcError
from tests.support.gateways import MODEL, client, gateway
from tests.support.in_process import everstill
from tests.support.served import Served

ROW = {"bytes": np.zeros((1, 2048), np.int32)}


@pytest.mark.integration
def test_a_rollback_by_command_reaches_callers_and_none_of_them_fails(tmp_path: pathlib.Path) -> None:
    with gateway(tmp_path) as running:
        served = Served(None, running.store, tmp_path / "cache", [])  # type: ignore[arg-type]
        first, second = served.publish(3), served.publish(5)
        served.append("bootstrap", first, "bootstrap")
        running.wait_for_live(version_of(first))
        served.append("promote", second, "t-5")
        running.wait_for_live(version_of(second))
        ending, seen, failures = threading.Event(), list[str](), list[str]()

        def load() -> None:
            with client(running.address()) as connection:
                while not ending.is_set():
                    try:
                        seen.append(connection.infer(MODEL, ROW).version)
                    except RpcError as error:
                        failures.append(str(error))

        callers = [threading.Thread(target=load) for _ in range(2)]
        for caller in callers:
            caller.start()
        done = everstill("rollback", "--expect", version_of(second), "--reason", "a test", cwd=tmp_path)
        running.wait_for_live(version_of(first))
        status = running.status()
        ending.set()
        for caller in callers:
            caller.join()
        verified = json.loads(everstill("ledger", "verify", "--json", cwd=tmp_path).stdout)

    assert done.returncode == 0, done.stderr
    assert failures == []
    assert seen[-1] == version_of(first)
    assert status["ledger"]["number"] in (2, 3)  # it has seen the line, or looks again within two seconds
    assert verified["whole"], verified
    assert {"who": "the live pointer", "line": 3} in verified["seen_by"]
    assert "the status of gateway-1" in [one["who"] for one in verified["seen_by"]]
    assert apply_ledger(served.ledger, Pointers(running.store, MODEL)).live == first
