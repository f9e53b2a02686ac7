"""`everstill doctor`: each check says what is wrong and what to do, and the exit code says what kind of failure it is."""

import json
import pathlib
import socket
import time
import types
from typing import Any

import pytest

from everstill import rooms
from everstill.config import EverstillSettings
from everstill.doctor import machine, places
from everstill.doctor.check import Check, exit_code, fail, ok, warn
from everstill.doctor.parts import student_misfits, teacher_misfits
from everstill.rooms import Description, Tensor
from everstill.topology import teacher_is_ours
from protos.errors import ConfigurationError, EverstillError, UnavailableError
from registry.status import write_status
from registry.store import open_store
from tests.support.in_process import everstill
from tests.support.students import BYTES

DESCRIPTION = {
    "inputs": [{"name": "bytes", "datatype": "INT32", "shape": [-1, 2048]}],
    "outputs": [{"name": "target_label", "datatype": "FP32", "shape": [-1, 214]}],
}
CHECKED = {"student": "byte_window", "chosen": "auto", "parameters": 10, "bytes": 2**20, "latency_ms": 0.5}
CONFIG = """
[gateway]
port = {port}
metrics_port = 0
[loop]
metrics_port = 0
[teacher_server]
port = 0
"""


@pytest.fixture
def folder(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    """A configuration, and rooms that say that all is well."""
    (tmp_path / "everstill.toml").write_text(CONFIG.format(port=0))
    monkeypatch.setattr(rooms, "ask", lambda module, *arguments: CHECKED if "--check" in arguments else DESCRIPTION)
    return tmp_path


def doctor(folder: pathlib.Path) -> tuple[int, dict[str, Any]]:
    done = everstill("doctor", "--json", cwd=folder)
    return done.returncode, {one["about"]: one for one in json.loads(done.stdout)["checks"]}


def test_a_healthy_service_passes_and_nothing_is_made(folder: pathlib.Path) -> None:
    code, checks = doctor(folder)

    assert code == 0
    assert checks["teacher of filetypes"]["found"].endswith("fits [model]")
    assert checks["student of filetypes"]["found"].startswith("byte_window, chosen by its inputs: 10 parameters")
    assert [path.name for path in folder.iterdir()] == ["everstill.toml"]


def test_people_get_a_table_with_what_to_do(folder: pathlib.Path) -> None:
    (folder / "everstill-data").write_text("in the way")

    done = everstill("doctor", cwd=folder)

    assert done.returncode == 4
    assert "fail" in done.stdout
    assert "-> Move it away, or set registry.url" in " ".join(done.stdout.split())
    assert "to fix before it can work" in done.stdout


def test_a_configuration_that_is_wrong_is_one_check_and_code_2(folder: pathlib.Path) -> None:
    (folder / "everstill.toml").write_text("[gateway]\nprot = 1\n")

    code, checks = doctor(folder)

    assert code == 2
    assert "did you mean port" in checks["everstill.toml"]["found"]
    assert "Python" in checks


def test_a_port_that_somebody_else_holds_is_named(folder: pathlib.Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        (folder / "everstill.toml").write_text(CONFIG.format(port=port))

        code, checks = doctor(folder)

    assert code == 4
    assert checks[f"port {port}"]["found"] == "somebody else listens on it, gateway.port needs it"


def test_a_port_that_our_own_gateway_holds_is_fine(folder: pathlib.Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as ours:
        port = ours.getsockname()[1]
        (folder / "everstill.toml").write_text(CONFIG.format(port=port))
        body = {"process": "gateway", "address": f"127.0.0.1:{port}", "pid": 77}
        write_status(open_store(str(folder / "everstill-data/registry")), "filetypes", "gateway-1", body)

        code, checks = doctor(folder)

    assert code == 0
    assert checks[f"port {port}"]["found"] == "gateway.port: held by our own gateway (pid 77)"


def test_two_settings_with_one_port_are_named(folder: pathlib.Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    both = f"[gateway]\nport = {port}\nmetrics_port = {port}\n[loop]\nmetrics_port = 0\n[teacher_server]\nport = 0\n"
    (folder / "everstill.toml").write_text(both)

    code, checks = doctor(folder)

    assert code == 2
    assert "gateway.metrics_port and gateway.port are the same" in checks[f"port {port}"]["found"]


def test_a_damaged_stream_is_told_with_the_way_out(folder: pathlib.Path) -> None:
    (folder / "everstill-data").mkdir()
    (folder / "everstill-data/stream.sqlite").write_bytes(b"not a database" * 100)

    code, checks = doctor(folder)

    assert code == 4
    assert "Move it away" in checks["stream"]["fix"]


def test_a_clock_behind_the_others_is_told(folder: pathlib.Path) -> None:
    store = open_store(str(folder / "everstill-data/registry"))
    write_status(store, "filetypes", "loop", {"process": "loop"})
    path = folder / "everstill-data/registry/models/filetypes/status/loop.json"
    path.write_text(json.dumps({"process": "loop", "time_unix_s": time.time() + 60}))

    code, checks = doctor(folder)

    assert code == 1
    assert "behind another process" in checks["clock"]["found"]


@pytest.mark.parametrize(
    ("states", "code"),
    [
        ([ok("a", ""), warn("b", "", "")], 0),
        ([fail("a", "", "", ConfigurationError), fail("b", "", "", ConfigurationError)], 2),
        ([fail("a", "", "", UnavailableError), ok("b", "")], 4),
        ([fail("a", "", "", UnavailableError), fail("b", "", "", ConfigurationError)], 1),
        ([fail("a", "", "", EverstillError)], 1),
    ],
)
def test_the_exit_code_says_the_only_kind_of_failure(states: list[Check], code: int) -> None:
    assert exit_code(states) == code


def test_packages_are_checked_by_role() -> None:
    lines = ["numpy==0.1", "rich==0.1; extra == 'serving'", "no-such-package==1.0; extra == 'loop'"]

    core, serving, loop = machine.packages(lines)

    assert "tested with 0.1" in core.found
    assert (serving.about, serving.state) == ("packages: serving", "warn")
    assert loop.found == "no-such-package missing: the loop can't run here"


def test_several_workers_want_the_kernel_to_hand_over(tmp_path: pathlib.Path) -> None:
    setting = tmp_path / "tcp_migrate_req"
    setting.write_text("0\n")

    assert list(machine.migration(1, setting)) == []
    (advice,) = machine.migration(2, setting)
    assert advice.state == "warn"
    setting.write_text("1\n")
    assert next(machine.migration(2, setting)).state == "ok"
    assert list(machine.migration(2, tmp_path / "gone")) == []


def test_little_memory_is_worth_a_warning(tmp_path: pathlib.Path) -> None:
    (tmp_path / "meminfo").write_text("MemTotal: 1 kB\nMemAvailable:     2048 kB\n")

    (little,) = machine.memory(tmp_path / "meminfo")

    assert (little.state, little.found) == ("warn", "0.0 GiB available")


@pytest.mark.parametrize(
    ("free_mib", "state", "sentence"),
    [
        (1000, "ok", "0.9 GiB may still be taken, 1.0 GiB free"),
        (500, "warn", "drop samples"),
        (100, "fail", "0.4 GiB are taken"),
    ],
)
def test_a_disk_without_room_for_rings_journal_and_spools_is_told(
    free_mib: int, state: str, sentence: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    capture = {"dir": tmp_path / "new", "ring_bytes": 128 * 2**20, "spool_bytes": 512 * 2**20}
    several = [
        EverstillSettings.model_validate({"capture": {**capture, **more}, "gateway": {"workers": workers}})
        for workers, more in ((2, {}), (1, {"dir": tmp_path, "spool_bytes": 2**20}))
    ]
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda _: types.SimpleNamespace(free=free_mib * 2**20))

    (check,) = machine.hand_over(several)

    assert (check.state, sentence in check.found) == (state, True), check.found


@pytest.mark.parametrize(
    ("taken_mib", "state"),
    [
        ({}, "fail"),
        ({"spool-stream/00000001.seg": 24}, "fail"),  # rings are as large as ever
        ({"journal-0": 16, "journal-1": 8, "spool-stream/00000001.seg": 10}, "fail"),
        ({"ring-0.mmap": 8, "ring-7.mmap": 8, "journal-0": 8, "journal-1": 8}, "fail"),
        ({"ring-0.mmap": 8, "ring-1.mmap": 8, "journal-0": 8, "journal-1": 8}, "warn"),
        ({"ring-0.mmap": 8, "ring-1.mmap": 8, "journal-0": 8, "journal-1": 8, "spool-stream/00000001.seg": 3}, "ok"),
    ],
)
def test_what_each_of_rings_journal_and_spools_has_taken_it_does_not_ask_for_again(
    taken_mib: dict[str, int], state: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    capture = {"dir": tmp_path, "spool_bytes": 10 * 2**20, "ring_bytes": 8 * 2**20}
    settings = EverstillSettings.model_validate({"capture": capture, "gateway": {"workers": 2}})
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda _: types.SimpleNamespace(free=7 * 2**20))
    for name, mib in taken_mib.items():
        path = tmp_path / settings.model.name / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(mib * 2**20))

    (check,) = machine.hand_over([settings])

    assert check.state == state, check.found


def test_a_folder_that_may_not_be_written_is_told(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places.os, "access", lambda *_: False)  # root may write anywhere

    assert "can't be written to" in places.writable("capture.dir", tmp_path / "new").found


def described(*inputs: Tensor, output: Tensor) -> Description:
    return Description(inputs, (output,))


FITTING = Tensor("bytes", "INT32", (-1, 2048))


@pytest.mark.parametrize(
    ("inputs", "output", "sentence"),
    [
        ((), Tensor("target_label", "FP32", (-1, 214)), "the teacher takes no input 'bytes'"),
        (
            (Tensor("bytes", "INT64", (-1, 2048)),),
            Tensor("target_label", "FP32", (-1, 214)),
            "is INT64 there and INT32",
        ),
        (
            (Tensor("bytes", "INT32", (-1, 9)),),
            Tensor("target_label", "FP32", (-1, 214)),
            r"\[-1, 9\] there and \[-1, 2048\]",
        ),
        (
            (FITTING, Tensor("mask", "INT32", (-1,))),
            Tensor("target_label", "FP32", (-1, 214)),
            "takes an input 'mask' besides",
        ),
        ((FITTING,), Tensor("y", "FP32", (-1, 214)), "no output 'target_label', but y"),
        ((FITTING,), Tensor("target_label", "FP32", (-1, 3)), r"isn't \[batch, 214\]"),
    ],
)
def test_a_teacher_that_does_not_fit_is_told_where(inputs: Any, output: Tensor, sentence: str) -> None:
    with pytest.raises(ConfigurationError, match=sentence):
        raise ConfigurationError("; ".join(teacher_misfits(EverstillSettings(), described(*inputs, output=output))))


def test_a_teacher_with_its_own_names_of_inputs_fits() -> None:
    renamed = described(Tensor("content", "INT32", (-1, 2048)), output=Tensor("target_label", "FP32", (-1, 214)))
    settings = EverstillSettings.model_validate({"teacher": {"inputs": {"bytes": "content"}}})

    assert teacher_misfits(settings, renamed) == []
    assert teacher_misfits(EverstillSettings(), renamed) != []


def test_a_student_s_graph_must_answer_logits_of_all_classes() -> None:
    settings = EverstillSettings()

    assert settings.model.inputs == BYTES
    assert student_misfits(settings, described(FITTING, output=Tensor("logits", "FP32", (-1, 214)))) == []
    assert "isn't FP32" in student_misfits(settings, described(FITTING, output=Tensor("logits", "FP32", (-1, 3))))[0]
    assert "no output 'logits'" in student_misfits(settings, described(FITTING, output=Tensor("y", "FP32", (-1, 3))))[0]


@pytest.mark.parametrize(
    ("teacher", "server", "ours"),
    [
        ({}, {}, True),
        ({}, {"port": 0}, True),
        ({"address": "10.0.0.7:8101"}, {}, False),
        ({"address": "127.0.0.1:9"}, {}, False),
        ({"address": "localhost:8101"}, {}, True),
        ({"model": "bert"}, {}, False),
        ({"address": "127.0.0.1:9"}, {"port": 0}, False),
    ],
)
def test_a_teacher_is_ours_where_its_address_is_our_server_s(teacher: Any, server: Any, ours: bool) -> None:
    settings = EverstillSettings.model_validate({"teacher": teacher, "teacher_server": server})

    assert teacher_is_ours(settings) is ours
