"""The processes of one configuration: starts them in the order that they need each other, and knows when callers are answered.

Decides what is started: a teacher where it is a file of ours and isn't there yet, a loop for each model, one gateway. The stack that
it is given stops them, the last started first: the gateway drains while its teacher is still there. Main thread.
"""

import contextlib
import os
import pathlib
import platform
from collections.abc import Callable, Mapping
from typing import Any

from everstill.config import EverstillSettings
from everstill.doctor.places import running, statuses
from everstill.stack import Process, Stack
from everstill.topology import reachable, teacher_is_ours
from protos.errors import ConfigurationError, ConflictError
from registry.status import read_statuses
from registry.store import open_store
from serving.rpc.client import InferenceClient

GATEWAY = "gateway"
#: A gateway loads every live version before it opens its port.
START_S = 120.0
Say = Callable[..., None]


def refuse_second(models: Mapping[str, EverstillSettings]) -> None:
    """Raise ConflictError where a gateway or loop of this configuration runs here already.

    One on another machine isn't judged: its process number says nothing here. A loop's lease and ports do, later.
    """
    for status in statuses(models):
        if running(status) and status.get("machine") in (None, platform.node()) and _lives(status.get("pid")):
            raise ConflictError(
                f"a {status['process']} of this configuration runs already (pid {status['pid']})",
                fix="Stop it first; everstill status shows what it does",
            )


class Service:
    """What `everstill up` starts.

    Args:
        say: told about each step, as (event, **facts).
    """

    def __init__(
        self, stack: Stack, config: pathlib.Path | None, models: Mapping[str, EverstillSettings], say: Say
    ) -> None:
        self._stack = stack
        self._config = config
        self._models = models
        self._say = say
        self._silent: dict[str, Process] = {}
        self.address = ""
        self.metrics_address = ""

    def start(self) -> None:
        """Start everything; returns when the gateway's port is open, loops may take longer.

        Raises:
            UnavailableError: a process ended first; its last words are in the sentence.
        """
        environment: dict[str, str] = {}
        for name, settings in self._models.items():
            if teacher_is_ours(settings):
                environment |= self._start_teacher(name, settings)
        self._silent = {name: self._run(f"loop-{name}", name, ["distill_loop.app"]) for name in self._models}
        gateway = self._run(GATEWAY, None, ["serving.app", "gateway"], environment)
        name, settings = next(iter(self._models.items()))
        told = self._stack.wait_for(
            gateway, lambda: self._status(name, settings.gateway.id, gateway, "address"), "its port was open", START_S
        )
        self.address, self.metrics_address = told["address"], told["metrics_address"]
        self._say("started", process=GATEWAY, pid=gateway.popen.pid, address=self.address, metrics=self.metrics_address)

    def listen(self) -> None:
        """Say which loops have told their first status since the last look."""
        for name, process in list(self._silent.items()):
            if self._status(name, "loop", process, "pid"):
                del self._silent[name]
                self._say("started", process=process.name, pid=process.popen.pid)

    @property
    def complete(self) -> bool:
        """Whether every process has started."""
        return not self._silent

    def ready(self) -> list[str]:
        """Return the models that would be answered now."""
        with InferenceClient(self.address, timeout_s=2.0) as client:
            return [name for name in self._models if client.ready(name)]

    def _start_teacher(self, name: str, settings: EverstillSettings) -> dict[str, str]:
        """Start a model's teacher, where none answers yet; returns what the gateway has to be told of it."""
        server = settings.teacher_server
        if server.port == 0 and len(self._models) > 1:
            raise ConfigurationError(
                f"models.{name}.teacher_server.port is 0, but the gateway has to know it",
                fix="Give each teacher a port",
            )
        if server.port:
            address = reachable(server.host, server.port)
            with InferenceClient(address, timeout_s=2.0) as client:
                if client.ready(settings.teacher.model):
                    self._say("found", process=f"teacher-{name}", address=address)
                    return {}
        process = self._run(f"teacher-{name}", name, ["serving.app", "teacher"])
        address = self._stack.started_event(process)["address"]
        self._say("started", process=process.name, pid=process.popen.pid, address=address)
        return {} if server.port else {"EVERSTILL_TEACHER__ADDRESS": address}

    def _run(
        self, name: str, model: str | None, module: list[str], environment: Mapping[str, str] | None = None
    ) -> Process:
        file = ["--config", str(self._config)] if self._config else []
        which = ["--model", model] if model and len(self._models) > 1 else []
        return self._stack.start(name, [*module, *file, *which], environment)

    def _status(self, model: str, process_id: str, process: Process, key: str) -> dict[str, Any] | None:
        """Return what a process said of itself, once it has; what an earlier run left doesn't count."""
        status = read_statuses(open_store(self._models[model].registry.url), model).get(process_id, {})
        return status if status.get("pid") == process.popen.pid and status.get(key) else None


def _lives(pid: Any) -> bool:
    with contextlib.suppress(OSError, TypeError):
        os.kill(pid, 0)
        return True
    return False
