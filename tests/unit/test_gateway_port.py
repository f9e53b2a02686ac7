"""The gateway's ports as the parent holds them: told once where one is taken, the callers' shared by the workers, free again at the end."""

import pathlib
import socket
import urllib.request

import pytest

from protos.errors import UnavailableError
from serving.supervision.metrics_port import MetricsPort
from serving.supervision.port import address_of, hold


def shared(address: str) -> socket.socket:
    """Open a port as a worker does."""
    host, _, port = address.rpartition(":")
    one = socket.socket(socket.AF_INET6 if "[" in host else socket.AF_INET)
    one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    one.bind((host.strip("[]"), int(port)))
    one.listen()
    return one


def test_a_free_port_is_found_and_several_workers_open_it() -> None:
    port = hold("127.0.0.1", 0)

    workers = [shared(port.addresses[0]) for _ in range(2)]

    assert port.port
    assert {worker.getsockname() for worker in workers} == {("127.0.0.1", port.port)}
    for one in (*workers, port):
        one.close()


def test_a_port_where_somebody_listens_is_refused() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(UnavailableError, match="is taken"):
        hold("127.0.0.1", taken.getsockname()[1])


def test_a_port_that_another_gateway_shares_among_its_workers_is_refused() -> None:
    port = hold("127.0.0.1", 0)
    worker = shared(port.addresses[0])

    with pytest.raises(UnavailableError, match=f"port {port.port} on 127.0.0.1 is taken"):
        hold("127.0.0.1", port.port)
    worker.close()
    port.close()


def test_a_port_that_another_gateway_holds_without_a_worker_is_refused() -> None:
    port = hold("127.0.0.1", 0)

    with pytest.raises(UnavailableError, match="is taken"):
        hold("127.0.0.1", port.port)
    port.close()


def test_a_port_is_free_again_when_it_was_let_go() -> None:
    port = hold("127.0.0.1", 0)
    port.close()

    again = hold("127.0.0.1", port.port)

    assert again.port == port.port
    again.close()


def test_a_host_name_is_held_on_each_of_its_addresses() -> None:
    port = hold("localhost", 0)

    assert f"127.0.0.1:{port.port}" in port.addresses or f"[::1]:{port.port}" in port.addresses
    port.close()


def test_an_ipv6_address_is_held_and_written_in_brackets() -> None:
    if not socket.has_ipv6:
        pytest.skip("only on machines with IPv6")
    port = hold("::1", 0)

    worker = shared(port.addresses[0])

    assert port.addresses == [address_of("::1", port.port)] == [f"[::1]:{port.port}"]
    worker.close()
    port.close()


def test_every_address_of_the_machine_is_held_as_one() -> None:
    port = hold("0.0.0.0", 0)

    with pytest.raises(UnavailableError, match="is taken"):
        hold("127.0.0.1", port.port)
    port.close()


@pytest.mark.parametrize(
    ("host", "words"), [("no-such-host.invalid", "isn't known"), ("192.0.2.1", "not an address of this machine")]
)
def test_a_host_that_is_not_this_machine_is_refused(host: str, words: str) -> None:
    with pytest.raises(UnavailableError, match=words):
        hold(host, 0)


def test_a_metrics_port_answers_and_is_free_again(tmp_path: pathlib.Path) -> None:
    metrics = MetricsPort("127.0.0.1", 0, tmp_path)
    with urllib.request.urlopen(f"http://{metrics.address}/metrics") as answer:
        assert answer.status == 200
    port = int(metrics.address.rpartition(":")[2])

    with pytest.raises(UnavailableError, match=f"port {port} on 127.0.0.1 is taken"):
        MetricsPort("127.0.0.1", port, tmp_path)
    metrics.close()

    hold("127.0.0.1", port).close()
