"""The processes that a benchmark measures: real gateways and teachers, each in a folder of its own, on free ports.

Started as a user starts them (`python -m serving.app ...`); stopped with SIGTERM, and killed where that doesn't end them.
"""

import contextlib
import json
import pathlib
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from prometheus_client.parser import text_string_to_metric_families

from benchmarks.harness import ROOT
from benchmarks.students import MODEL_SETTINGS
from registry.pointers import Live, Pointers
from registry.status import read_statuses
from registry.store import open_store

STOP_S = 30.0
Value = TypeVar("Value")


def wait_until(condition: Callable[[], Value], what: str, *, deadline_s: float = 60.0, every_s: float = 0.01) -> Value:
    """Return the first truthy value of a condition.

    Raises:
        TimeoutError: there was none in time.
    """
    end = time.monotonic() + deadline_s
    while not (value := condition()):
        if time.monotonic() > end:
            raise TimeoutError(f"waited {deadline_s} s for {what}")
        time.sleep(every_s)
    return value


class Gateway:
    """A running gateway, seen from outside."""

    def __init__(
        self, folder: pathlib.Path, process: subprocess.Popen[bytes], model: str = MODEL_SETTINGS.name
    ) -> None:
        self.process = process
        self._model = model
        self.store = open_store(str(folder / "everstill-data/registry"))
        self._pointers = Pointers(self.store, model)
        self._log = folder / "gateway.log"
        self.address = str(self.wait(lambda: self.status().get("address"), "the gateway's address"))

    def status(self) -> dict[str, Any]:
        """Return what the gateway last wrote about itself."""
        return read_statuses(self.store, self._model).get("gateway-1", {})

    def wait(self, condition: Callable[[], Value], what: str, deadline_s: float = 60.0) -> Value:
        """Wait for a condition, as long as the gateway lives."""

        def met() -> Value:
            if self.process.poll() is not None:
                raise RuntimeError(f"the gateway ended: {self._log.read_text()[-2000:]}")
            return condition()

        return wait_until(met, what, deadline_s=deadline_s)

    def point(self, digest: str) -> None:
        """Move the live pointer, as the loop does."""
        live = self._pointers.live()
        self._pointers.move_live(Live(digest=digest, ledger_line=live.ledger_line + 1 if live else 1, epoch=1), live)

    def metric(self, name: str) -> float:
        """Return the sum of a metric's samples."""
        url = f"http://{self.status()['metrics_address']}/metrics"
        with urllib.request.urlopen(url, timeout=10) as answer:
            text = answer.read().decode()
        families = text_string_to_metric_families(text)
        return sum(sample.value for family in families for sample in family.samples if sample.name == name)


def write_settings(path: pathlib.Path, sections: dict[str, dict[str, Any]]) -> None:
    """Write an everstill.toml; the section `model.inputs` is the one entry of a list of tables."""
    lines = []
    for section, keys in sections.items():
        lines += [f"[[{section}]]" if section == "model.inputs" else f"[{section}]"]
        lines += [f"{key} = {json.dumps(value)}" for key, value in keys.items()]
    path.write_text("\n".join(lines) + "\n")


def create_topics(config: pathlib.Path) -> None:
    """Create the topics of a configuration's models, as an operator does."""
    command = [sys.executable, "-m", "distill_loop.stream.app", "topics", "--create", "--config", str(config)]
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL, timeout=60)


@contextlib.contextmanager
def gateway(folder: pathlib.Path, sections: dict[str, dict[str, Any]]) -> Iterator[Gateway]:
    """Run a gateway in a folder.

    Args:
        sections: of its everstill.toml; its ports are free ones.
    """
    ports = {"port": 0, "metrics_port": 0}
    sections = {**sections, "gateway": {**ports, **sections.get("gateway", {})}}
    with running("gateway", folder, sections, stdout=None) as process:
        yield Gateway(folder, process)


@contextlib.contextmanager
def teacher(folder: pathlib.Path, **settings: Any) -> Iterator[str]:
    """Run a teacher on a free port and return its address."""
    with running("teacher", folder, {"teacher_server": {"port": 0, **settings}}, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        yield str(json.loads(process.stdout.readline())["address"])


@contextlib.contextmanager
def teacher_elsewhere(folder: pathlib.Path, *options: str) -> Iterator[str]:
    """Run the stand-in for a teacher on another machine, with its options, and return its address."""
    command = [sys.executable, "-m", "benchmarks.elsewhere", *options]
    with running("elsewhere", folder, {}, stdout=subprocess.PIPE, command=command) as process:
        assert process.stdout is not None
        yield str(json.loads(process.stdout.readline())["address"])


@contextlib.contextmanager
def running(
    name: str,
    folder: pathlib.Path,
    sections: dict[str, dict[str, Any]],
    *,
    stdout: int | None = None,
    command: list[str] | None = None,
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a process in a new folder that holds its everstill.toml; without a `stdout` of its own, that goes to its log too."""
    folder.mkdir(parents=True)
    config = folder / "everstill.toml"
    write_settings(config, sections)
    command = command or [sys.executable, "-m", "serving.app", name, "--config", str(config)]
    with (folder / f"{name}.log").open("wb") as log:
        out = log if stdout is None else stdout
        process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=out, stderr=log)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdout is not None:
            process.stdout.close()
