"""The network that can be cut: bytes pass, then wait, then connections break, and all is well again afterwards."""

import contextlib
import socket
import threading
from collections.abc import Iterator

import pytest

from benchmarks.chaos.proxy import Proxy
from tests.support.kafka import free_base_port


@contextlib.contextmanager
def echo_server() -> Iterator[int]:
    """Send back what comes, a thread for each connection."""

    def echo(connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            while chunk := connection.recv(1024):
                connection.sendall(chunk)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=echo, args=(server.accept()[0],), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as server:
        accepting = threading.Thread(target=accept, daemon=True)
        accepting.start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)
        accepting.join()


def test_a_network_falls_silent_breaks_and_heals() -> None:
    port = free_base_port(1)
    with echo_server() as target, Proxy(port, f"127.0.0.1:{target}") as network:
        with socket.create_connection(("127.0.0.1", port), timeout=5) as one:
            one.sendall(b"a")
            assert one.recv(1) == b"a"

            network.become("silence")
            one.sendall(b"b")
            one.settimeout(0.2)
            with pytest.raises(TimeoutError):
                one.recv(1)
            network.become("heal")
            one.settimeout(5)
            assert one.recv(1) == b"b"

            network.become("cut")
            with pytest.raises(ConnectionResetError):
                one.recv(1)
        network.become("heal")
        with socket.create_connection(("127.0.0.1", port), timeout=5) as another:
            another.sendall(b"c")
            assert another.recv(1) == b"c"
