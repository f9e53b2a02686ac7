"""Three brokers, and the one that leads a partition is killed: the mirror goes on writing, and what the loop learned it learned once."""

import contextlib
import pathlib

import kafka as kafka_python
import numpy as np
import pytest

from distill_loop.stream.streams import open_consumer
from distill_loop.telling import accounts_of
from protos import records_pb2 as records
from protos.errors import UnavailableError
from protos.records import ARM_UNIFORM, input_key, mint_record_id
from protos.tensors import to_record
from protos.topics import LABELS, PAIRS, REPORTS, TRIALS, topic
from registry.sections import StreamSection
from serving.shadow.publishers import open_publisher
from tests.support import kafka
from tests.support.either_stream import MODEL, create_topics, on_kafka
from tests.support.intakes import IntakeUnderTest
from tests.support.publishing import NUM_CLASSES, window_of
from tests.support.shadow import FakeTeacher, Shadow, open_rows
from tests.support.waiting import wait_for

NUM_ROWS, KILLED_AT = 120, 40
#: A broker's death is believed sooner than by default (9 s), so that the test is short.
SOON = "broker.session.timeout.ms=1500\nbroker.heartbeat.interval.ms=300"
OPTIONS = {"replication": 3, "min_insync": 2, "acknowledge_timeout_s": 2.0}


def leader_of(bootstrap: str, name: str) -> int:
    with contextlib.closing(kafka_python.KafkaAdminClient(bootstrap_servers=bootstrap.split(","))) as admin:
        ((partition, *_),) = [one["partitions"] for one in admin.describe_topics([name])]
        return int(partition["leader_id"])


def sample_of(number: int) -> records.Sample:
    """Return what a worker hands over of a row of the model."""
    tensor = to_record("bytes", window_of(number % NUM_CLASSES, number))
    sample = records.Sample(
        record_id=mint_record_id(), input_key=input_key([tensor]), stratum="served", inputs=[tensor]
    )
    sample.arms.add(arm=ARM_UNIFORM, probability=0.5)
    sample.student.version = "incumbent"
    sample.student.logits.CopyFrom(to_record("logits", np.eye(1, NUM_CLASSES, dtype=np.float32)))
    return sample


class Ends:
    """The mirror and the loop's intake, both in this process, with brokers between them."""

    def __init__(self, folder: pathlib.Path, settings: StreamSection, stack: contextlib.ExitStack) -> None:
        self.shadow = Shadow(folder, report_interval_s=0.2)
        self.shadow.teacher = FakeTeacher(NUM_CLASSES)
        publisher = stack.enter_context(contextlib.closing(open_publisher(settings, MODEL)))
        self.shadow.restart(publisher=publisher)
        kinds = {TRIALS: 1, PAIRS: settings.partitions, LABELS: settings.partitions, REPORTS: 1}
        self.loop = IntakeUnderTest(folder / "stream.sqlite", open_consumer(settings, MODEL, kinds))
        stack.callback(self.loop.close)

    def step(self) -> None:
        """Let both go round once; what is away is tried again the next time."""
        self.shadow.mirror.step()
        with contextlib.suppress(UnavailableError):
            self.loop.read()

    def at_rest(self) -> bool:
        """Go round, and return whether nothing is on its way any more, and the loop has read of all that was accepted."""
        self.step()
        waiting = (self.shadow.ring.pending_bytes, *self.shadow.placing.waiting_bytes.values())
        told = accounts_of(self.loop.progress, self.loop.reports)
        return not any(waiting) and told["accepted"] == self.shadow.accounts.records[PAIRS] and told["open"] == 0


@pytest.mark.timeout(120)
def test_a_moved_leader_costs_seconds_and_nothing_is_lost_or_learned_twice(tmp_path: pathlib.Path) -> None:
    with kafka.brokers(tmp_path / "kafka", 3, SOON) as cluster, contextlib.ExitStack() as stack:
        settings = on_kafka(cluster.bootstrap, **OPTIONS)
        create_topics(settings)
        ends = Ends(tmp_path, settings, stack)
        name = topic(MODEL, PAIRS, settings.prefix)
        killed = leader_of(cluster.bootstrap, name)

        ids = set()
        for number in range(NUM_ROWS):
            if number == KILLED_AT:
                cluster.kill(killed)
            ids |= set(ends.shadow.hand_over([sample_of(number)]))
            ends.step()
        wait_for(ends.at_rest, deadline_s=60.0, what="everything to be read, with one broker dead")

        assert leader_of(cluster.bootstrap, name) != killed
        report, progress = ends.shadow.mirror_report(), ends.loop.progress
        assert not open_rows(report)
        assert [(one.sampled, one.published) for one in report.strata if one.sampled] == [(NUM_ROWS, NUM_ROWS)]
        assert {pair.record_id for pair in ends.loop.learner.pairs} == ids
        assert (len(ends.loop.learner.pairs), progress.learned) == (NUM_ROWS, NUM_ROWS)
        assert progress.taken == progress.read == progress.learned + progress.repeats
