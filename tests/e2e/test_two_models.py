"""Two models in one gateway with a loop each, as `everstill up` runs them: each learns from its own teacher and has a first version of its own."""

import json
import pathlib
import signal

import numpy as np

from registry.sections import TensorSpec
from serving.rpc.client import InferenceClient
from tests.support.connections import free_ports
from tests.support.everstill_command import Running, run, running
from tests.support.students import build_onnx
from tests.support.waiting import wait_for

INPUT = TensorSpec(name="x", datatype="FP32", shape=(-1, 4))
MODELS = {"alpha": (3, 2), "beta": (5, 1)}  # classes, and the one that the teacher prefers
HEAD = """
[gateway]
port = 0
metrics_port = 0
pass_through = true
workers = 2
[capture]
rate = 1.0
[teacher]
output = "logits"
kind = "logits"
max_calls_per_s = 1000
[learner]
student = "tabular"
[release]
bootstrap_pairs = 24
bootstrap_steps = 20
"""
EACH = """
[models.{name}.model]
num_classes = {classes}
inputs = [{{ name = "x", datatype = "FP32", shape = [-1, 4] }}]
[models.{name}.teacher]
address = "127.0.0.1:{port}"
[models.{name}.teacher_server]
port = {port}
onnx = "{name}.onnx"
[models.{name}.loop]
metrics_port = 0
"""


def event(process: Running, name: str) -> dict[str, object]:
    return next((one for one in process.events() if one["event"] == name), {})


def test_two_models_learn_beside_each_other_and_are_served_through_one_port(tmp_path: pathlib.Path) -> None:
    file = HEAD
    for port, (name, (classes, winner)) in zip(free_ports(len(MODELS)), MODELS.items(), strict=True):
        (tmp_path / f"{name}.onnx").write_bytes(build_onnx((INPUT,), classes, winner=winner, scale=1.0))
        file += EACH.format(name=name, classes=classes, port=port)
    (tmp_path / "everstill.toml").write_text(file)
    rng = np.random.default_rng(0)

    with running(tmp_path, "up", "--json") as process:
        wait_for(lambda: event(process, "ready"), deadline_s=120, what="both models to be ready")
        with InferenceClient(str(event(process, "running")["address"])) as client:

            def versions() -> set[str]:
                answers = [client.infer(name, {"x": rng.normal(size=(1, 4)).astype(np.float32)}) for name in MODELS]
                assert [answer.outputs["logits"].shape[1] for answer in answers] == [3, 5]
                return {answer.version for answer in answers}

            wait_for(
                lambda: "teacher" not in (found := versions()) and len(found) == 2,
                deadline_s=120,
                what="a version of each",
            )
            row = {"x": rng.normal(size=(1, 4)).astype(np.float32)}
            winners = {name: int(client.infer(name, row).outputs["logits"].argmax()) for name in MODELS}
        told = json.loads(run(tmp_path, "status", "--json").stdout)
        process.process.send_signal(signal.SIGTERM)
        assert process.process.wait(60) == 0

    assert winners == {name: winner for name, (_, winner) in MODELS.items()}
    assert {"alpha", "beta"} <= set(json.dumps(told).replace('"', " ").split())
    for name in MODELS:
        lines = json.loads(run(tmp_path, "versions", "--json", "--model", name).stdout)
        assert "bootstrap" in json.dumps(lines)
