"""The gateway's parent process: starts worker and mirror, follows the registry's pointers, tells the children, merges metrics.

Decides nothing about quality: it follows the live pointer, and says in its status object what serves and what was refused, and
why. A child that dies is started again with a growing pause. Order of a graceful stop: the worker first (health says so, calls
inside end), then the mirror (it empties the ring), then metrics and status. Main thread follows; one thread reads each child.
"""

import collections
import contextlib
import dataclasses
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from typing import Any

import structlog
from prometheus_client import CollectorRegistry, multiprocess, start_http_server

from protos.errors import ConfigurationError, EverstillError, FormatError, UnavailableError
from registry import logs
from registry.bundle import version_of
from registry.pointers import Pointers
from registry.status import write_status
from registry.store import open_store
from serving.config import ServingSettings
from serving.shadow import ring

#: Pause before a dead child is started again: first, and at most, in seconds.
RESTART_S, MAX_RESTART_S = 0.5, 30.0
#: Pause before a refused version is tried again (its bundle may be mended, a disk have room again): first, and at most.
RETRY_S, MAX_RETRY_S = 2.0, 60.0
#: A child that ends with one of these before it ever started has told its reason: starting it again changes nothing.
HOPELESS = (ConfigurationError.exit_code, FormatError.exit_code, UnavailableError.exit_code)
#: A child that lived this long is forgiven its earlier deaths.
FORGIVEN_S = 60.0
REFUSED_KEPT = 10
STATUS_INTERVAL_S = 2.0


@dataclasses.dataclass
class Child:
    """A child process and what it said last."""

    name: str
    process: subprocess.Popen[str] | None = None
    started_at: float = 0.0
    ever_started: bool = False
    deaths: int = 0
    start_after: float = 0.0
    told: str = ""
    address: str = ""
    version: str | None = None
    refusals: int = 0
    retry_at: float | None = None

    def tell(self, line: str) -> None:
        """Write one line to the child; one that is gone will be told again when it is back, one that refused later."""
        if self.process is None or self.process.stdin is None:
            return
        if line == self.told:
            if self.retry_at is None or time.monotonic() < self.retry_at:
                return
        else:
            self.refusals = 0
        self.retry_at = None
        try:
            self.process.stdin.write(line + "\n")
            self.process.stdin.flush()
            self.told = line
        except (BrokenPipeError, ValueError):
            self.told = ""

    def refused(self) -> None:
        """Note that it couldn't do what it was told, so that it is told again, ever more rarely."""
        self.retry_at = time.monotonic() + min(RETRY_S * 2**self.refusals, MAX_RETRY_S)
        self.refusals += 1


class Supervisor:
    """Runs one gateway: a worker, a mirror, one metrics port."""

    def __init__(self, settings: ServingSettings, config: pathlib.Path | None) -> None:
        self._settings = settings
        self._config = config
        self._store = open_store(settings.registry.url)
        self._pointers = Pointers(self._store, settings.model.name)
        self._metrics_dir = pathlib.Path(tempfile.mkdtemp(prefix="everstill-metrics-"))
        self._children = {name: Child(name) for name in ("worker", "mirror")}
        self._wish: dict[str, Any] = {"live": None, "trial": None}
        self._refused: collections.deque[dict[str, Any]] = collections.deque(maxlen=REFUSED_KEPT)
        self._stopping = threading.Event()
        self._metrics_address = ""
        self._status_at = 0.0
        self._registry_away = False
        self._log = structlog.get_logger()

    def run(self) -> int:
        """Run until SIGTERM or SIGINT; returns the exit code."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self._stopping.set())
        gateway = self._settings.gateway
        try:
            ring.create(self._settings.capture.dir / ring.RING_FILE, self._settings.capture.ring_bytes)
            server, thread = self._start_metrics(gateway.host, gateway.metrics_port)
            try:
                code = self._supervise()
            finally:
                self._stop_children()
                server.shutdown()
                server.server_close()
                thread.join()
        finally:
            shutil.rmtree(self._metrics_dir, ignore_errors=True)
        self._write_status(stopped=True)
        self._log.info("gateway stopped")
        return code

    def _supervise(self) -> int:
        while not self._stopping.is_set():
            for child in self._children.values():
                code = self._keep_alive(child)
                if code is not None:
                    return code
            self._follow()
            if time.monotonic() - self._status_at > STATUS_INTERVAL_S:
                self._write_status()
            self._stopping.wait(self._settings.gateway.follow_interval_s)
        return 0

    def _follow(self) -> None:
        """Read the pointers and tell the children what is wished; a registry that is away changes nothing."""
        try:
            live, trial = self._pointers.live(), self._pointers.trial()
        except EverstillError as error:
            if not self._registry_away:
                self._log.warning("the registry can't be read, serving goes on", error=str(error))
            self._registry_away = True
            return
        if self._registry_away:
            self._log.info("the registry can be read again")
        self._registry_away = False
        self._wish = {"live": live.digest if live else None, "trial": trial.model_dump() if trial else None}
        line = json.dumps({"desired": self._wish})
        for child in self._children.values():
            child.tell(line)

    def _keep_alive(self, child: Child) -> int | None:
        """Start a child that isn't running; returns an exit code where starting it can't work (a taken port)."""
        now = time.monotonic()
        if child.process is not None:
            code = child.process.poll()
            if code is None:
                return None
            if code in HOPELESS and not child.ever_started:
                return code
            self._bury(child.process)
            child.deaths = 1 if now - child.started_at > FORGIVEN_S else child.deaths + 1
            child.start_after = now + min(RESTART_S * 2 ** (child.deaths - 1), MAX_RESTART_S)
            child.process = None
            self._log.error(
                "child died and will be started again", child=child.name, exit_code=code, deaths=child.deaths
            )
        if now >= child.start_after:
            self._start(child)
        return None

    def _bury(self, process: subprocess.Popen[str]) -> None:
        """Let go of a dead child's pipe, and of its gauges: what it counted stays."""
        if process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()
        multiprocess.mark_process_dead(process.pid, str(self._metrics_dir))  # type: ignore[no-untyped-call]

    def _start(self, child: Child) -> None:
        environment = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(self._metrics_dir)}
        if child.address:  # a restarted worker keeps the port that callers know
            environment["EVERSTILL_GATEWAY__PORT"] = child.address.rsplit(":", 1)[1]
        command = [sys.executable, "-m", "serving.app", child.name]
        if self._config:
            command += ["--config", str(self._config)]
        # A group of its own: Ctrl-C in a terminal reaches the parent only, which stops the children in order.
        child.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment, process_group=0
        )
        child.started_at, child.told, child.version = time.monotonic(), "", None
        threading.Thread(
            target=self._listen, args=(child, child.process), name=f"listen-{child.name}", daemon=True
        ).start()

    def _listen(self, child: Child, process: subprocess.Popen[str]) -> None:
        """Note what a child says until it ends."""
        assert process.stdout is not None
        for line in process.stdout:
            try:
                self._note(child, json.loads(line))
            except (ValueError, KeyError, TypeError):  # a library printed: not worth a child
                self._log.warning("child said what isn't an event", child=child.name, line=line[:200])
            self._status_at = 0.0

    def _note(self, child: Child, event: dict[str, Any]) -> None:
        if event["event"] == "started":
            child.ever_started = True
            child.address = event.get("address", "")
        elif event["event"] == "serving":
            child.version = event["version"]
            child.refusals = 0
        elif event["event"] == "refused":
            child.refused()
            refused = {"version": version_of(event["digest"]), "reason": event["reason"], "time_unix_s": time.time()}
            if self._refused and all(self._refused[-1][key] == refused[key] for key in ("version", "reason")):
                self._refused.pop()  # tried again: still so
            self._refused.append(refused)

    def _start_metrics(self, host: str, port: int) -> tuple[Any, threading.Thread]:
        registry = CollectorRegistry()
        multiprocess.MultiProcessCollector(registry, path=str(self._metrics_dir))  # type: ignore[no-untyped-call]
        try:
            server, thread = start_http_server(port, host, registry)
        except OSError as error:
            raise UnavailableError(
                f"port {port} on {host} is taken: {error.strerror}",
                fix="Stop what listens there or set gateway.metrics_port",
            ) from None
        self._metrics_address = f"{host}:{server.server_port}"
        return server, thread

    def _stop_children(self) -> None:
        for name in ("worker", "mirror"):
            child = self._children[name]
            if child.process is None or child.process.poll() is not None:
                continue
            child.tell(json.dumps({"stop": True}))
            try:
                child.process.wait(self._settings.gateway.drain_deadline_s + 5.0)
            except subprocess.TimeoutExpired:
                self._log.error("child didn't stop in time and is killed", child=name)
                child.process.kill()
                child.process.wait()

    def _write_status(self, *, stopped: bool = False) -> None:
        self._status_at = time.monotonic()
        worker, mirror = self._children["worker"], self._children["mirror"]
        body = {
            "process": "gateway",
            "stopped": stopped,
            "address": worker.address,
            "metrics_address": self._metrics_address,
            "live": None if stopped else worker.version,
            "desired": version_of(self._wish["live"]) if self._wish["live"] else None,
            "trial": self._wish["trial"]["trial_id"] if self._wish["trial"] else None,
            "refused": list(self._refused),
            "pid": os.getpid(),
            "worker_pid": worker.process.pid if worker.process else None,
            "mirror_pid": mirror.process.pid if mirror.process else None,
        }
        try:
            write_status(self._store, self._settings.model.name, self._settings.gateway.id, body)
        except EverstillError as error:
            self._log.warning("the status object can't be written", error=str(error))


def main(settings: ServingSettings, config: pathlib.Path | None) -> int:
    """Run a gateway until SIGTERM or SIGINT; returns the exit code."""
    logs.configure("gateway", settings.log)
    return Supervisor(settings, config).run()
