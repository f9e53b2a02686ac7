"""The gateway's metrics port: the metrics of all its processes, merged from their files.

Decides how the port is let go: at once. Knows no metric by name: see telemetry.py. `close` is called by the thread that made it; scrapes are
answered by threads of their own.
"""

import contextlib
import pathlib
import socket
import threading

from prometheus_client import CollectorRegistry, multiprocess, start_http_server

from protos.errors import UnavailableError
from serving.supervision.port import address_of


class MetricsPort:
    """An open metrics port. `address` is host:port, of the port that was taken where any free one would do.

    Args:
        folder: where the processes write their metrics.

    Raises:
        UnavailableError: somebody listens there.
    """

    def __init__(self, host: str, port: int, folder: pathlib.Path) -> None:
        registry = CollectorRegistry()
        multiprocess.MultiProcessCollector(registry, path=str(folder))  # type: ignore[no-untyped-call]
        try:
            self._server, self._thread = start_http_server(port, host, registry)
        except OSError as error:
            raise UnavailableError(
                f"port {port} on {host} is taken: {error.strerror}",
                fix="Stop what listens there or set gateway.metrics_port",
            ) from None
        self.address = address_of(host, self._server.server_port)

    def close(self) -> None:
        """Stop answering and let the port go."""
        ending = threading.Thread(target=self._server.shutdown, name="metrics-end")
        ending.start()
        host, port = self._server.server_address[:2]
        with contextlib.suppress(
            OSError
        ):  # a connection wakes it; by itself it looks twice a second whether it shall end
            socket.create_connection((str(host), int(port)), timeout=0.5).close()
        ending.join()
        self._server.server_close()
        self._thread.join()
