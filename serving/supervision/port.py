"""The callers' port, held by the gateway's parent for its whole life: every worker opens it beside the others (SO_REUSEPORT).

Decides that the port belongs to this gateway: nobody may listen there at the start, and nobody without SO_REUSEPORT and this
user can come later, also while no worker listens. What is held never listens, so the kernel gives it no connection. A host
name is resolved here, once: workers open exactly the addresses that are held. Main thread.
"""

import contextlib
import errno
import socket
from typing import Any

from protos.errors import UnavailableError

#: Where any free port will do and the host has several addresses: tries to find one that is free on all.
TRIES = 16
WILDCARDS = ("", "0.0.0.0", "::")
#: An address of the host's name that this machine doesn't have (an IPv6 one, often) is passed over.
NOT_HERE = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)

Address = tuple[int, str]


class HeldPort:
    """A port on every address of a host. `addresses` are what workers open, as host:port."""

    def __init__(self, port: int, held: list[tuple[socket.socket, str]]) -> None:
        self.port = port
        self.addresses = [address_of(host, port) for _, host in held]
        self._sockets = [one for one, _ in held]

    def close(self) -> None:
        """Let the port go."""
        for one in self._sockets:
            one.close()


def hold(host: str, port: int) -> HeldPort:
    """Hold a port; 0 is any free one.

    Raises:
        UnavailableError: somebody listens there, or the host isn't this machine's.
    """
    addresses = _resolved(host)
    for _ in range(TRIES if port == 0 and len(addresses) > 1 else 1):
        held: list[tuple[socket.socket, str]] = []
        number = port
        try:
            for family, address in addresses:
                if (one := _held(family, address, number)) is not None:
                    held.append((one, address))
                    number = one.getsockname()[1]
        except OSError as error:
            for one, _ in held:
                one.close()
            if port == 0 and held and error.errno == errno.EADDRINUSE:
                continue  # free on one address of the host, taken on another
            raise _refusal(host, port, error) from None
        if held:
            return HeldPort(number, held)
    raise _refusal(host, port, OSError(errno.EADDRNOTAVAIL, ""))


def address_of(host: str, port: int) -> str:
    """Return host:port, an IPv6 address in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _resolved(host: str) -> list[Address]:
    if host in WILDCARDS:  # as gRPC reads them: every address, of both families where there are two
        return [(socket.AF_INET6, "::")] if _has_ipv6() else [(socket.AF_INET, "0.0.0.0")]
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError as error:
        raise UnavailableError(f"the host {host} isn't known: {error.strerror}", fix="Set gateway.host") from None
    families = (socket.AF_INET, socket.AF_INET6)
    return list(dict.fromkeys((int(one[0]), str(one[4][0])) for one in found if one[0] in families))


def _has_ipv6() -> bool:
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as probe:
        probe.bind(("::", 0))
        return True
    return False


def _held(family: int, address: str, port: int) -> socket.socket | None:
    """Return a bound socket, or None where this machine doesn't have the address."""
    try:
        with _bound(family, address, port, socket.SO_REUSEADDR) as alone:  # fails beside one that listens or holds
            number = alone.getsockname()[1]
    except OSError as error:
        if error.errno in NOT_HERE:
            return None
        raise
    try:
        return _bound(family, address, number, socket.SO_REUSEPORT)
    except OSError:  # connections of an earlier server are closing there, and it didn't share its port
        return _bound(family, address, number, socket.SO_REUSEADDR, socket.SO_REUSEPORT)


def _bound(family: int, address: str, port: int, *options: int) -> socket.socket:
    one = socket.socket(family, socket.SOCK_STREAM)
    try:
        if family == socket.AF_INET6 and address == "::":
            one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        for option in options:
            one.setsockopt(socket.SOL_SOCKET, option, 1)
        one.bind((address, port))
    except OSError:
        one.close()
        raise
    return one


def _refusal(host: str, port: int, error: OSError) -> UnavailableError:
    reasons: dict[Any, str] = {
        errno.EADDRINUSE: f"port {port} on {host} is taken",
        errno.EADDRNOTAVAIL: f"{host} is not an address of this machine",
        errno.EACCES: f"this user may not open port {port} on {host}",
    }
    what = reasons.get(error.errno, f"port {port} on {host} can't be opened: {error.strerror}")
    return UnavailableError(what, fix="Stop what listens there, or set gateway.port and gateway.host")
