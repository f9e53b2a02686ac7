"""Three gateways and two models on one broker, with a loop for each model: every sampled row is learned once, by its own loop."""

import collections
import contextlib
import os
import pathlib
import subprocess
import sys
import uuid
from collections.abc import Iterator
from typing import Any

import numpy as np

from distill_loop.learner import checkpoint
from distill_loop.stream.dedupe import Dedupe
from distill_loop.stream.topics import Brokers, wanted_topics
from protos import inference_pb2 as pb
from protos.records import row_record_id
from registry.pointers import Pointers
from registry.sections import KafkaSection, StreamSection, TensorSpec
from registry.status import read_statuses
from registry.store import open_store
from serving.rpc.client import InferenceClient
from serving.rpc.convert import infer_response, read_inputs
from tests.support.students import build_onnx
from tests.support.teachers import FakeTeacher, serving
from tests.support.waiting import wait_for

INPUT = TensorSpec(name="x", datatype="FP32", shape=(-1, 4))
#: Classes of a model, and the one that its student always answers.
MODELS = {"alpha": (3, 2), "beta": (5, 1)}
GATEWAYS = ("north", "south", "west")
ROUNDS, ROWS = 10, 2
COUNTED = ("sampled", "published", "missing", "pending", "spooled", "dropped")
HEAD = """
[gateway]
id = "{gateway}"
port = 0
metrics_port = 0
follow_interval_s = 0.1
[capture]
dir = "capture-{gateway}"
rate = 1.0
report_interval_s = 0.3
[registry]
cache = "cache-{gateway}"
[stream]
partitions = 2
[stream.kafka]
bootstrap = "{bootstrap}"
topic_prefix = "{prefix}"
[teacher]
address = "{teacher}"
output = "said"
max_calls_per_s = 1000
[learner]
student = "tabular"
[release]
cut_every_pairs = 1000000
[loop]
status_interval_s = 0.2
checkpoint_every_s = 0.3
lease_s = 1.0
nice = 0
"""
EACH = """
[models.{name}.model]
num_classes = {classes}
inputs = [{{ name = "x", datatype = "FP32", shape = [-1, 4] }}]
[models.{name}.teacher]
model = "{name}"
[models.{name}.release]
first_version = "{name}.onnx"
[models.{name}.loop]
metrics_port = 0
"""


def truth(x_B4: Any, model: str) -> list[int]:
    """Return what is true of rows, and what the teacher says: the student's class, or 0 where the first number is negative."""
    return [MODELS[model][1] if first > 0 else 0 for first in x_B4[:, 0]]


def teach(request: pb.ModelInferRequest) -> pb.ModelInferResponse:
    classes = truth(read_inputs(request)["x"], request.model_name)
    said_BC = np.eye(MODELS[request.model_name][0], dtype=np.float32)[classes]
    return infer_response(request.model_name, "teacher-7", {"said": said_BC}, request_id=request.id)


class Service:
    """The processes of one folder: gateways by their names, loops by their models."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.folder = folder
        self.store = open_store(str(folder / "everstill-data/registry"))
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str, module: str, *arguments: str) -> None:
        """Start a process; its log lies in the folder."""
        with (self.folder / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                [sys.executable, "-m", module, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=os.environ,
            )

    def start_loop(self, model: str) -> None:
        """Start a model's loop."""
        self.start(model, "distill_loop.app", "--config", str(self.folder / "north.toml"), "--model", model)

    def told(self, model: str, name: str) -> dict[str, Any]:
        """Return what a running process last said of a model; empty before its first word."""
        process = self.processes[model if name == "loop" else name]
        assert process.poll() is None, (self.folder / f"{name}.log").read_text()[-2000:]
        status = read_statuses(self.store, model).get(name, {})
        return status if status.get("pid") == process.pid else {}

    def fates(self, model: str) -> dict[str, set[bytes]]:
        """Return the records of a loop's newest checkpoint by what became of them."""
        pointer = Pointers(self.store, model).checkpoint()
        assert pointer is not None
        dedupe = Dedupe(10**6)
        dedupe.load_state_dict(checkpoint.load(self.store.get(pointer.path).data)["dedupe"])
        return {"learned": dedupe.records("learned"), "held_out": dedupe.records("held_out")}

    def stop(self) -> None:
        """End all, gateways first: their mirrors publish what is left."""
        for process in self.processes.values():
            if process.poll() is None:
                process.terminate()
        for process in self.processes.values():
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@contextlib.contextmanager
def service(folder: pathlib.Path, bootstrap: str) -> Iterator[Service]:
    """Start everything; yields once every gateway serves a version of each model."""
    prefix = f"t-{uuid.uuid4().hex[:12]}"
    stream = StreamSection(partitions=2, kafka=KafkaSection(bootstrap=bootstrap, topic_prefix=prefix))
    each = ""
    for name, (classes, winner) in MODELS.items():
        (folder / f"{name}.onnx").write_bytes(build_onnx((INPUT,), classes, winner=winner, scale=1.0))
        each += EACH.format(name=name, classes=classes)
    wanted = wanted_topics(stream, list(MODELS))
    with Brokers(stream.kafka) as brokers:
        brokers.create(wanted)
    whole = Service(folder)
    with serving(FakeTeacher(answer=teach)) as teacher:
        try:
            for gateway in GATEWAYS:
                head = HEAD.format(gateway=gateway, bootstrap=bootstrap, prefix=prefix, teacher=teacher)
                (folder / f"{gateway}.toml").write_text(head + each)
                whole.start(gateway, "serving.app", "gateway", "--config", str(folder / f"{gateway}.toml"))
            for model in MODELS:
                whole.start_loop(model)
            for gateway in GATEWAYS:
                for model in MODELS:
                    wait_for(lambda m=model, g=gateway: whole.told(m, g).get("live"), deadline_s=60, what="a version")
            yield whole
        finally:
            whole.stop()
            with Brokers(stream.kafka) as brokers:
                brokers.delete([one.name for one in wanted])


def ask(clients: dict[str, InferenceClient]) -> dict[str, dict[bytes, int]]:
    """Ask every gateway about every model, and tell another gateway what was true; returns the truth by model and record."""
    asked: dict[str, dict[bytes, int]] = collections.defaultdict(dict)
    for number in range(ROUNDS):
        for place, gateway in enumerate(GATEWAYS):
            other = clients[GATEWAYS[(place + 1) % len(GATEWAYS)]]
            for model in MODELS:
                x_B4 = np.full((ROWS, 4), number, np.float32) + np.array([[place + 1], [-1000 - place]], np.float32)
                record_id = clients[gateway].infer(model, {"x": x_B4}).record_id
                for row, true in enumerate(truth(x_B4, model)):
                    asked[model][row_record_id(bytes.fromhex(record_id), row)] = true
                    other.feedback(model, record_id, true, row)
    return asked


def test_three_gateways_and_two_models_share_a_broker_and_each_row_is_learned_once(
    tmp_path: pathlib.Path, kafka_bootstrap: str
) -> None:
    with service(tmp_path, kafka_bootstrap) as whole, contextlib.ExitStack() as stack:
        addresses = {name: str(whole.told("alpha", name)["address"]) for name in GATEWAYS}
        clients = {name: stack.enter_context(InferenceClient(one)) for name, one in addresses.items()}

        asked = ask(clients)

        for model, rows in asked.items():
            assert len(rows) == ROUNDS * ROWS * len(GATEWAYS)

            def settled(model: str = model, num: int = len(rows)) -> dict[str, Any] | None:
                told = whole.told(model, "loop")
                if not told or told["accounts"]["accepted"] != num or not told["labels"]:
                    return None
                labels_in = told["labels"]["joined"] == told["labels"]["accepted"] == num
                return told if labels_in and sum(map(len, whole.fates(model).values())) == num else None

            try:
                told = wait_for(settled, deadline_s=60)
            except TimeoutError:
                raise AssertionError(
                    f"{model} should have read {len(rows)} rows: {whole.told(model, 'loop')}"
                ) from None
            fates = whole.fates(model)

            assert fates["learned"] | fates["held_out"] == rows.keys()
            assert not fates["learned"] & fates["held_out"]
            assert [told["pairs"][fate] for fate in ("repeats", "dead", "refused")] == [0, 0, 0]
            assert (told["accounts"]["open"], told["gaps"]) == (0, 0)  # equation B
            counted = {name: sum(one[name] for one in told["capture"].values()) for name in COUNTED}
            assert counted == {**dict.fromkeys(COUNTED, 0), "sampled": len(rows), "published": len(rows)}  # equation A
            labels = told["labels"]
            assert [labels[name] for name in ("late", "repeated", "unmatched", "unusable", "waiting")] == [0] * 5
            assert (labels["student"]["estimate"], labels["teacher"]["estimate"]) == (0.5, 1.0)
