"""A real loop with a torch module and an ONNX file of the user's: checked before anything starts, then they compete."""

import json
import os
import pathlib
import subprocess
import sys
from collections.abc import Iterator

import pytest

from registry.bundle import read_manifest
from registry.sections import TensorSpec
from tests.support.loops import CONFIG, MODEL, LoopUnderTest
from tests.support.publishing import NUM_CLASSES, WINDOW, make_pair
from tests.support.students import build_onnx
from tests.support.waiting import wait_for

STUDENT = f"""
from torch import nn

print("a module of the user's may print")

class Student(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.bytes = nn.Embedding(257, width)
        self.head = nn.Linear(width, {NUM_CLASSES})

    def forward(self, bytes):
        return self.head(self.bytes(bytes.clamp(0, 256)).mean(dim=1))
"""
OWN = """
[learner]
student = "their_student:Student"
arguments = { width = 24 }
learning_rate = 0.02
batch_size = 16
"""


@pytest.fixture
def loop(tmp_path: pathlib.Path) -> Iterator[LoopUnderTest]:
    loop = LoopUnderTest(tmp_path)
    (tmp_path / "their_student.py").write_text(STUDENT)
    before, _, after = CONFIG.partition("[learner]")
    loop.config.write_text(before + OWN + after[after.index("[release]") :])
    yield loop
    if loop.process is not None:
        loop.stop()
    loop.writer.close()


def write_first_version(loop: LoopUnderTest) -> None:
    specs = (TensorSpec(name="bytes", datatype="INT32", shape=(-1, WINDOW)),)
    (loop.folder / "first.onnx").write_bytes(build_onnx(specs, NUM_CLASSES, winner=2, scale=1.0))
    loop.config.write_text(loop.config.read_text().replace("[release]", '[release]\nfirst_version = "first.onnx"'))


def check(loop: LoopUnderTest) -> tuple[subprocess.CompletedProcess[str], dict[str, object]]:
    command = [sys.executable, "-m", "distill_loop.app", "--check", "--config", str(loop.config), "--model", MODEL]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, env=dict(os.environ))
    return done, json.loads(done.stdout)


def test_a_check_says_what_the_student_is_and_costs_and_touches_nothing(loop: LoopUnderTest) -> None:
    write_first_version(loop)
    before = sorted(loop.folder.iterdir())

    done, found = check(loop)

    assert done.returncode == 0
    assert len(done.stdout.splitlines()) == 1
    assert (found["ok"], found["model"], found["student"]) == (True, MODEL, "their_student:Student")
    assert found["parameters"] == 257 * 24 + 25 * NUM_CLASSES
    assert found["first_version"]["file"] == "first.onnx"  # type: ignore[index]
    assert {"bytes", "export_s", "latency_ms", "parity_max_abs"} <= found.keys()
    assert [path for path in loop.folder.iterdir() if path not in before and path.name != "__pycache__"] == []


def test_a_check_that_fails_says_why_in_one_line(loop: LoopUnderTest) -> None:
    loop.config.write_text(loop.config.read_text().replace("width = 24", "depth = 3"))

    done, found = check(loop)

    assert done.returncode == 2
    assert found["ok"] is False
    assert "unexpected keyword argument 'depth'" in str(found["error"])
    assert "unexpected keyword argument 'depth'" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_a_file_is_the_first_version_without_an_answer_and_the_module_competes_with_it(loop: LoopUnderTest) -> None:
    write_first_version(loop)
    loop.start()
    live = wait_for(loop.pointers.live, deadline_s=100, what="the first version")
    line = loop.ledger.lines()[0]
    assert (line.kind, line.evidence["source"], line.digest) == ("bootstrap", "file", live.digest)

    loop.writer.pairs([make_pair(number) for number in range(64)])
    trial = wait_for(loop.pointers.trial, deadline_s=60, what="a trial")

    manifest = read_manifest(loop.store, trial.candidate)
    assert trial.incumbent == live.digest
    assert manifest.student == {"student": "their_student:Student", "width": 24}


def test_a_stream_that_will_never_do_ends_the_loop_with_one_line(loop: LoopUnderTest) -> None:
    (loop.folder / "a file").write_text("")
    loop.config.write_text(loop.config.read_text().replace('path = "stream.sqlite"', 'path = "a file/stream.sqlite"'))

    done = subprocess.run(
        [sys.executable, "-m", "distill_loop.app", "--config", str(loop.config)],
        capture_output=True,
        text=True,
        timeout=100,
    )

    assert done.returncode == 4
    assert "a file/stream.sqlite can't be read" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
