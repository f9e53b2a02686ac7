"""A broker that wants a name and password, TLS, or both: what gets in, and what is said to whom it refuses."""

import contextlib
import dataclasses
import gc
import pathlib
from collections.abc import Iterator
from typing import Any

import kafka as kafka_python
import pytest
from kafka.admin import ScramMechanism, UserScramCredentialUpsertion

from distill_loop.stream.kafka_client import connect
from protos.errors import ConfigurationError
from protos.topics import PAIRS
from registry import kafka_options
from registry.kafka_options import Unreachable
from registry.sections import KafkaSection
from serving.shadow.message import Message as Outgoing
from serving.shadow.message import StreamUnavailable
from serving.shadow.publishers import check_stream
from tests.support import kafka, processes
from tests.support.certificates import Authority
from tests.support.either_stream import EitherStream, create_topics, on_kafka, read

#: kafka-python leaves the socket of a failed handshake to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed <ssl.SSLSocket:ResourceWarning")
USER, PASSWORD = "everstill", "a password"
LOGIN = f'username="{USER}" password="{PASSWORD}" user_{USER}="{PASSWORD}"'
PLAIN = f"org.apache.kafka.common.security.plain.PlainLoginModule required {LOGIN};"
SCRAM = "org.apache.kafka.common.security.scram.ScramLoginModule required;"


@dataclasses.dataclass
class Guarded:
    """A broker with a listener for each way in."""

    cluster: kafka.Cluster
    ours: Authority
    certificate: pathlib.Path
    key: pathlib.Path

    def section(self, listener: str, **changes: Any) -> dict[str, Any]:
        """Return settings that are let in by one of the listeners."""
        place = ("plaintext", "", "sasl_plaintext", "sasl_tls", "tls").index(listener)
        section: dict[str, Any] = {"bootstrap": f"127.0.0.1:{self.cluster.port + place}", "security": listener}
        if listener.startswith("sasl"):
            section |= {"username": USER, "password": PASSWORD, "sasl_mechanism": "PLAIN"}
        if listener.endswith("tls"):
            section |= {"ca": self.ours.certificate}
        if listener == "tls":
            section |= {"certificate": self.certificate, "certificate_key": self.key}
        return section | changes


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    kafka.need_kafka()
    folder, port = tmp_path_factory.mktemp("guarded"), kafka.free_base_port(5)
    ours = Authority(folder, "ours")
    certificate, key = ours.sign("broker")
    store = folder / "broker-store.pem"
    store.write_bytes(key.read_bytes() + certificate.read_bytes())
    listeners = [
        f"{name}://127.0.0.1:{port + place}"
        for place, name in enumerate(("PLAINTEXT", "CONTROLLER", "SASL_PLAINTEXT", "SASL_SSL", "SSL"))
    ]
    lines = [
        f"listeners={','.join(listeners)}",
        f"advertised.listeners={','.join(listeners[:1] + listeners[2:])}",
        "listener.security.protocol.map=CONTROLLER:PLAINTEXT,"
        + ",".join(f"{name}:{name}" for name in ("PLAINTEXT", "SASL_PLAINTEXT", "SASL_SSL", "SSL")),
        "sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512",
        f"ssl.keystore.type=PEM\nssl.keystore.location={store}",
        f"ssl.truststore.type=PEM\nssl.truststore.location={ours.certificate}",
        "listener.name.ssl.ssl.client.auth=required",
    ]
    for listener in ("sasl_plaintext", "sasl_ssl"):
        lines.append(f"listener.name.{listener}.plain.sasl.jaas.config={PLAIN}")
        lines += [f"listener.name.{listener}.scram-sha-{bits}.sasl.jaas.config={SCRAM}" for bits in (256, 512)]
    cluster = kafka.Cluster(folder / "kafka", 1, port, "\n".join(lines) + "\n")
    cluster.folder.mkdir()
    cluster.start()
    try:
        with contextlib.closing(kafka_python.KafkaAdminClient(bootstrap_servers=cluster.bootstrap)) as admin:
            for mechanism in (ScramMechanism.SCRAM_SHA_256, ScramMechanism.SCRAM_SHA_512):
                credential = UserScramCredentialUpsertion(USER, mechanism, PASSWORD)
                assert admin.alter_user_scram_credentials([credential]) == {USER: None}
        with processes.shared(cluster.pid()):
            yield Guarded(cluster, ours, *ours.sign("gateway"))
    finally:
        cluster.stop()
        gc.collect()  # while the warnings about sockets are ours


def streams(guarded: Guarded, stack: contextlib.ExitStack, section: dict[str, Any]) -> EitherStream:
    """Return a stream of fresh topics, made by the listener that lets everybody in."""
    settings = on_kafka(guarded.cluster.bootstrap, acknowledge_timeout_s=5.0)
    create_topics(settings)
    whole = KafkaSection.model_validate({**section, "topic_prefix": settings.prefix, "acknowledge_timeout_s": 5.0})
    return EitherStream(settings.model_copy(update={"kafka": whole}), stack)


@pytest.mark.parametrize(
    ("security", "mechanism"),
    [
        ("tls", "PLAIN"),
        ("sasl_plaintext", "PLAIN"),
        ("sasl_plaintext", "SCRAM-SHA-256"),
        ("sasl_tls", "PLAIN"),
        ("sasl_tls", "SCRAM-SHA-256"),
        ("sasl_tls", "SCRAM-SHA-512"),
    ],
)
def test_a_guarded_broker_lets_us_write_and_read(guarded: Guarded, security: str, mechanism: str) -> None:
    with contextlib.ExitStack() as stack:
        stream = streams(guarded, stack, guarded.section(security, sasl_mechanism=mechanism))
        stream.publish(b"secret")

        assert [one.value for one in read(stream.consumer(), 1)] == [b"secret"]


@pytest.mark.parametrize(
    ("security", "changes", "words"),
    [
        ("sasl_tls", {"ca": "theirs"}, "certificate verify failed"),
        ("plaintext", {"security": "tls"}, "ends our connection"),
        ("tls", {"certificate": None, "certificate_key": None}, "ends our connection"),
    ],
)
def test_who_is_refused_is_told_why(
    guarded: Guarded,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    security: str,
    changes: dict[str, Any],
    words: str,
) -> None:
    monkeypatch.setattr(kafka_options, "CONNECT_TIMEOUT_S", 2.0)
    section = guarded.section(security, **changes)
    if changes.get("ca") == "theirs":
        section["ca"] = Authority(tmp_path, "theirs").certificate

    with pytest.raises(Unreachable, match=words) as caught:
        connect(KafkaSection.model_validate(section), "tests")
    assert "Errno" not in str(caught.value)


def test_a_mirror_with_a_wrong_password_says_so_and_keeps_its_messages(guarded: Guarded) -> None:
    with contextlib.ExitStack() as stack:
        stream = streams(guarded, stack, guarded.section("sasl_tls", password="another"))

        with pytest.raises(StreamUnavailable, match=r"Invalid username or password|ends our connection") as caught:
            stream.publisher().publish([Outgoing(PAIRS, 0, b"x")])
    assert caught.value.rest == [Outgoing(PAIRS, 0, b"x")]


def test_a_certificate_that_is_no_pem_file_is_said_before_anything_starts(tmp_path: pathlib.Path) -> None:
    rubbish = tmp_path / "ca.pem"
    rubbish.write_text("no certificate")
    for ca, words in ((rubbish, "ca.pem can't be used"), (tmp_path / "missing.pem", "No such file")):
        settings = on_kafka("127.0.0.1:9", security="tls", ca=ca)

        with pytest.raises(ConfigurationError, match=words):
            check_stream(settings)
