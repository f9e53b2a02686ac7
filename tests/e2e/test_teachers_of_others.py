"""Teachers that are not ours: Triton (as pytriton) and MLServer, each in an environment of its own, asked by the teacher's client."""

import contextlib
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import pytest

from protos.tensors import strings
from serving.config import TeacherSection
from serving.rpc.client import InferenceClient, RpcError
from serving.teacher.client import TeacherClient, TeacherRefused
from tests.support.connections import free_ports
from tests.support.installing import made
from tests.support.waiting import wait_for

pytestmark = pytest.mark.slow

TRITON = """
import sys
import numpy as np
from pytriton.decorators import batch
from pytriton.model_config import ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig

@batch
def answer(x, words):
    scores = np.stack([x[:, 0], 1 - x[:, 0]], 1).astype(np.float32)
    return {"scores": scores, "label": np.array([b"a"] * len(x), object)[:, None]}

ports = dict(zip(("grpc_port", "http_port", "metrics_port"), map(int, sys.argv[1:])))
with Triton(config=TritonConfig(**ports)) as triton:
    inputs = [Tensor(name="x", dtype=np.float32, shape=(2,)), Tensor(name="words", dtype=bytes, shape=(1,))]
    outputs = [Tensor(name="scores", dtype=np.float32, shape=(2,)), Tensor(name="label", dtype=bytes, shape=(1,))]
    triton.bind("teacher", infer_func=answer, inputs=inputs, outputs=outputs, config=ModelConfig(max_batch_size=8))
    triton.serve()
"""
MLSERVER = """
import numpy as np
from mlserver import MLModel
from mlserver.codecs import NumpyCodec, StringCodec
from mlserver.types import InferenceResponse

class Teacher(MLModel):
    async def load(self):
        return True

    async def predict(self, payload):
        x = NumpyCodec.decode_input(next(one for one in payload.inputs if one.name == "x"))
        scores = np.stack([x[:, 0], 1 - x[:, 0]], 1).astype(np.float32)
        outputs = [NumpyCodec.encode_output("scores", scores), StringCodec.encode_output("label", ["a"] * len(x))]
        return InferenceResponse(model_name=self.name, id=payload.id, outputs=outputs)
"""


@contextlib.contextmanager
def running(command: list[str], folder: pathlib.Path, port: int) -> Iterator[str]:
    """Run a server, and give its address once it is ready."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment["PATH"] = f"{folder / 'env/bin'}:{environment['PATH']}"
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log, process_group=0)
    client = InferenceClient(f"127.0.0.1:{port}")
    try:
        wait_for(lambda: _knows_its_model(client), deadline_s=120, what="the server")
        yield client.address
    finally:
        client.close()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(30)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _knows_its_model(client: InferenceClient) -> bool:
    with contextlib.suppress(RpcError):
        return bool(client.metadata("teacher").name)
    return False


@pytest.fixture(params=["triton", "mlserver"])
def address(request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> Iterator[str]:
    ports = free_ports(3)
    python = tmp_path / "env/bin/python"
    if request.param == "triton":
        system = "/usr/bin/python3"  # pytriton's model process fails under other builds of Python
        if shutil.which(system) is None:
            pytest.skip(f"only on machines with {system}")
        made(["uv", "venv", "--quiet", "--python", system, str(tmp_path / "env")], tmp_path)
        made(["uv", "pip", "install", "--quiet", "--python", str(python), "nvidia-pytriton==0.7.0"], tmp_path)
        (tmp_path / "teacher.py").write_text(TRITON)
        command = [str(python), "teacher.py", *map(str, ports)]
    else:
        made(["uv", "venv", "--quiet", "--python", sys.executable, str(tmp_path / "env")], tmp_path)
        made(["uv", "pip", "install", "--quiet", "--python", str(python), "mlserver"], tmp_path)
        (tmp_path / "teacher.py").write_text(MLSERVER)
        settings = dict(zip(("grpc_port", "http_port", "metrics_port"), ports, strict=True))
        (tmp_path / "settings.json").write_text(json.dumps({**settings, "host": "127.0.0.1", "parallel_workers": 0}))
        (tmp_path / "model-settings.json").write_text('{"name": "teacher", "implementation": "teacher.Teacher"}')
        command = [str(tmp_path / "env/bin/mlserver"), "start", "."]
    with running(command, tmp_path, ports[0]) as found:
        yield found


def test_it_is_asked_by_its_own_names_and_a_label_is_refused(address: str) -> None:
    inputs = {"x": np.array([[0.25, 0], [0.5, 0]], np.float32), "text": strings(["\N{SNOWMAN}", "b"])[:, None]}

    def client_of(output: str) -> TeacherClient:
        names = {"text": "words"}
        return TeacherClient(TeacherSection(address=address, output=output, inputs=names, timeout_s=30.0))

    with contextlib.closing(client_of("scores")) as client:
        answer = client.ask(inputs)
    with contextlib.closing(client_of("label")) as client, pytest.raises(TeacherRefused, match="datatype BYTES"):
        client.ask(inputs)

    assert answer.output_BC.tolist() == [[0.25, 0.75], [0.5, 0.5]]
