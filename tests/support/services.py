"""A service with a tiny teacher, made as a user makes one, for tests that type commands."""

import pathlib

import pytest

from registry.sections import TensorSpec
from tests.support.everstill_command import run
from tests.support.students import build_onnx

INPUT = TensorSpec(name="x", datatype="INT32", shape=(-1, 4))
PORTS = ("GATEWAY__PORT", "GATEWAY__METRICS_PORT", "LOOP__METRICS_PORT", "TEACHER_SERVER__PORT")


def make_tiny_service(folder: pathlib.Path) -> pathlib.Path:
    """Return the folder that `everstill init` makes of a teacher that always says class 2; requests.jsonl has a bad row between two good ones."""
    (folder / "teacher.onnx").write_bytes(build_onnx((INPUT,), 3, winner=2, scale=1.0))
    done = run(folder, "init", "tiny", "--teacher", "teacher.onnx", "--output", "logits", "--no-check")
    assert done.returncode == 0, done.stderr
    (folder / "tiny/requests.jsonl").write_text('[1, 2, 3, 4]\n[1, 2]\n{"x": [5, 6, 7, 8]}\n')
    return folder / "tiny"


def free_ports_by_environment(patch: pytest.MonkeyPatch) -> None:
    """Let every process take free ports."""
    for port in PORTS:
        patch.setenv(f"EVERSTILL_{port}", "0")
