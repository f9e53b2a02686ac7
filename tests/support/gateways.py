"""A real gateway for a test: the process that `everstill gateway` starts, on free ports, over a registry in a folder."""

import contextlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from registry.pointers import Live, Pointers, Trial
from registry.status import read_statuses
from registry.store import open_store
from serving.rpc.client import InferenceClient
from tests.support.waiting import wait_for

ROOT = pathlib.Path(__file__).parents[2]
MODEL = "filetypes"
CONFIG = """
[gateway]
port = 0
metrics_port = 0
follow_interval_s = 0.05
drain_deadline_s = 5.0
{gateway}

[capture]
ring_bytes = 1048576

[teacher]
address = "{teacher}"
timeout_s = 1.0
"""


class RunningGateway:
    """A gateway's process and what can be seen of it from outside."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.folder = folder
        self.store = open_store(str(folder / "everstill-data/registry"))
        self.pointers = Pointers(self.store, MODEL)
        self.log = folder / "gateway.log"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the process; doesn't wait."""
        command = [sys.executable, "-m", "serving.app", "gateway", "--config", str(self.folder / "everstill.toml")]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=log, process_group=0
            )

    def stop(self) -> int:
        """Stop gracefully and return the exit code."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise

    def status(self) -> dict[str, Any]:
        """Return what this process last said of itself; empty before the first time."""
        assert self.process is not None
        status = read_statuses(self.store, MODEL).get("gateway-1", {})
        return status if status.get("pid") == self.process.pid else {}

    def address(self) -> str:
        """Return host:port of the callers' port, waiting for it."""
        return str(self._wait(lambda: self.status().get("address"), "the gateway's address"))

    def point(self, digest: str) -> None:
        """Move the live pointer, as a loop would."""
        live = self.pointers.live()
        self.pointers.move_live(Live(digest=digest, ledger_line=live.ledger_line + 1 if live else 1, epoch=1), live)

    def open_trial(self, trial: Trial) -> None:
        """Open a trial, as a loop would."""
        self.pointers.set_trial(trial, epoch=1)

    def wait_for_live(self, version: str) -> None:
        """Wait until a version serves."""
        self._wait(lambda: self.status().get("live") == version, f"version {version} to serve")

    def wait_for_refusal(self, version: str) -> dict[str, Any]:
        """Return the status object's entry of a refused version, waiting for it."""
        entry: dict[str, Any] = self._wait(
            lambda: next((one for one in self.status().get("refused", []) if one["version"] == version), None),
            f"version {version} to be refused",
        )
        return entry

    def logged(self) -> list[dict[str, Any]]:
        """Return the log's lines that are JSON."""
        lines = self.log.read_text().splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]

    def metric(self, name: str, **labels: str) -> float:
        """Return the sum of a metric's samples that carry these labels."""
        url = f"http://{self.status()['metrics_address']}/metrics"
        with urllib.request.urlopen(url, timeout=5) as answer:
            text = answer.read().decode()
        return sum(
            sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )

    def _wait(self, condition: Callable[[], Any], what: str) -> Any:
        def met() -> Any:
            assert self.process is not None
            assert self.process.poll() is None, f"the gateway ended: {self.log.read_text()[-2000:]}"
            return condition()

        try:
            return wait_for(met, deadline_s=30, what=what)
        except TimeoutError as error:
            raise TimeoutError(f"{error}; its log ends: {self.log.read_text()[-2000:]}") from None


@contextlib.contextmanager
def gateway(folder: pathlib.Path, *, settings: str = "", teacher: str = "127.0.0.1:1") -> Iterator[RunningGateway]:
    """Run a gateway in a folder; it is stopped at the end, and killed where it doesn't stop.

    Args:
        settings: more lines of the section [gateway].
        teacher: host:port; nobody is there by default.
    """
    (folder / "everstill.toml").write_text(CONFIG.format(gateway=settings, teacher=teacher))
    running = RunningGateway(folder)
    running.start()
    try:
        yield running
    finally:
        assert running.process is not None
        if running.process.poll() is None:
            running.stop()


@contextlib.contextmanager
def client(address: str, *, timeout_s: float = 5.0) -> Iterator[InferenceClient]:
    """Return a client of a server, closed at the end."""
    connection = InferenceClient(address, timeout_s=timeout_s)
    try:
        yield connection
    finally:
        connection.close()


def children_of(running: RunningGateway) -> list[int]:
    """Return the pids of a gateway's worker and mirror."""
    status = running.status()
    return [pid for pid in (status.get("worker_pid"), status.get("mirror_pid")) if pid and _lives(pid)]


def _lives(pid: int) -> bool:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, 0)
        return True
    return False
