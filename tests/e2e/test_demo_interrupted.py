"""Ctrl-C at any moment of the demo, a closed terminal, a kill: no process, port or lock is left, and the folder can be used again.

That no process is left is what the fixture of tests/conftest.py checks after this module; here each test checks at once.
"""

import json
import pathlib
import signal
import socket

import pytest

from tests.support import processes
from tests.support.everstill_command import Running, run, running
from tests.support.waiting import wait_for

SHORT = ("demo", "--requests", "200", "--requests-per-s", "50")
MOMENTS = [
    "gathering real files",
    "different inputs",
    pytest.param("teacher on", marks=pytest.mark.slow),
    pytest.param("requests:", marks=pytest.mark.slow),
    pytest.param("scoring:", marks=pytest.mark.slow),
]
pytestmark = pytest.mark.timeout(180)


def reach(demo: Running, words: str) -> None:
    wait_for(lambda: demo.said(words), deadline_s=120, what=words)


def addresses_of(folder: pathlib.Path) -> list[str]:
    """Return every address that a process of this demo has told."""
    found = []
    for path in folder.glob("everstill-demo/registry/models/*/status/*.json"):
        body = json.loads(path.read_text())
        found += [body[name] for name in ("address", "metrics_address") if body.get(name)]
    for path in folder.glob("everstill-demo/logs/*.out"):
        found += [json.loads(line)["address"] for line in path.read_text().splitlines() if '"address"' in line]
    return found


def nothing_is_left(folder: pathlib.Path) -> None:
    assert processes.left_behind() == {}
    for address in addresses_of(folder):
        host, port = address.rsplit(":", 1)
        with socket.create_server((host, int(port))):
            pass
    assert not (folder / "everstill-demo/.demo.lock").exists()


@pytest.mark.parametrize("moment", MOMENTS)
def test_ctrl_c_stops_everything(tmp_path: pathlib.Path, moment: str) -> None:
    with running(tmp_path, *SHORT) as demo:
        reach(demo, moment)

        demo.process.send_signal(signal.SIGINT)

        assert demo.process.wait(60) == 130
    nothing_is_left(tmp_path)
    said = demo.errors.read_text()
    assert "interrupted: every process was stopped" in said
    assert "Traceback" not in said


@pytest.mark.slow
def test_an_impatient_user_leaves_nothing_either(tmp_path: pathlib.Path) -> None:
    with running(tmp_path, *SHORT) as demo:
        reach(demo, "teacher on")

        def interrupted_again_and_over() -> bool:
            demo.process.send_signal(signal.SIGINT)
            return demo.process.poll() is not None

        wait_for(interrupted_again_and_over, deadline_s=60, what="the demo to end")

        assert demo.process.wait(1) in (130, -signal.SIGINT)
    assert processes.left_behind() == {}


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_termination_is_as_good_as_ctrl_c(tmp_path: pathlib.Path, number: signal.Signals) -> None:
    with running(tmp_path, *SHORT) as demo:
        reach(demo, "teacher on")

        demo.process.send_signal(number)

        assert demo.process.wait(60) == 130
    nothing_is_left(tmp_path)


def test_processes_of_a_killed_demo_end_and_its_folder_can_be_used_again(tmp_path: pathlib.Path) -> None:
    with running(tmp_path, *SHORT) as demo:
        reach(demo, "teacher on")
        demo.process.kill()
        demo.process.wait()
    wait_for(lambda: not processes.left_behind(), deadline_s=60, what="its processes to end")

    with running(tmp_path, *SHORT) as again:
        reach(again, "different inputs")


def test_two_demos_do_not_share_a_folder(tmp_path: pathlib.Path) -> None:
    with running(tmp_path, *SHORT) as demo:
        reach(demo, "gathering")

        second = run(tmp_path, *SHORT)

        assert second.returncode == 5
        assert second.stderr.startswith("everstill: another demo is running in ")
        assert demo.process.poll() is None


def test_a_folder_with_someone_s_files_is_left_alone(tmp_path: pathlib.Path) -> None:
    (tmp_path / "everstill-demo").mkdir()
    (tmp_path / "everstill-demo/thesis.tex").write_text("mine")

    ended = run(tmp_path, *SHORT)

    assert ended.returncode == 5
    assert "thesis.tex" in ended.stderr
    assert ended.stderr.count("\n") == 1
    assert (tmp_path / "everstill-demo/thesis.tex").read_text() == "mine"


def test_a_folder_that_cannot_be_made_is_one_clear_line(tmp_path: pathlib.Path) -> None:
    (tmp_path / "file").write_text("")

    ended = run(tmp_path, *SHORT, "--folder", "file/demo")

    assert (ended.returncode, ended.stdout) == (4, "")
    assert ended.stderr.count("\n") == 1
    assert "file/demo" in ended.stderr
