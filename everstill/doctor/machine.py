"""What `everstill doctor` looks at on the machine: Python, packages, cores, memory, disk, the kernel's network settings.

Decides which lack stops what. Reads only.
"""

import contextlib
import importlib.metadata
import os
import pathlib
import re
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping

from everstill.config import EverstillSettings
from everstill.doctor.check import Check, fail, ok, warn
from protos.errors import UnavailableError
from serving.config import JOURNAL_FILE_BYTES

PACKAGE = "everstill"
LEAST_PYTHON = (3, 11)
#: What a role can't do without its packages, by the name of the extra.
ROLES = {
    "serving": "gateway and teacher can't run here",
    "loop": "the loop can't run here",
    "demo": "the demo can't run here",
    "images": "everstill infer reads no images here",
}
#: Packages that everything works without, only slower, and what is then slow.
FASTER = {"crc32c": "Kafka's checksums are computed in Python, which costs each pair about 0.2 ms on either side"}
#: Memory that a gateway, a loop and a small teacher take together, and free disk below which it is close, in bytes.
LITTLE_MEMORY, LITTLE_DISK, NO_DISK = 1 << 30, 1 << 30, 64 << 20
MEMORY_FILE = pathlib.Path("/proc/meminfo")
MIGRATE_FILE = pathlib.Path("/proc/sys/net/ipv4/tcp_migrate_req")
_REQUIREMENT = re.compile(r"^(?P<name>[A-Za-z0-9_.-]+)==(?P<version>[^;\s]+)(?:\s*;\s*(?P<marker>.*))?$")
_EXTRA = re.compile(r"extra\s*==\s*['\"](?P<extra>[^'\"]+)['\"]")


def machine(models: Mapping[str, EverstillSettings] | None) -> Iterator[Check]:
    """Check the machine; with a configuration, also what it asks of it."""
    version = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info[:2] >= LEAST_PYTHON:
        yield ok("Python", f"{version}, {sys.executable}")
    else:
        yield fail("Python", f"{version} is too old", "Use Python 3.11 to 3.13")
    yield from packages(importlib.metadata.requires(PACKAGE) or [])
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    yield (
        ok("cores", str(cores))
        if cores > 1
        else warn("cores", "1: gateway, teacher and loop share it", "Run the loop or the teacher on another machine")
    )
    yield from memory(MEMORY_FILE)
    if models:
        settings = next(iter(models.values()))
        stream = [] if settings.stream.kafka.bootstrap else [str(settings.stream.path)]
        yield from disk({settings.registry.url, *stream, str(settings.capture.dir)})
        yield from hand_over(models.values())
        yield from migration(getattr(settings.gateway, "workers", 1), MIGRATE_FILE)


def packages(requirements: list[str]) -> Iterator[Check]:
    """Check the packages of each role against the versions that everstill is tested with."""
    roles: dict[str, list[tuple[str, str]]] = {}
    for requirement in requirements:
        if match := _REQUIREMENT.match(requirement):
            extra = _EXTRA.search(match["marker"] or "")
            roles.setdefault(extra["extra"] if extra else "core", []).append((match["name"], match["version"]))
    for role, wanted in roles.items():
        installed = {name: _version(name) for name, _ in wanted}
        missing = sorted(name for name, version in installed.items() if version is None)
        others = [
            f"{name} {installed[name]} (tested with {version})"
            for name, version in wanted
            if installed[name] not in (None, version)
        ]
        about = f"packages: {role}"
        if missing:
            slow = all(name in FASTER for name in missing)
            what = FASTER[missing[0]] if slow else ROLES.get(role, "nothing can run here")
            yield warn(about, f"{', '.join(missing)} missing: {what}", f"Install everstill[{role}], where it is wanted")
        elif others:
            yield warn(about, ", ".join(others), "Install the versions that everstill names, or go on at your own risk")
        else:
            yield ok(about, ", ".join(f"{name} {installed[name]}" for name, _ in wanted))


def memory(file: pathlib.Path) -> Iterator[Check]:
    """Check the memory that is free; nothing where the system doesn't say."""
    try:
        match = re.search(r"^MemAvailable:\s+(\d+) kB", file.read_text(), re.MULTILINE)
    except OSError:
        return
    if match is None:
        return
    available = int(match[1]) * 1024
    found = f"{available / 2**30:.1f} GiB available"
    yield (
        ok("memory", found)
        if available >= LITTLE_MEMORY
        else warn("memory", found, "A gateway, a loop and a small teacher take about 1 GiB together")
    )


def disk(places: set[str]) -> Iterator[Check]:
    """Check the room on each file system that is written to."""
    seen: set[int] = set()
    for place in sorted(places):
        if "://" in place:
            continue
        folder = nearest(pathlib.Path(place))
        device = folder.stat().st_dev
        if device in seen:
            continue
        seen.add(device)
        free = shutil.disk_usage(folder).free
        about, found = f"disk at {folder}", f"{free / 2**30:.1f} GiB free"
        if free < NO_DISK:
            yield fail(about, found, "Make room, or move registry.url, stream.path and capture.dir", UnavailableError)
        elif free < LITTLE_DISK:
            yield warn(about, found, "Versions, samples and checkpoints are written there: make room")
        else:
            yield ok(about, found)


def hand_over(models: Iterable[EverstillSettings]) -> Iterator[Check]:
    """Check, for each disk below capture.dir, the room for what its models' rings, journals and spools have not taken yet."""
    disks: dict[int, list[EverstillSettings]] = {}
    for settings in models:
        disks.setdefault(nearest(settings.capture.dir).stat().st_dev, []).append(settings)
    for there in disks.values():
        capture = there[0].capture
        start, most = 0, 0
        for settings in there:
            folder, bounds = settings.capture.dir / settings.model.name, settings.capture
            first = _lacking(folder, "journal-*", 2 * JOURNAL_FILE_BYTES)
            first += sum(
                _lacking(folder, f"ring-{one}.mmap", bounds.ring_bytes) for one in range(settings.gateway.workers)
            )
            start += first
            most += first + _lacking(folder, "spool-*/*", bounds.spool_bytes)
        free = shutil.disk_usage(nearest(capture.dir)).free
        about, found = f"room for {capture.dir}", f"{_gib(most)} may still be taken, {_gib(free)} free"
        if free < start:
            need = f"{_gib(start)} are taken at the start by rings and journals, {_gib(free)} free"
            yield fail(about, need, "Make room, set capture.dir or lower capture.ring_bytes", UnavailableError)
        elif free < most:
            what = "spools that find the disk full drop samples before capture.spool_bytes is reached"
            yield warn(about, f"{found}: {what}", "Make room, set capture.dir or lower capture.spool_bytes")
        else:
            yield ok(about, found)


def _lacking(folder: pathlib.Path, pattern: str, wanted: int) -> int:
    """Return the bytes of disk that a folder's files of a pattern will have beyond what they have; one that goes meanwhile has none."""
    taken = 0
    for path in folder.glob(pattern):
        with contextlib.suppress(OSError):
            taken += path.stat().st_blocks * 512
    return max(0, wanted - taken)


def _gib(num_bytes: int) -> str:
    return f"{num_bytes / 2**30:.1f} GiB"


def migration(workers: int, file: pathlib.Path) -> Iterator[Check]:
    """Check, for several workers, whether the kernel hands a dead worker's waiting connections to another one."""
    if workers < 2:
        return
    try:
        on = file.read_text().strip() == "1"
    except OSError:
        return
    yield (
        ok("net.ipv4.tcp_migrate_req", "1")
        if on
        else warn(
            "net.ipv4.tcp_migrate_req",
            "0: connections that wait at a worker when it dies are reset; callers have to connect again",
            "sysctl -w net.ipv4.tcp_migrate_req=1 hands them to another worker",
        )
    )


def nearest(path: pathlib.Path) -> pathlib.Path:
    """Return the path, or the nearest folder above it that exists."""
    path = path.absolute()
    while not path.exists() and path != path.parent:
        path = path.parent
    return path


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
