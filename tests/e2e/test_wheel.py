"""The wheel, in an empty environment outside the checkout: the same commands work there, from the wheel's own files.

The environment sees the packages of the test's (torch isn't fetched twice), and not the checkout.
"""

import importlib.util
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import sysconfig
import venv
import zipfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from registry.pointers import Live, Pointers
from registry.sections import TensorSpec
from registry.store import open_store
from serving.rpc.client import InferenceClient
from tests.support.students import build_onnx, publish_student
from tests.support.waiting import wait_for

ROOT = pathlib.Path(__file__).parents[2]
PACKAGES = ("distill_loop", "everstill", "protos", "registry", "serving")
INPUT = TensorSpec(name="x", datatype="INT32", shape=(-1, 4))
COMMANDS = (
    "demo",
    "init",
    "up",
    "doctor",
    "infer",
    "gateway",
    "teacher",
    "loop",
    "status",
    "versions",
    "show",
    "config",
)
PORTS = ("GATEWAY__PORT", "GATEWAY__METRICS_PORT", "LOOP__METRICS_PORT", "TEACHER_SERVER__PORT")
#: Asks every command for its help in one process.
ASK_HELP = """
import sys
from everstill.cli import app
for command in sys.argv[1:]:
    try:
        app([command, "--help"])
    except SystemExit as ended:
        assert not ended.code, command
"""
CONFIG = """
[model]
name = "tiny"
inputs = [{ name = "x", datatype = "INT32", shape = [-1, 4] }]
num_classes = 3
[gateway]
port = 0
metrics_port = 0
"""


def uv() -> list[str]:
    """Return the command that builds and installs; on a laptop without it the test is skipped, in CI it fails."""
    if found := shutil.which("uv"):
        return [found]
    if importlib.util.find_spec("uv"):
        return [sys.executable, "-m", "uv"]
    if os.environ.get("CI"):
        pytest.fail("uv is missing")
    pytest.skip("uv is missing")


class Installed:
    """An environment with the wheel in it, and a folder to work in."""

    def __init__(self, folder: pathlib.Path, wheel: pathlib.Path) -> None:
        self.folder = folder / "work"
        self.folder.mkdir()
        self.environment = folder / "venv"
        venv.create(self.environment, with_pip=False)
        self.bin = self.environment / "bin"
        self.packages = next(self.environment.glob("lib/python*/site-packages"))
        call(
            [
                *uv(),
                "pip",
                "install",
                "--offline",
                "--no-index",
                "--no-deps",
                "--python",
                str(self.bin / "python"),
                str(wheel),
            ]
        )
        (self.packages / "shared.pth").write_text(f"{sysconfig.get_path('purelib')}\n")

    def run(self, *arguments: str) -> str:
        """Run `everstill ...` and return its standard output."""
        return call([str(self.bin / "everstill"), *arguments], cwd=self.folder)


def call(command: Sequence[str], cwd: pathlib.Path = ROOT) -> str:
    done = subprocess.run(command, cwd=cwd, env=variables(), capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, f"{command}: {done.stdout[-2000:]}{done.stderr[-2000:]}"
    return done.stdout


def variables() -> dict[str, str]:
    """Return the environment without what would lead to the checkout, and on ports that nobody else can hold."""
    kept = {
        key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "COVERAGE_", "VIRTUAL_ENV"))
    }
    return kept | {f"EVERSTILL_{name}": "0" for name in PORTS}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("dist")
    build = [*uv(), "build", "--wheel", "--quiet", "--python", sys.executable, "-o", str(folder), str(ROOT)]
    if subprocess.run([*build, "--offline"], env=variables(), capture_output=True).returncode:
        call(build)  # the build backend isn't in uv's cache
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def installed(wheel: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    return Installed(tmp_path_factory.mktemp("elsewhere"), wheel)


def test_the_wheel_holds_its_data_and_nothing_of_the_tests(wheel: pathlib.Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())

    assert {f"{package}/py.typed" for package in PACKAGES} <= names
    assert {"everstill/project/templates/README.md", "everstill/recipes/digits.toml", "protos/inference.proto"} <= names
    assert {name.split("/")[0].split("-")[0] for name in names} == set(PACKAGES)


def test_every_package_is_the_wheel_s(installed: Installed) -> None:
    code = f"import json; print(json.dumps([__import__(name).__file__ for name in {PACKAGES}]))"

    files = json.loads(call([str(installed.bin / "python"), "-c", code], cwd=installed.folder))

    assert all(file.startswith(str(installed.packages)) for file in files)


def test_every_command_helps(installed: Installed) -> None:
    said = call([str(installed.bin / "python"), "-c", ASK_HELP, *COMMANDS], cwd=installed.folder)

    assert all(f"Example: everstill {command}" in said for command in COMMANDS)


def test_a_service_is_written_checked_and_judged(installed: Installed) -> None:
    (installed.folder / "teacher.onnx").write_bytes(build_onnx((INPUT,), 3, winner=2, scale=1.0))

    report = json.loads(
        installed.run("init", "tiny", "--teacher", "teacher.onnx", "--student", "student:build", "--json")
    )
    python = [str(installed.bin / "python"), "-m", "distill_loop.app", "--check", "--config", "tiny/everstill.toml"]
    with ThreadPoolExecutor() as pool:  # side by side: each builds the student anew, which takes seconds
        doctor = pool.submit(installed.run, "doctor", "--config", "tiny/everstill.toml", "--json")
        checked = json.loads(call(python, cwd=installed.folder))
        examined = json.loads(doctor.result())
    config = json.loads(installed.run("config", "--config", "tiny/everstill.toml"))
    verdict = json.loads(installed.run("gate", "--wins", "60", "--losses", "10", "--total", "300", "--json"))

    assert report["files"] == [".gitignore", "README.md", "everstill.toml", "student.py"]
    # The student was built, run and exported by the wheel's own code.
    assert report["student"]["parameters"] == checked["parameters"] > 0
    assert examined["ok"]
    assert {"teacher of tiny", "student of tiny"} <= {
        one["about"] for one in examined["checks"] if one["state"] == "ok"
    }
    assert config["model"]["num_classes"] == 3
    assert verdict["verdict"] == "PASS"


def test_a_gateway_starts_and_answers(installed: Installed) -> None:
    folder = installed.folder / "gateway"
    folder.mkdir()
    (folder / "everstill.toml").write_text(CONFIG)
    store = open_store(str(folder / "everstill-data/registry"))
    digest = publish_student(store, model="tiny", inputs=(INPUT,), num_classes=3, winner=1)
    Pointers(store, "tiny").move_live(Live(digest=digest, ledger_line=1, epoch=1), None)
    status = folder / "everstill-data/registry/models/tiny/status/gateway-1.json"
    process = subprocess.Popen(
        [str(installed.bin / "everstill"), "gateway"], cwd=folder, env=variables(), stderr=subprocess.DEVNULL
    )
    try:
        wait_for(lambda: status.exists() and json.loads(status.read_text())["live"], deadline_s=60, what="the gateway")
        answered = call([str(installed.bin / "everstill"), "infer", str(requests(folder))], cwd=folder)
        shown = json.loads(call([str(installed.bin / "everstill"), "status", "--json"], cwd=folder))
        with InferenceClient(json.loads(status.read_text())["address"]) as client:
            assert client.ready("tiny")
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0

    assert json.loads(answered)["top"][0]["class"] == 1
    assert (shown["model"], shown["live"]) == ("tiny", digest[:12])
    assert shown["processes"]["gateway-1"]["live"] == digest[:12]


def requests(folder: pathlib.Path) -> pathlib.Path:
    path = folder / "requests.jsonl"
    path.write_text("[1, 2, 3, 4]\n")
    return path
