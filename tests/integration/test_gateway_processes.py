"""The gateway's processes: how they start, stop, are orphaned, and what they say when they can't start. None imports torch."""

import os
import pathlib
import signal
import socket
import threading
from concurrent import futures

import numpy as np
import pytest

from registry.bundle import version_of
from registry.pointers import Trial
from serving.rpc.client import RpcError
from serving.shadow.rings import folder_of
from serving.supervision.capture_lock import LOCK_FILE, lock
from tests.support.environment import environment
from tests.support.gateways import MODEL, RunningGateway, children_of, client, gateway
from tests.support.students import publish_student
from tests.support.waiting import wait_for

ROW = {"bytes": np.zeros((1, 2048), np.int32)}


def serving(running: RunningGateway, winner: int = 3) -> str:
    digest = publish_student(running.store, winner=winner)
    running.point(digest)
    running.wait_for_live(version_of(digest))
    return digest


def last_words(running: RunningGateway) -> tuple[int, str]:
    """Return exit code and log of a gateway that can't run."""
    assert running.process is not None
    return running.process.wait(30), running.log.read_text()


def said(log: str) -> list[str]:
    """Return the lines that are for people."""
    return [line for line in log.splitlines() if not line.startswith("{")]


def test_a_stop_answers_what_is_inside_and_leaves_nothing(tmp_path: pathlib.Path) -> None:
    with gateway(tmp_path) as running:
        serving(running)
        address, pids, ending = running.address(), children_of(running), threading.Event()
        metrics = running.status()["metrics_address"]

        def ask_until_turned_away() -> str:
            with client(address) as connection:
                while not ending.is_set():
                    try:
                        connection.infer(MODEL, ROW)
                    except RpcError as error:
                        return error.code
            return "never"

        with futures.ThreadPoolExecutor(4) as pool:
            callers = [pool.submit(ask_until_turned_away) for _ in range(4)]
            code = running.stop()
            ending.set()

        assert code == 0
        assert {caller.result(10) for caller in callers} == {"UNAVAILABLE"}
        assert len(pids) == 2
        assert not any(pathlib.Path(f"/proc/{pid}").exists() for pid in pids)
        for place in (address, metrics):
            host, port = place.rsplit(":", 1)
            with socket.create_server((host, int(port))):
                pass
        status = running.status()
        assert (status["stopped"], status["live"]) == (True, None)
        assert [line["event"] for line in running.logged()][-3:] == [
            "worker stopped",
            "mirror stopped",
            "gateway stopped",
        ]


def test_children_of_a_killed_gateway_stop_by_themselves(tmp_path: pathlib.Path) -> None:
    with gateway(tmp_path) as running:
        serving(running)
        pids = children_of(running)
        assert running.process is not None

        running.process.kill()
        running.process.wait()

        assert len(pids) == 2
        wait_for(
            lambda: not any(pathlib.Path(f"/proc/{pid}").exists() for pid in pids),
            deadline_s=20,
            what="the orphans to stop",
        )


def test_a_gateway_starts_again_where_it_was(tmp_path: pathlib.Path) -> None:
    with gateway(tmp_path) as running:
        digest = serving(running)
    with gateway(tmp_path) as running:
        running.wait_for_live(version_of(digest))

        with client(running.address()) as connection:
            assert connection.infer(MODEL, ROW).version == version_of(digest)


def test_a_registry_that_cannot_be_read_costs_no_caller_an_answer(tmp_path: pathlib.Path) -> None:
    with gateway(tmp_path) as running:
        serving(running, winner=3)
        pointer = f"models/{MODEL}/live.json"
        before = running.store.get(pointer).data

        running.store.put(pointer, b"not a pointer")

        with client(running.address()) as connection:
            wait_for(lambda: "can't be read" in running.log.read_text(), what="the log line")
            assert connection.infer(MODEL, ROW).outputs["logits"].argmax() == 3
            running.store.put(pointer, before)
            wait_for(lambda: "can be read again" in running.log.read_text(), what="the log line")
            serving(running, winner=4)
            assert connection.infer(MODEL, ROW).outputs["logits"].argmax() == 4
    assert running.log.read_text().count("can't be read") == 1


def test_without_a_version_callers_are_told_and_with_one_they_are_answered(tmp_path: pathlib.Path) -> None:
    with gateway(tmp_path) as running, client(running.address()) as connection:
        assert not connection.ready()
        with pytest.raises(RpcError, match="no student version yet") as caught:
            connection.infer(MODEL, ROW)
        assert caught.value.code == "UNAVAILABLE"

        serving(running)

        assert connection.ready()
        assert connection.infer(MODEL, ROW).outputs["logits"].argmax() == 3


def test_the_open_trial_is_told_in_the_status_object(tmp_path: pathlib.Path) -> None:
    with gateway(tmp_path) as running:
        incumbent, candidate = serving(running, winner=3), publish_student(running.store, winner=4)

        running.open_trial(Trial(trial_id="t1", incumbent=incumbent, candidate=candidate, share=0.5, opened_unix_s=1.0))

        wait_for(lambda: running.status().get("trial") == "t1", what="the trial in the status object")
        wait_for(lambda: "trial opened" in running.log.read_text(), what="the mirror to load both students")


def test_a_stream_that_goes_away_costs_no_caller_an_answer_and_is_told_once(tmp_path: pathlib.Path) -> None:
    stream = {
        "EVERSTILL_STREAM__PATH": str(tmp_path / "file/stream.sqlite"),
        "EVERSTILL_CAPTURE__REPORT_INTERVAL_S": "0.5",
    }
    with environment(**stream), gateway(tmp_path) as running:
        wait_for(running.status, what="the children to be started")  # the mirror opens the stream half a second later
        (tmp_path / "file").rename(tmp_path / "elsewhere")
        (tmp_path / "file").write_text("a file where a folder should be")
        serving(running)
        wait_for(lambda: "the stream is away" in running.log.read_text(), what="the log line")

        with client(running.address()) as connection:
            for _ in range(50):
                connection.infer(MODEL, ROW)
        (tmp_path / "file").unlink()

        wait_for(lambda: "the stream is back" in running.log.read_text(), what="the log line")
    assert running.log.read_text().count("the stream is away") == 1


def test_no_process_of_a_gateway_imports_torch(tmp_path: pathlib.Path) -> None:
    with environment(PYTHONPROFILEIMPORTTIME="1"), gateway(tmp_path) as running:
        incumbent, candidate = serving(running, winner=3), publish_student(running.store, winner=4)
        running.open_trial(Trial(trial_id="t1", incumbent=incumbent, candidate=candidate, share=1, opened_unix_s=1.0))
        wait_for(lambda: "trial opened" in running.log.read_text(), what="the mirror to load both students")
        with client(running.address()) as connection:
            connection.infer(MODEL, ROW)
        maps = "".join(pathlib.Path(f"/proc/{pid}/maps").read_text() for pid in children_of(running))

    imported = {
        line.rpartition("|")[2].strip().partition(".")[0]
        for line in running.log.read_text().splitlines()
        if line.startswith("import time:")
    }
    assert {"grpc", "onnxruntime", "numpy"} <= imported
    assert not imported & {"torch", "onnx", "onnxscript", "distill_loop"}
    assert "libtorch" not in maps


def test_a_taken_port_is_one_line_and_an_exit_code(tmp_path: pathlib.Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with environment(EVERSTILL_GATEWAY__PORT=str(port)), gateway(tmp_path) as running:
            code, log = last_words(running)

    assert code == 4
    (line,) = said(log)
    assert f"port {port} on 127.0.0.1 is taken" in line
    assert "gateway.port" in line


def test_a_taken_metrics_port_is_one_line_and_an_exit_code(tmp_path: pathlib.Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with environment(EVERSTILL_GATEWAY__METRICS_PORT=str(port)), gateway(tmp_path) as running:
            code, log = last_words(running)

    assert code == 4
    (line,) = said(log)
    assert f"port {port} on 127.0.0.1 is taken" in line
    assert "gateway.metrics_port" in line


@pytest.mark.parametrize(
    ("variable", "words"),
    [
        ("EVERSTILL_REGISTRY__URL", "registry.url"),
        ("EVERSTILL_CAPTURE__DIR", "capture.dir"),
        ("EVERSTILL_STREAM__PATH", "stream.path"),
    ],
)
def test_a_folder_that_cannot_be_written_is_one_line_and_an_exit_code(
    tmp_path: pathlib.Path, variable: str, words: str
) -> None:
    (tmp_path / "file").write_text("a file where a folder should be")
    with environment(**{variable: str(tmp_path / "file" / "below")}), gateway(tmp_path) as running:
        code, log = last_words(running)

    assert code == 4
    (line,) = said(log)
    assert words in line
    assert "Errno" not in line
    assert log.rstrip().endswith(line)


def test_what_a_child_cannot_do_is_the_last_line(tmp_path: pathlib.Path) -> None:
    rule = '[{"tensor": "bytes", "action": "zero", "columns": [9999]}]'
    with environment(EVERSTILL_CAPTURE__REDACT=rule), gateway(tmp_path) as running:
        code, log = last_words(running)

    assert code == 2
    (line,) = said(log)
    assert line.startswith("everstill gateway: ")
    assert log.rstrip().endswith(line)


def test_a_second_gateway_on_one_capture_folder_is_one_line_and_an_exit_code(tmp_path: pathlib.Path) -> None:
    with gateway(tmp_path) as running:
        digest = serving(running)
        second = RunningGateway(tmp_path)
        second.log = tmp_path / "second.log"
        second.start()

        code, log = last_words(second)

        (line,) = said(log)
        assert code == 5
        assert "another gateway" in line
        assert "capture.dir" in line
        running.wait_for_live(version_of(digest))


def test_a_gateway_that_was_killed_is_followed_by_one_that_waits_for_its_orphans(tmp_path: pathlib.Path) -> None:
    with gateway(tmp_path) as running:
        digest = serving(running)
        assert running.process is not None
        running.process.kill()
        running.process.wait()

        running.start()

        running.wait_for_live(version_of(digest))


def test_a_gateway_that_waits_for_orphans_can_be_stopped(tmp_path: pathlib.Path) -> None:
    folder = folder_of(tmp_path / "everstill-data/capture", MODEL)
    held = lock(folder, orphans_s=0.0)
    (folder / LOCK_FILE).write_text(str(2**31 - 1))  # as of a gateway that is gone
    with gateway(tmp_path) as running:
        wait_for(lambda: "waiting for the children" in running.log.read_text(), what="it to wait")

        assert running.stop() == 0
    os.close(held)
    assert said(running.log.read_text()) == []


def test_a_mistake_in_the_file_is_one_line_and_an_exit_code(tmp_path: pathlib.Path) -> None:
    with gateway(tmp_path, settings="max_in_fligth = 3") as running:
        code, log = last_words(running)

    assert code == 2
    (line,) = said(log)
    assert "did you mean max_in_flight?" in line


def test_ctrl_c_in_a_terminal_ends_everything_in_order(tmp_path: pathlib.Path) -> None:
    with gateway(tmp_path) as running:
        serving(running)
        assert running.process is not None

        os.killpg(os.getpgid(running.process.pid), signal.SIGINT)

        assert running.process.wait(20) == 0
    assert "Traceback" not in running.log.read_text()
