"""What kafka-python is told by the settings, the same for the mirror's producer and the loop's clients. Knows no kafka-python itself.

Pure functions, any thread; `Attempt` belongs to the thread that makes one client.
"""

import logging
import re
import socket
import ssl
import threading
from collections.abc import Callable, Mapping
from typing import Any

from protos.errors import ConfigurationError, EverstillError, UnavailableError
from registry.sections import KafkaSection

#: A broker that doesn't answer within this is away, for a client that is being made.
CONNECT_TIMEOUT_S = 3.0
#: Room for headers and framing around a message of `max_message_bytes`.
OVERHEAD_BYTES = 2**16
PROTOCOLS = {"plaintext": "PLAINTEXT", "tls": "SSL", "sasl_plaintext": "SASL_PLAINTEXT", "sasl_tls": "SASL_SSL"}
CREATE_FIX = "Make the topics: `everstill stream topics --create`"


def options(settings: KafkaSection) -> dict[str, Any]:
    """Return the arguments that every client of kafka-python takes.

    Raises:
        ConfigurationError: a certificate's file can't be read.
    """
    chosen: dict[str, Any] = {
        "bootstrap_servers": settings.bootstrap.split(","),
        "security_protocol": PROTOCOLS[settings.security],
        "bootstrap_timeout_ms": int(CONNECT_TIMEOUT_S * 1000),
        "reconnect_backoff_max_ms": 1000,
        "metrics_enabled": False,
    }
    if settings.security.startswith("sasl"):
        chosen["sasl_mechanism"] = settings.sasl_mechanism
        chosen["sasl_plain_username"] = settings.username
        chosen["sasl_plain_password"] = settings.password.get_secret_value()
    if settings.security.endswith("tls"):
        chosen["ssl_context"] = tls_context(settings)
    return chosen


def tls_context(settings: KafkaSection) -> ssl.SSLContext:
    """Return the context that checks a broker's certificate and name, and shows ours where one is set.

    Raises:
        ConfigurationError: a file can't be read, or holds no certificate.
    """
    try:
        context = ssl.create_default_context(cafile=settings.ca)
    except (OSError, ssl.SSLError) as error:
        raise _unusable("ca", settings.ca, error) from None
    if settings.certificate is not None:
        try:
            context.load_cert_chain(settings.certificate, settings.certificate_key)
        except (OSError, ssl.SSLError) as error:
            raise _unusable("certificate", settings.certificate, error) from None
    return context


def _unusable(key: str, path: object, error: OSError) -> ConfigurationError:
    return ConfigurationError(
        f"stream.kafka.{key}: {path} can't be used: {error.strerror or error}", fix="It has to be a PEM file"
    )


class Attempt(logging.Handler):
    """One making of a client of kafka-python: what its constructor leaves undone. Used as `with Attempt(...) as attempt`.

    Given as `kafka_client`, it makes the network client inside, and sees to three things that kafka-python 3.0 doesn't do: a constructor
    that fails leaves sockets and a thread behind; `allow_auto_create_topics` is ignored, so that asking for a topic would make it with
    the broker's defaults; and why brokers end a connection is in its log, not in its errors. That log is one for all clients of the process: only
    what threads of this one say is listened to, the one that makes it and the one that it has for its connections.
    """

    def __init__(self, settings: KafkaSection, make: Callable[..., Any]) -> None:
        super().__init__(logging.WARNING)
        self._settings = settings
        self._make = make
        self._client: Any = None
        self._thread = threading.get_ident()
        self._reason = ""

    def __call__(self, **configs: Any) -> Any:
        self._client = self._make(**configs)
        self._client.cluster.config["allow_auto_create_topics"] = False
        return self._client

    def __enter__(self) -> "Attempt":
        knock(self._settings)
        self._thread = threading.get_ident()
        _CONNECTIONS.addHandler(self)
        return self

    def __exit__(self, *_: object) -> None:
        _CONNECTIONS.removeHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        """Remember why a connection ended: that it did, or that time is over, is no reason where there is a better one."""
        if not self._is_mine(record.thread):
            return
        for value in record.args if isinstance(record.args, tuple) else ():
            text = _CLASSES.sub("", str(value))
            if isinstance(value, Exception) and text and not text.startswith("Unable to bootstrap"):
                self._reason = self._reason if self._reason and _VAGUE.search(text) else text

    def _is_mine(self, thread: int | None) -> bool:
        """Whether a thread is this client's. A client without a thread for its connections, a producer while it is made, sees to them in ours."""
        if thread == self._thread:
            return True
        connections = getattr(getattr(self._client, "_net", None), "_io_thread", None)
        return connections is not None and thread == connections.ident

    def failed(self) -> UnavailableError:
        """Put away what the constructor began, and return the error that says why it failed."""
        if self._client is not None:
            self._client.close()
        if not self._reason or "timed out" in self._reason:
            return unreachable(self._settings, f"no answer within {CONNECT_TIMEOUT_S:.0f} s")
        return Unreachable(
            f"Kafka at {self._settings.bootstrap} ends our connection: {self._reason}",
            fix="Check stream.kafka.security, sasl_mechanism, username, password and ca",
        )


#: Where kafka-python logs how connections fare, what says little there, and the names before its reasons.
_CONNECTIONS = logging.getLogger("kafka.net")
_VAGUE = re.compile("socket disconnected|timed out")
_CLASSES = re.compile(r"^(\[Error \d+\] )?(\w+Error: )+")


def knock(settings: KafkaSection) -> None:
    """See that something listens at one of the addresses, before a client is made: that would keep trying, and leave sockets behind.

    Raises:
        Unreachable: nothing does.
    """
    reason = ""
    for address in settings.bootstrap.split(","):
        host, _, port = address.rpartition(":")
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_TIMEOUT_S).close()
        except OSError as error:
            reason = error.strerror or str(error)
        else:
            return
    raise unreachable(settings, reason)


class Unreachable(UnavailableError):
    """No broker answers, or none answers as it should; one may later."""


def away(error: EverstillError) -> EverstillError:
    """Return the error of a client that can't be made, where others could before: a certificate that can't be read now is being renewed."""
    return Unreachable(error.message, fix=error.fix) if isinstance(error, ConfigurationError) else error


def unreachable(settings: KafkaSection, reason: object) -> Unreachable:
    """Return the error of brokers that can't be spoken to."""
    return Unreachable(f"Kafka at {settings.bootstrap} doesn't answer: {reason}", fix="Check that a broker runs there")


def forbidden(settings: KafkaSection, name: str, rights: str) -> UnavailableError:
    """Return the error of a topic that brokers don't let us at, for want of rights."""
    return UnavailableError(
        f"Kafka at {settings.bootstrap} doesn't let us at topic {name}, which needs the right {rights}",
        fix="Its operator has to grant that",
    )


def check_partitions(wanted: Mapping[str, int], found: Mapping[str, int]) -> None:
    """Compare topics' numbers of partitions with those that are wanted.

    Raises:
        UnavailableError: one is missing, or has another number.
    """
    missing = [name for name in wanted if not found.get(name)]
    if missing:
        raise UnavailableError(f"Kafka has no topic {', '.join(missing)}", fix=CREATE_FIX)
    for name, count in wanted.items():
        if found[name] != count:
            raise UnavailableError(
                f"topic {name} has {found[name]} partitions, and has to have {count}",
                fix="Set stream.partitions to what the topics of pairs and labels have; all others have one partition",
            )
