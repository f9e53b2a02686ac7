"""The demo's stream on Kafka: topics under a prefix of this run's own, there before it begins and gone after it, whatever ends it.

Decides the prefix and what the configuration says of it. The topics are kept by a process of the stream's room: it makes them, and
deletes them when it is stopped, also where it is this process that is killed. Called by the story; main thread.
"""

import contextlib
import dataclasses
import json
import pathlib
import secrets
from collections.abc import Callable, Iterator
from typing import Any

from everstill import rooms
from everstill.config import EverstillSettings
from everstill.stack import Stack, last_line
from protos.errors import ConfigurationError
from registry.config import load
from registry.sections import KafkaSection

PROCESS = "topics"


@dataclasses.dataclass(frozen=True)
class Stream:
    """Which stream a demo goes through.

    Args:
        bootstrap: Kafka's host:port, empty for the embedded file.
        prefix: first part of the topics' names.
    """

    bootstrap: str = ""
    prefix: str = ""

    @classmethod
    def of(cls, bootstrap: str | None) -> "Stream":
        """Return the embedded stream, or one on Kafka under a prefix that no other run has.

        Raises:
            ConfigurationError: it is no address.
        """
        if not bootstrap:
            return cls()
        try:
            known = KafkaSection(bootstrap=bootstrap)
        except ValueError:
            raise ConfigurationError(
                f"--kafka {bootstrap!r} is not host:port", fix="Name a broker, e.g. --kafka 127.0.0.1:9092"
            ) from None
        return cls(known.bootstrap, f"everstill-demo-{secrets.token_hex(4)}")

    def settings(self) -> str:
        """Return what everstill.toml says of it."""
        if not self.bootstrap:
            return ""
        lines = ["", "[stream.kafka]", f"bootstrap = {json.dumps(self.bootstrap)}"]
        return "\n".join([*lines, f"topic_prefix = {json.dumps(self.prefix)}", ""])

    def report(self) -> dict[str, Any]:
        """Return what the demo's report says of it."""
        if not self.bootstrap:
            return {"kind": "embedded"}
        return {"kind": "kafka", "bootstrap": self.bootstrap, "topic_prefix": self.prefix}

    def __str__(self) -> str:
        return f"Kafka at {self.bootstrap}, topics {self.prefix}.*" if self.bootstrap else "a file"


def check(stream: Stream, config: pathlib.Path) -> None:
    """Ask whether Kafka answers, before anything is started or gathered.

    Args:
        config: a file that may be written.

    Raises:
        UnavailableError: no broker answers. ConfigurationError: the environment names another one.
    """
    if not stream.bootstrap:
        return
    config.write_text(stream.settings())
    found = load(config, EverstillSettings).stream
    if (found.kafka.bootstrap, found.prefix) != (stream.bootstrap, stream.prefix):
        raise ConfigurationError(
            "the environment names another Kafka or another topic_prefix than this demo",
            fix="Unset EVERSTILL_STREAM__KAFKA__BOOTSTRAP and EVERSTILL_STREAM__KAFKA__TOPIC_PREFIX",
        )
    rooms.stream_brokers(config)


@contextlib.contextmanager
def own_topics(stream: Stream, config: pathlib.Path, say: Callable[[str], None]) -> Iterator[None]:
    """Make the topics, and delete them at the end, whatever it is; where that fails, say so.

    Raises:
        UnavailableError: they can't be made.
    """
    if not stream.bootstrap:
        yield
        return
    with Stack(config.parent) as keeper:
        command = ["distill_loop.stream.app", "keep", "--prefix", stream.prefix, "--config", str(config)]
        process = keeper.start(PROCESS, command)
        keeper.started_event(process)
        try:
            yield
        finally:
            keeper.stop()
            if process.popen.returncode:
                say(last_line(process.log))
