"""Real Apache Kafka for tests: brokers in a temporary folder, started, killed, stopped for a while and started again.

The scripts in tests/support/infra fetch Kafka from Maven Central once (Java 17 and Maven needed). Nothing is ended by its name.
"""

import contextlib
import dataclasses
import os
import pathlib
import random
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator

import pytest

from tests.support.waiting import wait_for

INFRA = pathlib.Path(__file__).parent / "infra"
#: A broker that is used instead of one of ours, as host:port.
RUNNING = "EVERSTILL_TEST_KAFKA"


@dataclasses.dataclass
class Cluster:
    """Brokers of one folder; broker numbers begin at 1.

    Args:
        extra: lines added to each `server.properties`; later ones win.
    """

    folder: pathlib.Path
    num_brokers: int
    port: int
    extra: str = ""

    @property
    def bootstrap(self) -> str:
        """What clients are given."""
        return ",".join(f"127.0.0.1:{self.port + 2 * number}" for number in range(self.num_brokers))

    def start(self) -> None:
        """Start the brokers that don't run, on the data that they have, and wait until all answer."""
        environment = {**os.environ}
        self.folder.mkdir(parents=True, exist_ok=True)
        if self.extra:
            extra = self.folder / "extra.properties"
            extra.write_text(self.extra)
            environment["KAFKA_EXTRA"] = str(extra)
        done = subprocess.run(
            [INFRA / "kafka/start-kafka-cluster.sh", self.folder, str(self.num_brokers), str(self.port)],
            capture_output=True,
            text=True,
            timeout=180,
            stdin=subprocess.DEVNULL,
            env=environment,
        )
        if done.returncode:
            self.stop()
            pytest.fail(f"Kafka didn't start: {done.stdout[-2000:]}{done.stderr[-500:]}")

    def pid(self, broker: int = 1) -> int:
        """Return a broker's process number."""
        return int((self.folder / f"kafka-{broker}.pid").read_text())

    def kill(self, broker: int = 1) -> None:
        """End a broker as a crash would."""
        os.kill(self.pid(broker), signal.SIGKILL)
        self._wait_until_gone(broker)

    def terminate(self, broker: int = 1) -> None:
        """End a broker in good order."""
        os.kill(self.pid(broker), signal.SIGTERM)
        self._wait_until_gone(broker)

    @contextlib.contextmanager
    def silent(self, broker: int = 1) -> Iterator[None]:
        """Stop a broker's process: connections stay open, and nobody answers."""
        os.kill(self.pid(broker), signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self.pid(broker), signal.SIGCONT)

    def stop(self) -> None:
        """End every broker, at once: nobody comes back to their data, and without a majority they would not end by themselves."""
        subprocess.run([INFRA / "stop.sh", self.folder], env={**os.environ, "GRACE": "0"}, check=True, timeout=120)

    def _wait_until_gone(self, broker: int) -> None:
        proc = pathlib.Path(f"/proc/{self.pid(broker)}")
        wait_for(lambda: not proc.exists(), what=f"broker {broker} to end", deadline_s=30.0)


def free_base_port(count: int) -> int:
    """Return a port, below the kernel's own range, from which `count` ports are free."""
    while True:
        base = random.randrange(12_000, 22_000, 10)
        with contextlib.ExitStack() as stack:
            try:
                for port in range(base, base + count):
                    stack.enter_context(socket.socket()).bind(("127.0.0.1", port))
            except OSError:
                continue
            return base


def need_kafka() -> None:
    """Skip on a machine that can't run Kafka; fail where it must (CI)."""
    missing = [name for name in ("java", "mvn") if shutil.which(name) is None]
    if missing:
        reason = f"Kafka needs {' and '.join(missing)}: install Java 17 and Maven, or set {RUNNING}=host:port"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)


@contextlib.contextmanager
def brokers(folder: pathlib.Path, num_brokers: int = 1, extra: str = "") -> Iterator[Cluster]:
    """Run brokers of one's own: for tests that kill them, or that need other settings."""
    need_kafka()
    cluster = Cluster(folder, num_brokers, free_base_port(2 * num_brokers), extra)
    cluster.start()
    try:
        yield cluster
    finally:
        cluster.stop()
