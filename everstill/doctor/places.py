"""What `everstill doctor` looks at on disk and in the network: folders, ports, registry, clock. Reads only, makes no folder."""

import contextlib
import errno
import functools
import os
import pathlib
import socket
import time
from collections.abc import Iterator, Mapping
from typing import Any

from everstill.config import EverstillSettings
from everstill.doctor.check import Check, attempt, fail, ok
from everstill.doctor.machine import nearest
from everstill.topology import Port, ports, reachable
from protos.errors import ConfigurationError, EverstillError, UnavailableError
from registry.ledger import Ledger
from registry.pointers import Pointers
from registry.status import read_statuses
from registry.store import open_store
from serving.rpc.client import InferenceClient

#: A process that told its status no longer ago than this is taken to run, in seconds.
FRESH_S = 15.0
#: How far another process's clock may be ahead of ours, in seconds.
CLOCK_S = 5.0


def places(models: Mapping[str, EverstillSettings]) -> Iterator[Check]:
    """Check all that is written to or listened on."""
    settings = next(iter(models.values()))
    folders = {
        "registry.url": pathlib.Path(settings.registry.url),
        "registry.cache": settings.registry.cache,
        **({} if settings.stream.kafka.bootstrap else {"stream.path": settings.stream.path.parent}),
        "capture.dir": settings.capture.dir,
    }
    for key, folder in folders.items():
        if "://" not in str(folder):
            yield writable(key, folder)
    yield from _ports(models)
    for name in models:
        yield from attempt(f"registry of {name}", functools.partial(_registry, settings.registry.url, name))
    yield from _clock(statuses(models))


def writable(key: str, folder: pathlib.Path) -> Check:
    """Check that a folder can be written to, or made."""
    there = nearest(folder)
    if not there.is_dir():
        return fail(key, f"{there} is a file, not a folder", f"Move it away, or set {key}", UnavailableError)
    if not os.access(there, os.W_OK | os.X_OK):
        return fail(key, f"{there} can't be written to", f"Change its rights, or set {key}", UnavailableError)
    return ok(key, f"{folder} is writable" if there == folder.absolute() else f"{folder} will be made")


def statuses(models: Mapping[str, EverstillSettings]) -> list[dict[str, Any]]:
    """Return what all processes last said of themselves; none where there is no registry yet."""
    url = next(iter(models.values())).registry.url
    if "://" not in url and not pathlib.Path(url).is_dir():
        return []
    found: list[dict[str, Any]] = []
    with contextlib.suppress(EverstillError):
        for name in models:
            found += read_statuses(open_store(url), name).values()
    return found


def running(status: dict[str, Any]) -> bool:
    """Whether a status is one of a process that runs."""
    return not status.get("stopped") and abs(time.time() - status.get("time_unix_s", 0.0)) < FRESH_S


def taken(host: str, port: int) -> bool:
    """Whether somebody listens on a port; raises UnavailableError where the host isn't one of this machine's."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return True
            raise UnavailableError(
                f"can't listen on {host}:{port}: {error.strerror}",
                fix="Name an address of this machine, a port above 1023",
            ) from None
    return False


def _ports(models: Mapping[str, EverstillSettings]) -> Iterator[Check]:
    wanted: dict[int, Port] = {}
    told = [one for one in statuses(models) if running(one)]
    for port in ports(models):
        if port.number in wanted:
            other = wanted[port.number].key
            yield fail(
                f"port {port.number}", f"{port.key} and {other} are the same", f"Set {port.key}", ConfigurationError
            )
            continue
        wanted[port.number] = port
        yield from attempt(f"port {port.number}", functools.partial(_port, port, told, models))


def _port(port: Port, told: list[dict[str, Any]], models: Mapping[str, EverstillSettings]) -> Check | str:
    if not taken(port.host, port.number):
        return f"free for {port.key}"
    held = _holder(port, told, models)
    if held:
        return f"{port.key}: held by {held}"
    return fail(
        f"port {port.number}",
        f"somebody else listens on it, {port.key} needs it",
        f"Stop that, or set {port.key}",
        UnavailableError,
    )


def _holder(port: Port, told: list[dict[str, Any]], models: Mapping[str, EverstillSettings]) -> str:
    """Return which of our own running processes holds a port, or nothing."""
    process = port.owner.partition(" ")[0]
    if process == "teacher":
        settings = models[port.owner.removeprefix("teacher of ")]
        with InferenceClient(reachable(port.host, port.number), timeout_s=2.0) as client:
            return "a teacher that answers" if client.ready(settings.teacher.model) else ""
    for status in told:
        addresses = [str(status.get(key, "")) for key in ("address", "metrics_address")]
        ours = any(address.endswith(f":{port.number}") for address in addresses)
        if status.get("process") == process and (ours or process == "loop"):
            return f"our own {process} (pid {status.get('pid')})"
    return ""


def _registry(url: str, model: str) -> str:
    if "://" not in url and not pathlib.Path(url).is_dir():
        return "empty: nothing was released yet"
    store = open_store(url)
    num_lines = Ledger(store, model).verify()
    live = Pointers(store, model).live()
    if live is None:
        return "no version yet"
    return f"version {live.digest[:12]} is live; {num_lines} ledger line{'s' if num_lines != 1 else ''}, unbroken"


def _clock(told: list[dict[str, Any]]) -> Iterator[Check]:
    """Check that no other process of the service lives in our future: leases and retention go by the clock."""
    ahead = max((status.get("time_unix_s", 0.0) - time.time() for status in told), default=0.0)
    if ahead > CLOCK_S:
        yield fail(
            "clock", f"this machine is {ahead:.0f} s behind another process of the service", "Set the clocks by NTP"
        )
    else:
        yield ok("clock", time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime()))
