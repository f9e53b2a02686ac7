"""A teacher for tests: a real gRPC server inside this process, that answers, fails, refuses or dawdles as a test says."""

import contextlib
import threading
from collections.abc import Callable, Iterator
from concurrent import futures
from typing import Any

import grpc
import numpy as np

from protos import inference_pb2 as pb
from registry.sections import TensorSpec
from serving.config import TeacherSection
from serving.rpc.convert import infer_response, read_inputs
from serving.rpc.inference_pb2_grpc import GRPCInferenceServiceServicer, add_GRPCInferenceServiceServicer_to_server

NUM_CLASSES = 3
OUTPUT = "probabilities"
INPUT = TensorSpec(name="bytes", datatype="INT32", shape=(-1, 4))


def rows(num_rows: int = 1) -> dict[str, np.ndarray[Any, Any]]:
    """Return inputs for the fake teacher."""
    return {INPUT.name: np.arange(num_rows * 4, dtype=np.int32).reshape(num_rows, 4)}


def good_answer(request: pb.ModelInferRequest) -> pb.ModelInferResponse:
    """Answer each row with probability 1 for class 0."""
    num_rows = len(read_inputs(request)[INPUT.name])
    output_BC = np.eye(NUM_CLASSES, dtype=np.float32)[[0] * num_rows]
    return infer_response(request.model_name, "teacher-7", {OUTPUT: output_BC}, request_id=request.id)


class FakeTeacher(GRPCInferenceServiceServicer):
    """Answers with `answer`; while `codes` holds statuses, each call takes the first and fails with it.

    Args:
        codes: statuses of the next calls, in order.
        answer: what a call that doesn't fail is answered.
    """

    def __init__(
        self,
        codes: tuple[grpc.StatusCode, ...] = (),
        answer: Callable[[pb.ModelInferRequest], pb.ModelInferResponse] = good_answer,
    ) -> None:
        self.codes = list(codes)
        self.answer = answer
        self.requests: list[pb.ModelInferRequest] = []
        self.dawdle = threading.Event()
        self.dawdle.set()

    def ModelInfer(self, request: pb.ModelInferRequest, context: grpc.ServicerContext) -> pb.ModelInferResponse:
        """Do as the test says; while `dawdle` is cleared, wait for it."""
        self.requests.append(request)
        assert self.dawdle.wait(20)
        if self.codes:
            context.abort(self.codes.pop(0), "as the test says")
        return self.answer(request)


@contextlib.contextmanager
def serving(teacher: GRPCInferenceServiceServicer, *, address: str = "127.0.0.1:0") -> Iterator[str]:
    """Serve a teacher and return its address."""
    server = grpc.server(futures.ThreadPoolExecutor(8), options=[("grpc.so_reuseport", 0)])
    add_GRPCInferenceServiceServicer_to_server(teacher, server)  # type: ignore[no-untyped-call]
    port = server.add_insecure_port(address)
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        if isinstance(teacher, FakeTeacher):
            teacher.dawdle.set()
        server.stop(0).wait()


def settings(address: str, **values: Any) -> TeacherSection:
    """Return the settings of a client of the fake teacher."""
    return TeacherSection.model_validate({"address": address, "output": OUTPUT, "timeout_s": 5.0, **values})
