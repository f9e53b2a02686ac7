"""What kafka-python is told, and what of its log belongs to whom."""

import logging
import socket
import threading
from types import SimpleNamespace

from registry.kafka_options import Attempt
from registry.sections import KafkaSection


def test_an_attempt_is_told_of_its_own_connections_alone() -> None:
    log = logging.getLogger("kafka.net.manager")

    def thread(reason: str) -> threading.Thread:
        return threading.Thread(target=log.error, args=("Connection failed: %s", OSError(reason)))

    another, own = thread("another's fault"), thread("our own")
    client = SimpleNamespace(
        cluster=SimpleNamespace(config={}), close=lambda: None, _net=SimpleNamespace(_io_thread=own)
    )
    with socket.create_server(("127.0.0.1", 0)) as server:
        settings = KafkaSection(bootstrap=f"127.0.0.1:{server.getsockname()[1]}")
        with Attempt(settings, lambda: client) as attempt:
            attempt()
            another.start()
            another.join()
            assert "no answer within" in str(attempt.failed())
            own.start()
            own.join()
            assert "ends our connection: our own" in str(attempt.failed())
