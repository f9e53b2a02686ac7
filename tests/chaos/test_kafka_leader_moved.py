"""Three brokers, and the one that leads a partition is killed: what was safe is on the others, once each, in order."""

import contextlib
import pathlib
import time

import kafka as kafka_python
import pytest

from protos.topics import PAIRS, topic
from serving.shadow.message import Message as Outgoing
from serving.shadow.message import StreamUnavailable
from tests.support import kafka
from tests.support.either_stream import MODEL, EitherStream, create_topics, on_kafka, read


def leader_of(bootstrap: str, name: str) -> int:
    with contextlib.closing(kafka_python.KafkaAdminClient(bootstrap_servers=bootstrap.split(","))) as admin:
        ((partition, *_),) = [one["partitions"] for one in admin.describe_topics([name])]
        return int(partition["leader_id"])


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_moved_leader_costs_seconds_and_no_message(tmp_path: pathlib.Path) -> None:
    with kafka.brokers(tmp_path / "kafka", 3) as cluster, contextlib.ExitStack() as stack:
        settings = on_kafka(cluster.bootstrap, replication=3, min_insync=2)
        create_topics(settings)
        stream = EitherStream(settings, stack)
        publisher, consumer = stream.publisher(), stream.consumer()
        kept: list[Outgoing] = []
        waits = []
        killed = leader_of(cluster.bootstrap, topic(MODEL, PAIRS, settings.prefix))

        for number in range(200):
            if number == 50:
                cluster.kill(killed)
            kept.append(Outgoing(PAIRS, 0, b"%d" % number))
            began = time.monotonic()
            try:
                publisher.publish(kept)
                kept = []
            except StreamUnavailable as error:
                kept = error.rest
                time.sleep(0.1)  # the pace of a mirror that spools
            waits.append(time.monotonic() - began)
        end = time.monotonic() + 60.0
        while kept and time.monotonic() < end:
            with contextlib.suppress(StreamUnavailable):
                publisher.publish(kept)
                kept = []
            time.sleep(0.1)

        messages = read(consumer, 200, deadline_s=60.0)
        while consumer.lag():
            messages += read(consumer, 1)
        assert list(dict.fromkeys(int(one.value) for one in messages)) == list(range(200))
        assert max(waits) < settings.kafka.acknowledge_timeout_s + 1.0
        print(f"longest publish {max(waits):.1f} s, {len(messages) - 200} came twice")
