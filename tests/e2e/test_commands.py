"""Commands that run for long, as a user starts them: they serve, stop when asked, and say in one line why they can't."""

import json
import pathlib
import re
import signal
import socket
import subprocess

import numpy as np
import pytest

from serving.rpc.client import InferenceClient
from tests.support.everstill_command import COMMAND, Running, run, running
from tests.support.waiting import wait_for

CONFIG = """
[gateway]
port = {port}
metrics_port = 0
[teacher_server]
port = {port}
[loop]
metrics_port = {port}
"""


def configure(folder: pathlib.Path, port: int = 0) -> None:
    (folder / "everstill.toml").write_text(CONFIG.format(port=port))


def said_to_people(text: str) -> list[str]:
    """Return the lines of standard error that are no log."""
    return [line for line in text.splitlines() if not line.startswith("{")]


def test_a_teacher_answers_and_stops_when_asked(tmp_path: pathlib.Path) -> None:
    configure(tmp_path)
    with running(tmp_path, "teacher") as teacher:
        address = address_of(teacher)
        client = InferenceClient(address, timeout_s=20)
        answer = client.infer("teacher", {"bytes": np.full((1, 2048), 256, np.int32)})
        client.close()

        teacher.process.send_signal(signal.SIGTERM)

        assert teacher.process.wait(30) == 0
    assert answer.outputs["target_label"].shape == (1, 214)
    assert "Traceback" not in teacher.errors.read_text()


@pytest.mark.parametrize("command", ["teacher", "gateway", "loop"])
def test_ctrl_c_ends_a_command_quietly(command: str, tmp_path: pathlib.Path) -> None:
    configure(tmp_path)
    with running(tmp_path, command) as process:
        wait_for(lambda: started(process, command, tmp_path), deadline_s=60, what=f"{command} to start")

        process.process.send_signal(signal.SIGINT)

        assert process.process.wait(30) == 0
    assert "Traceback" not in process.errors.read_text()


@pytest.mark.parametrize("command", ["teacher", "gateway", "loop"])
def test_a_taken_port_is_one_clear_line(command: str, tmp_path: pathlib.Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        configure(tmp_path, port)

        ended = run(tmp_path, command)

    assert ended.returncode == 4
    (line,) = said_to_people(ended.stderr)
    assert re.search(rf"\b{port}\b.* taken", line)


@pytest.mark.parametrize("command", ["gateway", "loop"])
def test_a_folder_that_cannot_be_made_is_one_clear_line(command: str, tmp_path: pathlib.Path) -> None:
    configure(tmp_path)
    (tmp_path / "everstill-data").write_text("a file is in the way")

    ended = run(tmp_path, command)

    assert ended.returncode == 4
    (line,) = said_to_people(ended.stderr)
    assert "everstill-data" in line


def test_a_full_disk_ends_the_demo_with_one_clear_line(tmp_path: pathlib.Path) -> None:
    # A limit on the size of files stands in for the disk: the demo's first file is already too large.
    ended = run(tmp_path, "demo", "--requests", "200", largest_file_bytes=512)

    assert ended.returncode == 4
    last = ended.stderr.splitlines()[-1]
    assert last.startswith("everstill: the demo can't write to ")
    assert "Traceback" not in ended.stderr


def test_a_reader_that_has_seen_enough_is_no_error(tmp_path: pathlib.Path) -> None:
    with subprocess.Popen(
        [*COMMAND, "config", "--schema"], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()

        said = process.stderr.read().decode()

    assert "Traceback" not in said


def address_of(process: Running) -> str:
    """Wait for a teacher's line that it has started, and return its address."""
    wait_for(lambda: '"address"' in process.output.read_text(), deadline_s=60, what="the teacher to start")
    return str(json.loads(process.output.read_text().splitlines()[0])["address"])


def started(process: Running, command: str, folder: pathlib.Path) -> bool:
    assert process.process.poll() is None, process.errors.read_text()[-2000:]
    if command == "teacher":
        return '"address"' in process.output.read_text()
    name = {"gateway": "gateway-1", "loop": "loop"}[command]
    path = folder / f"everstill-data/registry/models/filetypes/status/{name}.json"
    return path.exists() and (command == "loop" or bool(json.loads(path.read_text()).get("address")))
