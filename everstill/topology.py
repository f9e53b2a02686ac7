"""Which processes a configuration means on this machine, and which ports they take. Pure; used by doctor and up."""

import dataclasses
import pathlib
from collections.abc import Mapping

from everstill.config import EverstillSettings
from serving.config import TeacherSection

ANY_HOST = {"0.0.0.0": "127.0.0.1", "::": "::1"}


@dataclasses.dataclass(frozen=True)
class Port:
    """A port that one of our processes opens. `key` is the setting; `owner` the process that holds it."""

    key: str
    host: str
    number: int
    owner: str


def reachable(host: str, port: int) -> str:
    """Return host:port as a caller on this machine writes it."""
    host = ANY_HOST.get(host, host)
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def teacher_is_ours(settings: EverstillSettings) -> bool:
    """Whether the model's teacher is the file that `everstill teacher` serves: its address is that server's.

    A server on any free port (0) can't be named; it is meant where the address was left as it is.
    """
    server, teacher = settings.teacher_server, settings.teacher
    if server.port == 0:
        return teacher.address == TeacherSection().address
    return (
        teacher.address.rpartition(":")[2] == str(server.port)
        and teacher.model == server.name
        and (teacher.address in (reachable(server.host, server.port), f"localhost:{server.port}"))
    )


def work_folder(settings: EverstillSettings) -> tuple[pathlib.Path, str]:
    """Return the folder in which `everstill up` puts its logs, and the setting that it follows from.

    It is beside the stream where that is a file; on Kafka there is none, and it is beside what the gateway captures.
    """
    if settings.stream.kafka.bootstrap:
        return settings.capture.dir.parent, "capture.dir"
    return settings.stream.path.parent, "stream.path"


def ports(models: Mapping[str, EverstillSettings]) -> list[Port]:
    """Return the ports of all processes, those that may be any (0) left out."""
    first = next(iter(models.values())).gateway
    found = [
        Port("gateway.port", first.host, first.port, "gateway"),
        Port("gateway.metrics_port", first.host, first.metrics_port, "gateway"),
    ]
    for name, settings in models.items():
        prefix = f"models.{name}." if len(models) > 1 else ""
        found.append(Port(f"{prefix}loop.metrics_port", "127.0.0.1", settings.loop.metrics_port, f"loop of {name}"))
        if teacher_is_ours(settings):
            server = settings.teacher_server
            found.append(Port(f"{prefix}teacher_server.port", server.host, server.port, f"teacher of {name}"))
    return [one for one in found if one.number]
