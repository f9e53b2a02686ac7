"""The topics that a configuration asks for on Kafka: what they shall be, what is there, making them, and deleting those of a prefix.

Decides when a topic differs from its configuration, and in which words that is said. Never changes a topic: one that differs is
its owner's. Knows no messages. Called by `app.py`, which is asked by `everstill stream`, `up`, `doctor` and `demo`; one thread.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Any, Literal

import kafka
import kafka.errors
from kafka.admin import ConfigResource, ConfigResourceType

from protos.errors import ConfigurationError, UnavailableError
from protos.topics import KINDS, LABELS, PAIRS, topic
from registry.kafka_options import OVERHEAD_BYTES, Attempt, options, unreachable
from registry.sections import KafkaSection, StreamSection

#: A broker that doesn't answer a question within this is away.
REQUEST_TIMEOUT_MS = 8000
#: Kafka removes whole segments: with so many of them retention is kept to about an eighth, in time and in bytes.
SEGMENTS = 8
LEAST_SEGMENT_BYTES, MOST_SEGMENT_BYTES = 2**20, 2**30
#: Error numbers of Kafka's protocol.
UNKNOWN_TOPIC, NO_LEADER_YET, NOT_ALLOWED, EXISTS = 3, 5, 29, 36
#: Which of our settings a topic's setting comes from.
SETTINGS = {
    "retention.ms": "stream.retention_s",
    "retention.bytes": "stream.retention_bytes",
    "min.insync.replicas": "stream.kafka.min_insync",
    "max.message.bytes": "stream.kafka.max_message_bytes",
}
#: How brokers may compress a topic anew: what the loop can read.
READABLE = ("producer", "uncompressed", "gzip", "lz4")
#: What Kafka wants for what we do to a topic.
RIGHTS = {"looked at": "Describe", "made": "Create", "deleted": "Delete"}
State = Literal["ok", "missing", "differs"]


@dataclasses.dataclass(frozen=True)
class Wanted:
    """A topic as the configuration asks for it. `compared` holds the topic's own settings that have to be so; `others` those that are only made so."""

    model: str
    kind: str
    name: str
    partitions: int
    replication: int
    compared: dict[str, str]
    others: dict[str, str]


@dataclasses.dataclass(frozen=True)
class Difference:
    """What of a topic isn't as configured: `what` is Kafka's name of it, `setting` ours; empty where only Kafka can change it."""

    what: str
    wanted: str
    found: str
    setting: str = ""

    def __str__(self) -> str:
        return f"{self.what} {self.found}, not {self.wanted}" + (f" ({self.setting})" if self.setting else "")


@dataclasses.dataclass(frozen=True)
class Topic:
    """A topic that was looked at. `unread` says that the brokers don't let us read its settings: only its partitions were compared."""

    wanted: Wanted
    state: State
    differences: tuple[Difference, ...] = ()
    unread: bool = False


def wanted_topics(settings: StreamSection, models: Sequence[str]) -> list[Wanted]:
    """Return every topic of these models."""
    kafka_settings = settings.kafka
    largest = kafka_settings.max_message_bytes + OVERHEAD_BYTES
    retention_ms = int(settings.retention_s * 1000)
    compared = {
        "cleanup.policy": "delete",
        "message.timestamp.type": "LogAppendTime",  # a message's time is when the stream took it
        "retention.ms": str(retention_ms),
        "retention.bytes": str(settings.retention_bytes),
        "min.insync.replicas": str(kafka_settings.min_insync),
        "max.message.bytes": str(largest),
        "compression.type": "producer",
    }
    segment = min(MOST_SEGMENT_BYTES, max(settings.retention_bytes // SEGMENTS, largest, LEAST_SEGMENT_BYTES))
    others = {"segment.bytes": str(segment), "segment.ms": str(max(1, retention_ms // SEGMENTS))}
    return [
        Wanted(
            model,
            kind,
            topic(model, kind, settings.prefix),
            settings.partitions if kind in (PAIRS, LABELS) else 1,
            kafka_settings.replication,
            compared,
            others,
        )
        for model in models
        for kind in KINDS
    ]


class Brokers:
    """A connection to the brokers for questions about topics. Use as a context manager; it connects when it is made.

    Raises:
        UnavailableError: no broker answers, or they refuse us; so does every method.
    """

    def __init__(self, settings: KafkaSection) -> None:
        self._settings = settings
        known = kafka.KafkaAdminClient.DEFAULT_CONFIG
        with Attempt(settings, known["kafka_client"]) as attempt:
            try:
                self._client = kafka.KafkaAdminClient(
                    **{name: value for name, value in options(settings).items() if name in known},
                    kafka_client=attempt,
                    client_id="everstill-stream",
                    request_timeout_ms=REQUEST_TIMEOUT_MS,
                )
            except (kafka.errors.KafkaError, OSError):
                raise attempt.failed() from None

    def __enter__(self) -> "Brokers":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()

    def describe(self) -> dict[str, Any]:
        """Return the cluster's identity and its brokers' addresses."""
        try:
            found = self._client.describe_cluster()
        except kafka.errors.KafkaError as error:
            raise unreachable(self._settings, error) from None
        addresses = {one["broker_id"]: f"{one['host']}:{one['port']}" for one in found["brokers"]}
        return {"cluster": found["cluster_id"], "brokers": [addresses[number] for number in sorted(addresses)]}

    def names(self, prefix: str) -> list[str]:
        """Return the names of the topics under a prefix, in their order."""
        try:
            return sorted(name for name in self._client.list_topics() if name.startswith(f"{prefix}."))
        except kafka.errors.KafkaError as error:
            raise unreachable(self._settings, error) from None

    def look(self, wanted: Sequence[Wanted]) -> list[Topic]:
        """Compare topics with what is wanted."""
        names = [one.name for one in wanted]
        try:
            told = {one["name"]: one for one in self._client.describe_topics(names)}
            there = [name for name in names if self._is_there(name, told.get(name))]
            resources = [ConfigResource(ConfigResourceType.TOPIC, name) for name in there]
            configs = self._client.describe_configs(resources, config_filter="all") if there else {}
        except kafka.errors.KafkaError as error:
            raise unreachable(self._settings, error) from None
        found = []
        for one in wanted:
            if one.name not in there:
                found.append(Topic(one, "missing"))
                continue
            values = {key: entry["value"] for key, entry in configs.get("topic", {}).get(one.name, {}).items()}
            different = tuple(_differences(one, told[one.name]["partitions"], values))
            found.append(Topic(one, "differs" if different else "ok", different, unread=not values))
        return found

    def create(self, wanted: Sequence[Wanted]) -> None:
        """Make topics, and wait until each has its leaders; one that is there already is left as it is.

        Raises:
            ConfigurationError: the brokers won't make one like this.
        """
        asked = {
            one.name: {
                "num_partitions": one.partitions,
                "replication_factor": one.replication,
                "configs": {**one.compared, **one.others},
            }
            for one in wanted
        }
        try:
            answer = self._client.create_topics(asked, timeout_ms=REQUEST_TIMEOUT_MS, raise_errors=False)
            for one in answer["topics"]:
                if one["error_code"] not in (0, EXISTS):
                    raise self._refused(one["name"], "made", one["error_code"], one.get("error_message"))
            self._client.wait_for_topics(list(asked))
        except kafka.errors.KafkaError as error:
            raise unreachable(self._settings, error) from None

    def delete(self, names: Sequence[str]) -> None:
        """Delete topics with all that is in them; one that isn't there is passed over."""
        try:
            answer = self._client.delete_topics(list(names), timeout_ms=REQUEST_TIMEOUT_MS, raise_errors=False)
        except kafka.errors.KafkaError as error:
            raise unreachable(self._settings, error) from None
        for one in answer["topics"]:
            if one["error_code"] not in (0, UNKNOWN_TOPIC):
                raise self._refused(one["name"], "deleted", one["error_code"], one.get("error_message"))

    def _is_there(self, name: str, told: dict[str, Any] | None) -> bool:
        code = told["error_code"] if told else UNKNOWN_TOPIC
        if code not in (0, UNKNOWN_TOPIC, NO_LEADER_YET):
            raise self._refused(name, "looked at", code, None)
        return code != UNKNOWN_TOPIC

    def _refused(self, name: str, what: str, code: int, why: str | None) -> UnavailableError | ConfigurationError:
        kind = kafka.errors.for_code(code)
        if code == NOT_ALLOWED or kind is kafka.errors.ClusterAuthorizationFailedError:
            return UnavailableError(
                f"Kafka at {self._settings.bootstrap} doesn't let us: topic {name} can't be {what}, which needs the right {RIGHTS[what]}",
                fix="Its operator has to grant that, or make the topics",
            )
        return ConfigurationError(
            f"topic {name} can't be {what}: {(why or kind.__name__).rstrip('.')}",
            fix="Check stream.partitions and stream.kafka.replication",
        )


def complaint(topics: Sequence[Topic]) -> str:
    """Return what is wrong with topics as one sentence, empty where nothing is."""
    missing = [one.wanted.name for one in topics if one.state == "missing"]
    said = [f"Kafka has no topic {', '.join(missing)}"] if missing else []
    if different := [one for one in topics if one.differences]:
        first, *rest = different
        said.append(f"topic {first.wanted.name} differs: {', '.join(map(str, first.differences))}")
        said += [f"so do {', '.join(one.wanted.name for one in rest)}"] if rest else []
    return "; ".join(said)


def remedy(topics: Sequence[Topic]) -> str:
    """Return what can be done about topics that differ, and by whom: we have a setting for some things, others are fixed."""
    ours: dict[str, None] = {}
    fixed: dict[str, None] = {}
    for topic_ in topics:
        for one in topic_.differences:
            if one.setting:
                ours[one.setting] = None
            else:
                fixed[f"partitions of {topic_.wanted.name}" if one.what == "partitions" else one.what] = None
    said = []
    if ours:
        said.append(f"set {', '.join(ours)} to what the topics have, or let their owner change them")
    if fixed:
        said.append(f"only the topics' owner can change {', '.join(fixed)}")
    return f"Everstill changes no topic: {'; '.join(said)}"


def _differences(wanted: Wanted, partitions: list[dict[str, Any]], values: dict[str, str]) -> Iterator[Difference]:
    many = wanted.kind in (PAIRS, LABELS)
    if len(partitions) != wanted.partitions:
        yield Difference(
            "partitions", str(wanted.partitions), str(len(partitions)), "stream.partitions" if many else ""
        )
    replicas = min((len(one["replica_nodes"]) for one in partitions), default=wanted.replication)
    if replicas != wanted.replication:
        yield Difference("replicas", str(wanted.replication), str(replicas), "stream.kafka.replication")
    for key, value in wanted.compared.items():
        found = values.get(key, value)
        larger = key == "max.message.bytes" and int(found) > int(value)
        if found != value and not larger and not (key == "compression.type" and found in READABLE):
            yield Difference(key, value, found, SETTINGS.get(key, ""))
