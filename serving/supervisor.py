"""The gateway's parent process: starts workers and mirror, follows the registry's pointers, tells the children, merges metrics.

Decides nothing about quality: it follows the live pointers, and says in its status objects what serves and what was refused, and
why. A child that dies is started again with a growing pause. Order of a graceful stop: the workers first (health says so, calls
inside end), then the mirror (it empties the rings), then metrics and status. All is done by the main thread; one thread for each
child passes on what the child says.
"""

import collections
import dataclasses
import functools
import os
import pathlib
import queue
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from typing import Any

import structlog
from prometheus_client import multiprocess

from protos.errors import ConfigurationError, ConflictError, EverstillError, FormatError, UnavailableError
from registry import logs
from registry.bundle import version_of
from registry.ledger import Ledger
from registry.pointers import Live, Pointers, Trial
from registry.status import write_status
from registry.store import open_store
from serving.config import ServingSettings
from serving.shadow import rings
from serving.shadow.budget import allowed_rows
from serving.shadow.publishers import check_stream
from serving.supervision.capture_lock import lock
from serving.supervision.child import Child, Event
from serving.supervision.last_line import LastLine
from serving.supervision.memory import Memories
from serving.supervision.metrics_port import MetricsPort
from serving.supervision.port import HeldPort, address_of, hold
from serving.supervision.rollout import Rollout, Target
from serving.supervision.status import body_of

#: A child that ends with one of these before it ever started has told its reason: starting it again changes nothing.
HOPELESS = {one.exit_code: one for one in (ConfigurationError, FormatError, UnavailableError)}
REFUSED_KEPT = 10
STATUS_INTERVAL_S = 2.0
#: Beyond its own deadline, a stopping child has this long before it is killed, in seconds.
STOP_SLACK_S = 5.0

Heard = tuple[Child, object, Event]


@dataclasses.dataclass
class Followed:
    """One model's pointers, and what was refused of late."""

    settings: ServingSettings
    pointers: Pointers
    target: Target
    last_line: LastLine
    trial: Trial | None = None
    refused: "collections.deque[dict[str, Any]]" = dataclasses.field(
        default_factory=lambda: collections.deque(maxlen=REFUSED_KEPT)
    )

    def note_refusal(self, digest: str, reason: str) -> None:
        """List a refusal; one that is tried again and is still so is listed once."""
        refused = {"version": version_of(digest), "reason": reason, "time_unix_s": time.time()}
        if self.refused and all(self.refused[-1][key] == refused[key] for key in ("version", "reason")):
            self.refused.pop()
        self.refused.append(refused)


class Supervisor:
    """Runs one gateway: its workers behind one port, a mirror, one metrics port.

    Args:
        models: each model's settings, by name; sections that aren't a model's own are the same in all.
    """

    def __init__(self, models: Mapping[str, ServingSettings], config: pathlib.Path | None) -> None:
        settings = next(iter(models.values()))
        self._gateway = settings.gateway
        self._settings = settings
        self._store = open_store(settings.registry.url)
        self._metrics_dir = pathlib.Path(tempfile.mkdtemp(prefix="everstill-metrics-"))
        self._rollout = Rollout(list(models))
        self._models = {
            name: Followed(
                own, Pointers(self._store, name), self._rollout.targets[name], LastLine(Ledger(self._store, name))
            )
            for name, own in models.items()
        }
        file = ["--config", str(config)] if config else []
        self._workers = [
            Child(f"worker-{number}", ["worker", "--worker", str(number), *file], list(models))
            for number in range(self._gateway.workers)
        ]
        self._mirror = Child("mirror", ["mirror", *file], list(models))
        self._opened_anyway: set[int] = set()
        self._heard: queue.SimpleQueue[Heard | None] = queue.SimpleQueue()
        self._stopping = False
        self._address = self._metrics_address = ""
        self._locks: list[int] = []
        self._port: HeldPort | None = None
        self._memories = Memories()
        self._status_at = 0.0
        self._registry_away = False
        self._log = structlog.get_logger()

    def run(self) -> None:
        """Run until SIGTERM or SIGINT.

        Raises:
            EverstillError: it can't run; all that was started has ended.
        """
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self._stop_soon())
        try:
            if not self._prepare():
                return
            check_stream(self._settings.stream)
            self._port = hold(self._gateway.host, self._gateway.port)
            for worker in self._workers:
                worker.arguments += [f"--listen={address}" for address in self._port.addresses]
            metrics = MetricsPort(self._gateway.host, self._gateway.metrics_port, self._metrics_dir)
            self._metrics_address = metrics.address
            try:
                self._supervise()
            finally:
                self._stop_children()
                metrics.close()
                self._write_status(stopped=True)
        finally:
            if self._port is not None:
                self._port.close()
            for descriptor in self._locks:
                os.close(descriptor)
            shutil.rmtree(self._metrics_dir, ignore_errors=True)
            if self._stopping:
                self._log.info("gateway stopped")

    def _stop_soon(self) -> None:
        self._stopping = True
        self._heard.put(None)  # a SimpleQueue may be used in a signal's handler, a lock may not

    def _prepare(self) -> bool:
        """Make each model's capture folder this gateway's own, with a ring for each worker; False where it was stopped meanwhile."""
        patience_s = 2 * self._gateway.drain_deadline_s + STOP_SLACK_S
        for settings in (one.settings for one in self._models.values()):
            folder = rings.folder_of(settings.capture.dir, settings.model.name)
            try:
                self._locks.append(lock(folder, orphans_s=patience_s, stopping=lambda: self._stopping))
            except ConflictError:
                if self._stopping:
                    return False
                raise
            allowed = functools.partial(allowed_rows, settings.teacher)
            rings.prepare(folder, self._gateway.workers, settings.capture.ring_bytes, allowed)
        return True

    def _supervise(self) -> None:
        while not self._stopping:
            for child in (*self._workers, self._mirror):
                self._keep_alive(child)
            self._follow()
            self._tell()
            if time.monotonic() - self._status_at > STATUS_INTERVAL_S:
                self._write_status()
            self._hear(self._gateway.follow_interval_s)

    def _follow(self) -> None:
        """Read the pointers; a registry that is away changes nothing."""
        try:
            read = {name: (one.pointers.live(), one.pointers.trial()) for name, one in self._models.items()}
        except EverstillError as error:
            if not self._registry_away:
                self._log.warning("the registry can't be read, serving goes on", error=str(error))
            self._registry_away = True
            return
        if self._registry_away:
            self._log.info("the registry can be read again")
        self._registry_away = False
        for name, (live, trial) in read.items():
            followed = self._models[name]
            followed.trial = trial
            if live is not None and live.digest != followed.target.digest:
                followed.target.aim(live.digest, rollback=self._is_rollback(name, live))

    def _is_rollback(self, model: str, live: Live) -> bool:
        """Whether the decision that the pointer names is one; without its line, what was served here tells."""
        try:
            line = Ledger(self._store, model).line(live.ledger_line)
        except EverstillError:
            return False
        return line.kind in ("rollback", "pin") and line.digest == live.digest

    def _tell(self) -> None:
        """Tell each child what is wished of it now."""
        self._rollout.plan([worker for worker in self._workers if worker.runs])
        for number, worker in enumerate(self._workers):
            draining_s = self._gateway.drain_deadline_s if worker.asked_to_stop else 0.0
            if worker.hangs(self._gateway.load_deadline_s + draining_s):
                self._end(worker)
                continue
            if worker.asked_to_stop:
                continue
            if self._is_in_the_way(worker):
                worker.ask_to_stop()  # and it is started again, away from the port until it can serve
                self._log.info("worker leaves the port to those that can answer", child=worker.name)
                continue
            if self._may_open(worker):
                self._opened_anyway.add(number)
            given = {name: place.given for name, place in worker.places.items()}
            worker.tell({"desired": {"models": self._wishes(given), "open": number in self._opened_anyway}})
        wished = {name: one.target.digest for name, one in self._models.items()}
        self._mirror.tell({"desired": {"models": self._wishes(wished)}})

    def _end(self, worker: Child) -> None:
        """Kill a worker that hangs: the kernel gives it connections, and every roll-out waits for it."""
        assert worker.process is not None
        reason = f"{worker.name} said nothing for {self._gateway.load_deadline_s:g} s (gateway.load_deadline_s)"
        self._log.error("worker hangs and is killed", child=worker.name, pid=worker.pid, error=reason)
        for model, place in worker.places.items():
            if place.loading and place.given is not None:
                self._models[model].note_refusal(place.given, reason)
        worker.quiet_since = None
        worker.process.kill()

    def _wishes(self, digests: Mapping[str, str | None]) -> dict[str, Any]:
        trials = {name: one.trial.model_dump() if one.trial else None for name, one in self._models.items()}
        return {name: {"live": digest, "trial": trials[name]} for name, digest in digests.items()}

    def _may_open(self, worker: Child) -> bool:
        """Whether a worker that couldn't load its version opens the port all the same: only where no other will."""
        if not worker.started or worker.listening or _loads(worker):
            return False
        others = (one for one in self._workers if one is not worker and one.runs)
        return not any(one.listening or not one.started or _loads(one) for one in others)

    def _is_in_the_way(self, worker: Child) -> bool:
        """Whether a worker that listens can't load a model, also at the second try, that another one answers for."""
        if not worker.listening or worker.refusals < 2 or self._gateway.pass_through:
            return False
        lacking = [model for model, place in worker.places.items() if place.serving is None and place.refused]
        others = [one for one in self._workers if one is not worker and one.listening]
        return any(other.places[model].serving for other in others for model in lacking)

    def _keep_alive(self, child: Child) -> None:
        """Start a child that isn't running.

        Raises:
            EverstillError: starting it can't work; it said why.
        """
        if child.process is not None:
            code = child.process.poll()
            if code is None:
                return
            child.hear_out()
            self._hear(0.0)
            if code in HOPELESS and not child.ever_started:
                words = child.last_words or {"message": f"the gateway's {child.name} ended with exit code {code}"}
                raise HOPELESS[code](**words)
            multiprocess.mark_process_dead(child.process.pid, str(self._metrics_dir))  # type: ignore[no-untyped-call]
            reason = child.last_words.get("message", "")
            child.bury()
            self._status_at = 0.0
            if child.asked_to_stop:
                self._log.info("child stopped as it was asked to, and will be started again", child=child.name)
            else:
                self._log.error(
                    "child died and will be started again",
                    child=child.name, exit_code=code, deaths=child.deaths, **({"error": reason} if reason else {}),
                )  # fmt: skip
        if time.monotonic() >= child.start_after:
            self._start(child)

    def _start(self, child: Child) -> None:
        if child is not self._mirror:
            self._opened_anyway.discard(self._workers.index(child))
        environment = {"PROMETHEUS_MULTIPROC_DIR": str(self._metrics_dir)}
        child.start(environment, lambda *heard: self._heard.put(heard), self._locks)

    def _hear(self, patience_s: float) -> None:
        """Note what children said, waiting for the first for a while."""
        for heard in self._said(patience_s):
            if heard is None:
                continue
            child, process, event = heard
            if process is not child.process:
                continue  # the last words of a child that has a successor
            self._status_at = 0.0
            try:
                self._note(child, event)
            except (KeyError, TypeError, ValueError):
                self._log.warning("child said what isn't an event", child=child.name, line=str(event)[:200])

    def _said(self, patience_s: float) -> Iterator[Heard | None]:
        try:
            yield self._heard.get(timeout=patience_s) if patience_s else self._heard.get_nowait()
            while True:
                yield self._heard.get_nowait()
        except queue.Empty:
            return

    def _note(self, child: Child, event: Event) -> None:
        kind, child.quiet_since = event.get("event"), None
        if kind == "started":
            child.started = child.ever_started = True
        elif kind == "listening":
            child.listening = True
            assert self._port is not None
            self._address = address_of(self._gateway.host, self._port.port)
        elif kind == "serving":
            place = child.places[event["model"]]
            place.serving, place.refused, child.refusals = event["digest"], None, 0
            self._models[event["model"]].target.serves(event["digest"])
            for other in self._workers:
                if other.runs and other.places[event["model"]].refused == event["digest"]:
                    other.retry_at = time.monotonic()  # it can be loaded, so the other may have better luck now
        elif kind == "refused":
            place = child.places[event["model"]]
            if event["digest"] == place.given:
                place.refused = event["digest"]
            child.refused()
            self._models[event["model"]].note_refusal(event["digest"], event["reason"])
        elif kind == "failed":
            child.last_words = {"message": event["reason"], "fix": event["fix"]}

    def _stop_children(self) -> None:
        for children in (self._workers, [self._mirror]):
            running = [child for child in children if child.process is not None and child.process.poll() is None]
            for child in running:
                child.tell({"stop": True})
            end = time.monotonic() + self._gateway.drain_deadline_s + STOP_SLACK_S
            for child in running:
                assert child.process is not None
                try:
                    child.process.wait(max(0.0, end - time.monotonic()))
                except subprocess.TimeoutExpired:
                    self._log.error("child didn't stop in time and is killed", child=child.name)
                    child.process.kill()
                    child.process.wait()

    def _write_status(self, *, stopped: bool = False) -> None:
        self._status_at = time.monotonic()
        for name, one in self._models.items():
            body = {
                **body_of(name, one.target, self._workers, self._mirror, self._memories),
                "stopped": stopped,
                "address": self._address,
                "metrics_address": self._metrics_address,
                "trial": one.trial.trial_id if one.trial else None,
                "refused": list(one.refused),
                "ledger": one.last_line.look(),
            }
            if stopped:
                body["live"] = None
            try:
                write_status(self._store, name, self._gateway.id, body)
            except EverstillError as error:
                self._log.warning("the status object can't be written", error=str(error))


def _loads(worker: Child) -> bool:
    return any(place.loading for place in worker.places.values())


def main(models: Mapping[str, ServingSettings], config: pathlib.Path | None) -> int:
    """Run a gateway until SIGTERM or SIGINT; returns the exit code."""
    logs.configure("gateway", next(iter(models.values())).log)
    Supervisor(models, config).run()
    return 0
