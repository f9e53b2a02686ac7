"""What a user of Kafka needs the right to, on a broker that asks for names and rights: what is missing is told, and what README names is enough."""

import contextlib
import pathlib
from collections.abc import Iterator

import pytest
from kafka import KafkaAdminClient
from kafka.admin import (
    ACL,
    ACLOperation,
    ACLPermissionType,
    ACLResourcePatternType,
    ResourcePattern,
    ResourceType,
)

from distill_loop.stream import app
from distill_loop.stream.consumer import Consumer
from distill_loop.stream.consumer import Message as Read
from distill_loop.stream.streams import open_consumer
from distill_loop.stream.topics import Brokers, wanted_topics
from protos.errors import UnavailableError
from protos.topics import PAIRS
from registry.sections import KafkaSection, StreamSection
from serving.shadow.message import Message, Publisher, StreamUnavailable
from serving.shadow.publishers import open_publisher
from tests.support.kafka import Cluster, free_base_port, need_kafka
from tests.support.waiting import wait_for

PREFIX, MODEL = "rights", "filetypes"
#: What README says that a loop needs, and a gateway with it.
ENOUGH = ("DESCRIBE", "READ", "WRITE")
MAKING = ("CREATE", "DESCRIBE_CONFIGS")
SETTINGS = """listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller},SASL_PLAINTEXT://127.0.0.1:{guarded}
advertised.listeners=PLAINTEXT://127.0.0.1:{port},SASL_PLAINTEXT://127.0.0.1:{guarded}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,SASL_PLAINTEXT:SASL_PLAINTEXT
sasl.enabled.mechanisms=PLAIN
listener.name.sasl_plaintext.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required user_ann="secret";
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
super.users=User:ANONYMOUS
"""
pytestmark = pytest.mark.slow


@pytest.fixture
def cluster(tmp_path: pathlib.Path) -> Iterator[Cluster]:
    """A broker whose first port lets everything through, and whose third asks who it is."""
    need_kafka()
    port = free_base_port(3)
    extra = SETTINGS.format(port=port, controller=port + 1, guarded=port + 2)
    cluster = Cluster(tmp_path / "kafka", 1, port, extra)
    cluster.folder.mkdir()
    cluster.start()
    yield cluster
    cluster.stop()


def grant(cluster: Cluster, *rights: str) -> None:
    pattern = ResourcePattern(ResourceType.TOPIC, f"{PREFIX}.", ACLResourcePatternType.PREFIXED)
    allowed = [
        ACL(
            principal="User:ann",
            host="*",
            operation=ACLOperation[right],
            permission_type=ACLPermissionType.ALLOW,
            resource_pattern=pattern,
        )
        for right in rights
    ]
    with contextlib.closing(KafkaAdminClient(bootstrap_servers=cluster.bootstrap)) as admin:
        assert not admin.create_acls(allowed)["failed"]


@pytest.fixture
def settings(cluster: Cluster) -> StreamSection:
    """The stream as ann sees it."""
    section = {
        "bootstrap": f"127.0.0.1:{cluster.port + 2}",
        "topic_prefix": PREFIX,
        "security": "sasl_plaintext",
        "sasl_mechanism": "PLAIN",
        "username": "ann",
        "password": "secret",
    }
    return StreamSection(kafka=KafkaSection.model_validate(section))


def test_what_readme_names_is_enough_and_what_is_missing_is_told(
    cluster: Cluster, settings: StreamSection, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "everstill.toml"
    config.write_text(
        f'[stream.kafka]\nbootstrap = "{settings.kafka.bootstrap}"\ntopic_prefix = "{PREFIX}"\nsecurity = "sasl_plaintext"\n'
        'sasl_mechanism = "PLAIN"\nusername = "ann"\npassword = "secret"\n'
    )
    topics = ["topics", "--config", str(config)]

    assert app.main(topics) == 4
    assert "can't be looked at, which needs the right Describe. " in capsys.readouterr().err

    grant(cluster, *ENOUGH)
    wait_for(lambda: app.main(topics) == 2, what="the right to look")
    capsys.readouterr()
    assert app.main([*topics, "--create"]) == 4
    assert "can't be made, which needs the right Create. " in capsys.readouterr().err

    grant(cluster, *MAKING)
    wait_for(lambda: app.main([*topics, "--create"]) == 0, what="the right to make topics")

    with (
        contextlib.closing(open_publisher(settings, MODEL)) as publisher,
        contextlib.closing(open_consumer(settings, MODEL, {PAIRS: settings.partitions})) as consumer,
    ):
        publisher.publish([Message(PAIRS, 1, b"value")])
        (message,) = wait_for(lambda: consumer.poll(10), what="the message")
    assert message.value == b"value"


def test_who_has_no_right_is_told_which_and_goes_on_once_it_is_granted(
    cluster: Cluster, settings: StreamSection
) -> None:
    open_settings = StreamSection(kafka=KafkaSection(bootstrap=cluster.bootstrap, topic_prefix=PREFIX))
    with Brokers(open_settings.kafka) as brokers:
        brokers.create(wanted_topics(open_settings, [MODEL]))
    with (
        contextlib.closing(open_publisher(settings, MODEL)) as publisher,
        contextlib.closing(open_consumer(settings, MODEL, {PAIRS: settings.partitions})) as consumer,
    ):
        with pytest.raises(StreamUnavailable, match=r"doesn't let us at topic rights\.filetypes\.pairs"):
            publisher.publish([Message(PAIRS, 1, b"value")])
        with pytest.raises(UnavailableError, match=r"shows this user no topic rights\.filetypes\.pairs"):
            consumer.poll(10)

        grant(cluster, "DESCRIBE")
        wait_for(lambda: "which needs the right Read. " in reason(consumer), what="the right that is missing")
        assert consumer.lag() == 0
        grant(cluster, *ENOUGH)

        wait_for(lambda: is_taken(publisher), what="the right to write")
        (message,) = wait_for(lambda: read(consumer), what="the right to read")
    assert message.value == b"value"


def is_taken(publisher: Publisher) -> bool:
    try:
        publisher.publish([Message(PAIRS, 1, b"value")])
    except StreamUnavailable:
        return False
    return True


def reason(consumer: Consumer) -> str:
    try:
        consumer.poll(10)
    except UnavailableError as error:
        return str(error)
    return ""


def read(consumer: Consumer) -> list[Read]:
    try:
        return consumer.poll(10)
    except UnavailableError:
        return []
