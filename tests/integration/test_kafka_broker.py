"""The broker of the tests is real, and what it is given comes back."""

import pytest
from kafka import KafkaConsumer, KafkaProducer, TopicPartition

from tests.support import kafka


def test_a_message_goes_in_and_comes_out(kafka_bootstrap: str) -> None:
    producer = KafkaProducer(bootstrap_servers=kafka_bootstrap)
    sent = producer.send("everstill.broker.pairs", b"value").get(timeout=20)
    consumer = KafkaConsumer(bootstrap_servers=kafka_bootstrap, consumer_timeout_ms=20_000)
    place = TopicPartition(sent.topic, sent.partition)
    consumer.assign([place])
    consumer.seek(place, sent.offset)

    assert next(consumer).value == b"value"
    consumer.close()
    producer.close()


def test_without_java_a_laptop_is_told_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="install Java 17 and Maven"):
        kafka.need_kafka()
