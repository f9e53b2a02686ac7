"""The teacher's process over real gRPC: magika's model and a bundle's student, asked by our client and by Triton's."""

import contextlib
import io
import json
import pathlib
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
from grpc_health.v1 import health_pb2, health_pb2_grpc

from protos import inference_pb2 as pb
from protos.errors import ConfigurationError
from registry.bundle import MODEL
from serving.config import TeacherServerSection
from serving.rpc.client import InferenceClient, RpcError
from serving.rpc.convert import infer_request
from serving.rpc.inference_pb2_grpc import GRPCInferenceServiceStub
from serving.teacher import server as teacher_server
from tests.support.graphs import classifier
from tests.support.students import expected_logits, make_student_files

ROOT = pathlib.Path(__file__).parents[2]
ROWS = np.random.default_rng(7).integers(0, 256, (3, 2048)).astype(np.int32)


def start(folder: pathlib.Path, **settings: Any) -> subprocess.Popen[bytes]:
    lines = "\n".join(f"{key} = {json.dumps(value)}" for key, value in settings.items())
    (folder / "everstill.toml").write_text(f"[teacher_server]\n{lines}\n")
    command = [sys.executable, "-m", "serving.app", "teacher", "--config", str(folder / "everstill.toml")]
    return subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


@contextlib.contextmanager
def teacher_process(folder: pathlib.Path, **settings: Any) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """Run a teacher; yields its address and the process."""
    process = start(folder, port=0, **settings)
    try:
        assert process.stdout is not None
        event = json.loads(process.stdout.readline())
        assert event["event"] == "started"
        yield event["address"], process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


@pytest.fixture(scope="module")
def magika(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Return the address of a process that serves the model in magika's wheel."""
    with teacher_process(tmp_path_factory.mktemp("magika"), onnx="magika", threads=1) as (address, _):
        yield address


@pytest.fixture
def ours(magika: str) -> Iterator[InferenceClient]:
    client = InferenceClient(magika, timeout_s=20.0)
    yield client
    client.close()


def refused(call: Callable[[], Any]) -> tuple[str, str]:
    with pytest.raises(RpcError) as caught:
        call()
    return caught.value.code, caught.value.message


def test_magikas_model_answers_with_probabilities(ours: InferenceClient) -> None:
    answer = ours.infer("teacher", {"bytes": ROWS})

    (output_BC,) = answer.outputs.values()
    assert (output_BC.shape, output_BC.dtype) == ((3, 214), np.float32)
    np.testing.assert_allclose(output_BC.sum(axis=1), 1, atol=1e-3)
    assert len(answer.version) == 12


def test_tritons_client_gets_the_same_answer_in_the_same_process(ours: InferenceClient, magika: str) -> None:
    expected = ours.infer("teacher", {"bytes": ROWS})
    theirs = triton.InferenceServerClient(magika)
    tensor = triton.InferInput("bytes", ROWS.shape, "INT32")
    tensor.set_data_from_numpy(ROWS)
    try:
        assert theirs.is_server_live()
        assert theirs.is_server_ready()
        assert theirs.is_model_ready("teacher")
        answer = theirs.infer("teacher", [tensor], request_id="mine")
    finally:
        theirs.close()

    (name,) = expected.outputs
    np.testing.assert_array_equal(answer.as_numpy(name), expected.outputs[name])
    assert answer.get_response().id == "mine"


def test_tritons_client_reads_the_metadata(magika: str) -> None:
    theirs = triton.InferenceServerClient(magika)
    try:
        model = theirs.get_model_metadata("teacher", as_json=True)
        server = theirs.get_server_metadata(as_json=True)
    finally:
        theirs.close()

    assert model["inputs"] == [{"name": "bytes", "datatype": "INT32", "shape": ["-1", "2048"]}]
    assert (model["outputs"][0]["datatype"], server["name"]) == ("FP32", "everstill teacher")


def test_a_rows_answer_does_not_depend_on_its_batch(ours: InferenceClient) -> None:
    (together_BC,) = ours.infer("teacher", {"bytes": ROWS}).outputs.values()
    alone = [next(iter(ours.infer("teacher", {"bytes": ROWS[i : i + 1]}).outputs.values())) for i in range(len(ROWS))]

    np.testing.assert_allclose(np.concatenate(alone), together_BC, atol=1e-4)


@pytest.mark.parametrize(
    ("inputs", "sentence"),
    [
        ({"bytes": ROWS.astype(np.int64)}, "is INT64, the model takes INT32"),
        ({"bytes": ROWS[:, :100]}, "has shape [3, 100]"),
        ({"bytes": ROWS[0]}, "has shape [2048]"),
        ({"words": ROWS}, "input 'bytes' is missing"),
        ({"bytes": ROWS, "more": ROWS}, "unknown input 'more'. Known are bytes"),
    ],
)
def test_wrong_inputs_are_refused_with_a_sentence(ours: InferenceClient, inputs: Any, sentence: str) -> None:
    code, message = refused(lambda: ours.infer("teacher", inputs))

    assert code == "INVALID_ARGUMENT"
    assert sentence in message


def test_another_model_is_not_found(ours: InferenceClient) -> None:
    assert refused(lambda: ours.infer("other", {"bytes": ROWS}))[0] == "NOT_FOUND"
    assert refused(lambda: ours.metadata("other"))[0] == "NOT_FOUND"


def call(address: str, request: pb.ModelInferRequest) -> str:
    """Return the status of a call."""
    with grpc.insecure_channel(address) as channel:
        stub = GRPCInferenceServiceStub(channel)  # type: ignore[no-untyped-call]
        try:
            stub.ModelInfer(request, timeout=20)
        except grpc.RpcError as error:
            return error.code().name
    return "OK"


def test_a_version_that_it_does_not_have_is_not_found(magika: str) -> None:
    request = infer_request("teacher", {"bytes": ROWS})
    request.model_version = "7"

    assert call(magika, request) == "NOT_FOUND"


def test_an_unknown_output_is_refused(magika: str) -> None:
    assert call(magika, infer_request("teacher", {"bytes": ROWS}, outputs=["other"])) == "INVALID_ARGUMENT"


def test_grpc_health_says_serving(magika: str) -> None:
    with grpc.insecure_channel(magika) as channel:
        answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=20)

    assert answer.status == health_pb2.HealthCheckResponse.SERVING


def test_a_bundles_student_can_be_served_too(tmp_path: pathlib.Path) -> None:
    (tmp_path / "model.onnx").write_bytes(make_student_files(winner=5)[MODEL])
    with teacher_process(tmp_path, onnx=str(tmp_path / "model.onnx"), name="frozen", version="v7") as (address, _):
        client = InferenceClient(address)
        answer = client.infer("frozen", {"bytes": ROWS})
        client.close()

    np.testing.assert_allclose(answer.outputs["logits"], expected_logits(ROWS, 214, 5, 1.0), rtol=1e-5)
    assert answer.version == "v7"


def test_a_graph_with_strings_and_labels_is_served(tmp_path: pathlib.Path) -> None:
    (tmp_path / "model.onnx").write_bytes(classifier(classlabels_strings=["ham", "spam"]))
    with teacher_process(tmp_path, onnx="model.onnx", name="spam") as (address, _):
        client = InferenceClient(address)
        answer = client.infer("spam", {"x": np.array([[3, 1], [0, 2]], np.float32)})
        client.close()

    assert answer.outputs["label"].tolist() == [b"ham", b"spam"]
    assert answer.outputs["scores"].tolist() == [[3, 1], [0, 2]]


def test_health_says_not_serving_while_it_stops(tmp_path: pathlib.Path) -> None:
    (tmp_path / "model.onnx").write_bytes(make_student_files()[MODEL])
    teacher = teacher_server.start(TeacherServerSection(port=0, onnx=tmp_path / "model.onnx"))
    with grpc.insecure_channel(teacher.address) as channel:
        statuses = iter(health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(), timeout=20))
        assert next(statuses).status == health_pb2.HealthCheckResponse.SERVING

        stopping = threading.Thread(target=teacher.stop, args=(0.5,))
        stopping.start()

        assert next(statuses).status == health_pb2.HealthCheckResponse.NOT_SERVING
        stopping.join()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_stops_on_a_signal_and_frees_its_port(tmp_path: pathlib.Path, number: signal.Signals) -> None:
    (tmp_path / "model.onnx").write_bytes(make_student_files()[MODEL])
    with teacher_process(tmp_path, onnx=str(tmp_path / "model.onnx")) as (address, process):
        process.send_signal(number)

        assert process.wait(20) == 0
        with socket.socket() as probe:
            host, port = address.split(":")
            assert probe.connect_ex((host, int(port))) != 0


def one_line(process: subprocess.Popen[bytes]) -> tuple[int, str]:
    """Return exit code and the last line of standard error; there is no traceback."""
    _, errors = process.communicate(timeout=60)
    text = io.TextIOWrapper(io.BytesIO(errors)).read()
    assert "Traceback" not in text
    return process.returncode, text.strip().splitlines()[-1]


def test_a_taken_port_ends_it_with_one_line(tmp_path: pathlib.Path) -> None:
    (tmp_path / "model.onnx").write_bytes(make_student_files()[MODEL])
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]

        code, line = one_line(start(tmp_path, onnx=str(tmp_path / "model.onnx"), port=port))

    assert code == 4
    assert f"port {port} on 127.0.0.1 is taken" in line


def test_a_file_that_is_no_model_ends_it_with_one_line(tmp_path: pathlib.Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"not a model")

    code, line = one_line(start(tmp_path, onnx=str(tmp_path / "model.onnx"), port=0))

    assert code == 2
    assert "can't be loaded by ONNX Runtime" in line


def test_a_missing_file_is_named() -> None:
    with pytest.raises(ConfigurationError, match=r"nowhere\.onnx is not a file"):
        teacher_server.find_onnx("nowhere.onnx")


def test_a_call_whose_deadline_passed_while_it_waited_is_not_run(tmp_path: pathlib.Path) -> None:
    (tmp_path / "model.onnx").write_bytes(make_student_files()[MODEL])
    settings = TeacherServerSection(onnx=tmp_path / "model.onnx")
    servicer = teacher_server.TeacherServicer(settings, tmp_path / "model.onnx")

    with pytest.raises(Aborted, match="DEADLINE_EXCEEDED"):
        servicer.ModelInfer(infer_request("teacher", {"bytes": ROWS}), GoneCaller())  # type: ignore[arg-type]


class Aborted(Exception):
    """What gRPC's abort raises."""


class GoneCaller:
    """The context of a call whose deadline has passed."""

    def is_active(self) -> bool:
        """Nobody waits any more."""
        return False

    def abort(self, code: grpc.StatusCode, details: str) -> None:
        """Raise, as gRPC does."""
        raise Aborted(code.name)
