"""Clients that nobody here wrote and that CI doesn't install: KServe's Python client, and grpcurl through reflection.

Each test makes what it needs: a virtual environment with kserve (uv), grpcurl from its source (go). Where that can't be had, it says so.
"""

import json
import os
import pathlib
import subprocess
import sys
from collections.abc import Iterator

import pytest
from onnx import helper

from registry.sections import ModelSection, TensorSpec
from tests.support.callers import FakeSession, callers
from tests.support.graphs import graph
from tests.support.installing import made
from tests.support.kinds import session_of

ROOT = pathlib.Path(__file__).parents[2]
GRPCURL = "github.com/fullstorydev/grpcurl/cmd/grpcurl@v1.9.4"
KSERVE = "kserve==0.21.0"
WORDS = ModelSection(
    name="words",
    inputs=(
        TensorSpec(name="text", datatype="BYTES", shape=(-1,)),
        TensorSpec(name="numbers", datatype="FP32", shape=(-1, 2)),
    ),
    num_classes=2,
    extra_outputs=(TensorSpec(name="again", datatype="BYTES", shape=(-1,)),),
)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    nodes = [helper.make_node("Identity", ["numbers"], ["logits"]), helper.make_node("Identity", ["text"], ["again"])]
    inputs = [("text", "BYTES", ["batch"]), ("numbers", "FP32", ["batch", 2])]
    outputs = [("logits", "FP32", ["batch", 2]), ("again", "BYTES", ["batch"])]
    session = session_of(tmp_path_factory.mktemp("words"), WORDS, graph(nodes, inputs, outputs))
    with callers(FakeSession(), others=[(WORDS, session)]) as served:
        yield served.address


@pytest.fixture(scope="module")
def grpcurl(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("grpcurl")
    made(["go", "install", GRPCURL], folder, GOBIN=str(folder), GOFLAGS="-mod=mod")
    return folder / "grpcurl"


def curled(grpcurl: pathlib.Path, *arguments: str, sent: str = "") -> subprocess.CompletedProcess[str]:
    command = [str(grpcurl), "-plaintext", *arguments]
    return subprocess.run(command, input=sent, capture_output=True, text=True, timeout=60, check=False)


def test_kserves_client_asks_and_is_answered(address: str, tmp_path: pathlib.Path) -> None:
    made(["uv", "venv", "--quiet", "--python", sys.executable, str(tmp_path / "kserve")], tmp_path)
    python = tmp_path / "kserve/bin/python"
    made(["uv", "pip", "install", "--quiet", "--python", str(python), KSERVE], tmp_path)
    calls = ROOT / "tests/support/kserve_calls.py"

    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [str(python), str(calls), address], env=environment, capture_output=True, text=True, timeout=120, check=False
    )

    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    assert (said["live"], said["ready"], said["model_ready"]) == (True, True, True)
    assert (said["id"], said["version"], said["names"]) == ("mine", "f" * 12, ["logits", "again"])
    assert said["outputs"] == {"logits": [[1, 2]]}
    assert said["refused"].startswith("NOT_FOUND: unknown model 'other'")


def test_grpcurl_learns_the_protocol_and_asks(address: str, grpcurl: pathlib.Path) -> None:
    service = "inference.GRPCInferenceService"
    request = {
        "model_name": "words",
        "id": "mine",
        "inputs": [
            {"name": "text", "datatype": "BYTES", "shape": [1], "contents": {"bytes_contents": ["Z3LDvG4="]}},
            {"name": "numbers", "datatype": "FP32", "shape": [1, 2], "contents": {"fp32_contents": [1, 2]}},
        ],
    }

    listed = curled(grpcurl, address, "list")
    described = curled(grpcurl, address, "describe", f"{service}.ModelStreamInfer")
    health = curled(grpcurl, "-d", '{"service": "words"}', address, "grpc.health.v1.Health/Check")
    index = curled(grpcurl, address, f"{service}/RepositoryIndex")
    answer = curled(grpcurl, "-d", "@", address, f"{service}/ModelInfer", sent=json.dumps(request))
    stream = curled(grpcurl, "-d", "@", address, f"{service}/ModelStreamInfer", sent=json.dumps(request) * 2)
    refused = curled(grpcurl, "-d", '{"model_name": "other"}', address, f"{service}/ModelInfer")

    assert {service, "grpc.health.v1.Health"} < set(listed.stdout.split()), listed.stderr
    assert "rpc ModelStreamInfer ( stream .inference.ModelInferRequest )" in described.stdout, described.stderr
    assert json.loads(health.stdout) == {"status": "SERVING"}
    assert {"name": "words", "version": "f" * 12, "state": "READY"} in json.loads(index.stdout)["models"]
    assert json.loads(answer.stdout)["id"] == "mine", answer.stderr
    assert json.loads(answer.stdout)["raw_output_contents"] == ["AACAPwAAAEA=", "BQAAAGdyw7xu"]
    assert stream.stdout.count('"infer_response"') == 2, stream.stderr
    assert "Code: NotFound" in refused.stderr
    assert "unknown model 'other'" in refused.stderr
