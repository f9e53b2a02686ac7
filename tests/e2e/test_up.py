"""`everstill init`, `up`, `infer` and `doctor` as a user types them, with a tiny teacher: real processes, none of them left at the end."""

import json
import pathlib
import signal

import pytest

from tests.support.everstill_command import run, running
from tests.support.services import free_ports_by_environment, make_tiny_service
from tests.support.waiting import wait_for


def lives(pid: int) -> bool:
    """Return whether a process lives; one that nobody has waited for has ended."""
    stat = pathlib.Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"


@pytest.fixture
def folder(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    """What `everstill init` makes of a tiny teacher, on free ports."""
    free_ports_by_environment(monkeypatch)
    return make_tiny_service(tmp_path)


@pytest.mark.slow  # CI goes through `up` in the walk-through
def test_a_new_service_comes_up_answers_and_leaves_nothing(folder: pathlib.Path) -> None:
    with running(folder, "up", "--json") as process:
        wait_for(
            lambda: any(one["event"] == "ready" for one in process.events()),
            deadline_s=100,
            what="the service to be ready",
        )
        started = [one for one in process.events() if one["event"] == "started"]
        answered = run(folder, "infer", "requests.jsonl")
        second = run(folder, "up")

        process.process.send_signal(signal.SIGTERM)
        assert process.process.wait(60) == 0

    assert sorted(one["process"] for one in started) == ["gateway", "loop-tiny", "teacher-tiny"]
    lines = [json.loads(line) for line in answered.stdout.splitlines()]
    assert answered.returncode == 1, answered.stderr
    assert [line.get("version") for line in lines] == ["teacher", None, "teacher"]
    assert lines[0]["top"][0]["class"] == 2
    assert second.returncode == 5
    assert "runs already" in second.stderr
    wait_for(lambda: not any(lives(one["pid"]) for one in started), what="every process to have ended")
