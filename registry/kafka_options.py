"""What kafka-python is told by the settings, the same for the mirror's producer and the loop's clients. Knows no kafka-python itself.

Pure functions, any thread; `Attempt` belongs to the thread that makes one client.
"""

import ssl
from collections.abc import Callable, Mapping
from typing import Any

from protos.errors import ConfigurationError, UnavailableError
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


class Attempt:
    """Makes the network client inside one client of kafka-python, to be given as its `kafka_client`.

    Two things that kafka-python 3.0 doesn't do: a client whose constructor fails leaves sockets and a thread behind (`abandon` ends
    them), and `allow_auto_create_topics` is ignored, so that asking for a topic would make it with the broker's defaults.
    """

    def __init__(self, make: Callable[..., Any]) -> None:
        self._make = make
        self._client: Any = None

    def __call__(self, **configs: Any) -> Any:
        self._client = self._make(**configs)
        self._client.cluster.config["allow_auto_create_topics"] = False
        return self._client

    def abandon(self) -> None:
        """End what the failed constructor began."""
        if self._client is not None:
            self._client.close()

    def why(self) -> str:
        """Return what brokers said against our name and password, empty where they said nothing."""
        if self._client is None:
            return ""
        cluster, manager = self._client.cluster, self._client._manager
        failures = (manager.auth_failure(broker.node_id) for broker in cluster.bootstrap_brokers())
        return next((str(failure) for failure in failures if failure is not None), "")


class Unreachable(UnavailableError):
    """No broker answers; one may later."""


def unreachable(settings: KafkaSection, error: Exception, said: str = "") -> UnavailableError:
    """Return the error of brokers that can't be spoken to; `said` is what they said against our name and password."""
    if said:
        return UnavailableError(
            f"Kafka at {settings.bootstrap} refuses us: {said}",
            fix="Check stream.kafka.username, password and sasl_mechanism",
        )
    return Unreachable(
        f"Kafka at {settings.bootstrap} doesn't answer: {error}",
        fix="Check that a broker runs there, and stream.kafka.security",
    )


def check_partitions(wanted: Mapping[str, int], found: Mapping[str, int]) -> None:
    """Compare topics' numbers of partitions with those that are wanted.

    Raises:
        UnavailableError: one is missing, or has fewer.
    """
    missing = [name for name in wanted if not found.get(name)]
    if missing:
        raise UnavailableError(f"Kafka has no topic {', '.join(missing)}", fix=CREATE_FIX)
    for name, count in wanted.items():
        if found[name] < count:
            raise UnavailableError(
                f"topic {name} has {found[name]} partitions, stream.partitions is {count}",
                fix="Set stream.partitions to what the topic has",
            )
