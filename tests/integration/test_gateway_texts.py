"""A model of texts through every process of a real gateway: windows for the student, texts for the teacher, streams, a graceful stop."""

import contextlib
import pathlib
import queue

import grpc
import numpy as np
import pytest
from onnx import helper

from protos import columns
from protos import inference_pb2 as pb
from protos import records_pb2 as records
from protos.embedded_stream import connect
from protos.tensors import Array, from_record, strings, text_window
from registry.bundle import GOLDEN, MANIFEST, MODEL, Manifest, version_of, write_bundle
from registry.golden import pack_golden
from registry.sections import TensorSpec
from registry.store import ObjectStore
from serving.rpc.convert import infer_request, infer_response, read_inputs, read_outputs
from serving.rpc.inference_pb2_grpc import GRPCInferenceServiceStub
from tests.support.callers import refused
from tests.support.gateways import gateway
from tests.support.graphs import graph
from tests.support.teachers import FakeTeacher, serving
from tests.support.waiting import wait_for

LENGTH = 8
TEXT = TensorSpec(name="text", datatype="BYTES", shape=(-1,))
SETTINGS = """
[model]
name = "filetypes"
num_classes = 2
inputs = [{ name = "text", datatype = "BYTES", shape = [-1] }]
extra_outputs = [{ name = "length", datatype = "INT64", shape = [-1] }]
"""


def text_graph() -> bytes:
    """Return a graph over windows of bytes: logits [first byte, 0], and how many bytes the window holds."""
    nodes = [
        helper.make_node("Cast", ["text"], ["float"], to=1),
        helper.make_node("MatMul", ["float", "first"], ["logits"]),
        helper.make_node("Less", ["text", "padding"], ["is_byte"]),
        helper.make_node("Cast", ["is_byte"], ["ones"], to=7),
        helper.make_node("ReduceSum", ["ones", "axis"], ["length"], keepdims=0),
    ]
    first = np.zeros((LENGTH, 2), np.float32)
    first[0, 0] = 1
    constants: dict[str, Array] = {
        "first": first,
        "padding": np.array(256, np.int32),
        "axis": np.array([1], np.int64),
    }
    outputs = [("logits", "FP32", ["batch", 2]), ("length", "INT64", ["batch"])]
    return graph(nodes, [("text", "INT32", ["batch", LENGTH])], outputs, constants)


def publish(store: ObjectStore) -> str:
    """Write a version that reads texts and return its digest."""
    texts = strings(["a", "", "longer than eight bytes"])
    logits_BC = np.stack([text_window(texts, LENGTH)[:, 0], np.zeros(3)], axis=1).astype(np.float32)
    manifest = Manifest(
        model="filetypes",
        created="2026-01-01T00:00:00Z",
        origin="bootstrap",
        parent=None,
        inputs=(TEXT,),
        output=TensorSpec(name="logits", datatype="FP32", shape=(-1, 2)),
        teacher_version="teacher-1",
        pairs_learned=0,
        steps=0,
        parity_max_abs=0.0,
        student={},
    )
    files = {MODEL: text_graph(), GOLDEN: pack_golden({"text": texts}, logits_BC)}
    return write_bundle(store, {MANIFEST: manifest.model_dump_json().encode(), **files})


def as_a_teacher_of_texts(request: pb.ModelInferRequest) -> pb.ModelInferResponse:
    texts = read_inputs(request)["text"]
    scores_BC = np.tile(np.array([[0.25, 0.75]], np.float32), (len(texts), 1))
    return infer_response(request.model_name, "teacher-7", {"scores": scores_BC}, request_id=request.id)


def asking(texts: list[str], request_id: str = "") -> pb.ModelInferRequest:
    return infer_request("filetypes", {"text": strings(texts)}, request_id=request_id)


def test_texts_are_answered_streamed_and_shown_to_the_teacher(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EVERSTILL_TEACHER__OUTPUT", "scores")
    monkeypatch.setenv("EVERSTILL_CAPTURE__RATE", "1.0")
    monkeypatch.setenv("EVERSTILL_TEACHER__BUDGET_RATIO", "1.0")
    teacher = FakeTeacher(answer=as_a_teacher_of_texts)
    sent: queue.SimpleQueue[pb.ModelInferRequest | None] = queue.SimpleQueue()
    with serving(teacher) as address, gateway(tmp_path, settings=SETTINGS, teacher=address) as running:
        digest = publish(running.store)
        running.point(digest)
        running.wait_for_live(version_of(digest))
        with grpc.insecure_channel(running.address()) as channel:
            stub = GRPCInferenceServiceStub(channel)  # type: ignore[no-untyped-call]
            outputs = read_outputs(stub.ModelInfer(asking(["abc", "", "\N{SNOWMAN}" * 9]), timeout=10))
            answers = stub.ModelStreamInfer(iter(sent.get, None), timeout=30)
            for number in range(3):
                sent.put(asking(["b" * number], str(number)))
            streamed = [next(answers).infer_response for _ in range(3)]
            pairs = wait_for(lambda: pairs_of(tmp_path, 6), deadline_s=30, what="six pairs")

            assert running.stop() == 0
            status, sentence = refused(lambda: next(answers))
            sent.put(None)

    assert outputs["logits"][:, 0].tolist() == [97, 256, 0xE2]
    assert outputs["length"].tolist() == [3, 0, LENGTH]
    assert [(one.id, read_outputs(one)["length"].tolist()) for one in streamed] == [("0", [0]), ("1", [1]), ("2", [2])]
    texts = {from_record(pair.inputs[0]).item() for pair in pairs}
    assert texts == {b"abc", b"", "\N{SNOWMAN}".encode() * 9, b"b", b"bb"}
    assert all(pair.teacher.version == "teacher-7" for pair in pairs)
    assert (status, "stopping" in sentence) == ("UNAVAILABLE", True)


def pairs_of(folder: pathlib.Path, num: int) -> list[records.LogitPair]:
    """Return the pairs on a gateway's stream, once there are so many."""
    path = folder / "everstill-data/stream.sqlite"
    if not path.exists():
        return []
    with contextlib.closing(connect(path)) as stream:
        batches = stream.execute("SELECT value FROM message WHERE topic LIKE '%.pairs'").fetchall()
    found = [pair for (value,) in batches for pair in columns.unpack(records.PairBatch.FromString(value))]
    return found if len(found) == num else []
