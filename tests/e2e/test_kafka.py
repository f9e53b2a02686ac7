"""`everstill up` and `everstill demo` through a real Kafka, as a user types them; and what they say where there is none."""

import json
import pathlib
import signal
import uuid

import pytest

from distill_loop.stream.topics import Brokers
from registry.sections import KafkaSection
from tests.support.everstill_command import run, running
from tests.support.in_process import everstill
from tests.support.services import free_ports_by_environment, make_tiny_service
from tests.support.waiting import wait_for

NOBODY = "127.0.0.1:1"


def topics_of(bootstrap: str, prefix: str) -> list[str]:
    with Brokers(KafkaSection(bootstrap=bootstrap)) as brokers:
        return brokers.names(prefix)


@pytest.mark.timeout(150)
def test_a_service_comes_up_through_kafka_and_learns(
    tmp_path: pathlib.Path, kafka_bootstrap: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, prefix = make_tiny_service(tmp_path), f"up-{uuid.uuid4().hex}"
    free_ports_by_environment(monkeypatch)
    with (folder / "everstill.toml").open("a") as file:
        file.write(f'\n[stream.kafka]\nbootstrap = "{kafka_bootstrap}"\ntopic_prefix = "{prefix}"\n')

    with running(folder, "up", "--json") as process:
        wait_for(lambda: any(one["event"] == "ready" for one in process.events()), deadline_s=100, what="ready")
        answered = run(folder, "infer", "requests.jsonl")
        wait_for(
            lambda: any(one["event"] == "state" and one["pairs"] == 2 for one in process.events()),
            deadline_s=30,
            what="what the teacher answered to be learned",
        )
        told = everstill("status", cwd=folder)
        made = next(one for one in process.events() if one["event"] == "topics")

        process.process.send_signal(signal.SIGTERM)
        assert process.process.wait(60) == 0

    assert '"version": "teacher"' in answered.stdout
    assert sorted(made["created"]) == topics_of(kafka_bootstrap, prefix)
    assert f"stream: Kafka at {kafka_bootstrap}, topics {prefix}.tiny.*" in told.stdout
    assert not (folder / "everstill-data/stream.sqlite").exists()


@pytest.mark.slow
@pytest.mark.timeout(150)
def test_a_demo_goes_through_kafka_and_leaves_nothing_there(tmp_path: pathlib.Path, kafka_bootstrap: str) -> None:
    arguments = ("--json", "--requests", "200", "--requests-per-s", "50", "--kafka", kafka_bootstrap)

    ended = run(tmp_path, "demo", *arguments, timeout_s=140)

    assert ended.returncode == 0, ended.stderr
    report = json.loads(ended.stdout)
    assert report["failed_requests"] == 0
    assert report["pairs"]["read"] == report["teacher_calls"] > 60
    assert report["stream"] | {"topic_prefix": ""} == {
        "kind": "kafka",
        "bootstrap": kafka_bootstrap,
        "topic_prefix": "",
    }
    assert f"stream: Kafka at {kafka_bootstrap}, topics {report['stream']['topic_prefix']}.*" in ended.stderr
    assert not list(tmp_path.glob("everstill-demo/stream.sqlite*"))
    assert topics_of(kafka_bootstrap, report["stream"]["topic_prefix"]) == []


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_demo_that_is_ended_leaves_nothing_on_kafka_either(
    number: signal.Signals, tmp_path: pathlib.Path, kafka_bootstrap: str
) -> None:
    with running(tmp_path, "demo", "--requests", "200", "--kafka", kafka_bootstrap) as demo:
        wait_for(lambda: demo.said("teacher on"), deadline_s=120, what="the demo's service")
        prefix = demo.errors.read_text().partition("topics everstill-demo-")[2][:8]
        before = topics_of(kafka_bootstrap, f"everstill-demo-{prefix}")

        demo.process.send_signal(number)
        demo.process.wait(60)

    assert len(before) == 5
    wait_for(
        lambda: not topics_of(kafka_bootstrap, f"everstill-demo-{prefix}"), deadline_s=30, what="the topics to be gone"
    )


@pytest.mark.parametrize(
    "command", [("demo", "--kafka", NOBODY), pytest.param(("up", "--no-check"), marks=pytest.mark.slow)]
)
def test_a_kafka_that_is_away_is_one_clear_line_before_anything_starts(
    command: tuple[str, ...], tmp_path: pathlib.Path
) -> None:
    (tmp_path / "everstill.toml").write_text(f'[stream.kafka]\nbootstrap = "{NOBODY}"\n')

    ended = run(tmp_path, *command)

    assert ended.returncode == 4
    assert ended.stderr.startswith(f"everstill: Kafka at {NOBODY} doesn't answer")
    assert ended.stderr.count("\n") == 1
    assert not list(tmp_path.glob("**/*.out"))
