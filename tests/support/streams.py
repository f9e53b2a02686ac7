"""A server for tests of the streaming clients: it answers each request, refuses some, changes the order, or breaks, as a test says."""

import threading
from collections.abc import Callable, Iterator

import grpc
import numpy as np

from protos import inference_pb2 as pb
from serving.rpc.convert import infer_response, read_inputs
from serving.rpc.inference_pb2_grpc import GRPCInferenceServiceServicer


def inputs(value: int) -> dict[str, np.ndarray]:
    """Return the inputs of one request."""
    return {"x": np.array([[value]], np.int64)}


def value_of(request: pb.ModelInferRequest) -> int:
    """Return what `inputs` was made of."""
    return int(read_inputs(request)["x"][0, 0])


def doubled(request: pb.ModelInferRequest) -> pb.ModelStreamInferResponse:
    """Answer with twice the value; refuse a negative one."""
    value = value_of(request)
    if value < 0:
        parameters = {"code": "INVALID_ARGUMENT"}
        refusal = infer_response(request.model_name, "", {}, request_id=request.id, parameters=parameters)
        return pb.ModelStreamInferResponse(
            error_message=f"INVALID_ARGUMENT: {value} is negative", infer_response=refusal
        )
    answer = infer_response("m", "v1", {"y": np.array([[2 * value]])}, request_id=request.id)
    return pb.ModelStreamInferResponse(infer_response=answer)


class FakeStream(GRPCInferenceServiceServicer):
    """Answers a stream's requests with `answer`.

    Args:
        lives: after how many answers each call breaks with UNAVAILABLE, call by call; calls after these don't.
        shuffle: answers requests in pairs, the second first.
        silent: reads and never answers, until the caller is gone.
    """

    def __init__(
        self,
        *,
        answer: Callable[[pb.ModelInferRequest], pb.ModelStreamInferResponse] = doubled,
        lives: tuple[int, ...] = (),
        shuffle: bool = False,
        silent: bool = False,
    ) -> None:
        self.answer = answer
        self.lives = list(lives)
        self.shuffle = shuffle
        self.silent = silent
        self.values: list[int] = []
        self.num_calls = 0

    def ModelStreamInfer(
        self, requests: Iterator[pb.ModelInferRequest], context: grpc.ServicerContext
    ) -> Iterator[pb.ModelStreamInferResponse]:
        """Answer one stream."""
        life = None
        for number, request in enumerate(_swapped(requests) if self.shuffle else requests):
            if number == 0:  # a call without a request is a client that asks why another one ended
                self.num_calls += 1
                life = self.lives.pop(0) if self.lives else None
            self.values.append(value_of(request))
            if number == life:
                context.abort(grpc.StatusCode.UNAVAILABLE, "as the test says")
            if not self.silent:
                yield self.answer(request)
        if self.silent:
            gone = threading.Event()
            if context.add_callback(gone.set):
                gone.wait(20)
        if life is not None:
            context.abort(grpc.StatusCode.UNAVAILABLE, "as the test says")


def _swapped(requests: Iterator[pb.ModelInferRequest]) -> Iterator[pb.ModelInferRequest]:
    for pair in zip(requests, requests, strict=True):  # an iterator twice: two by two
        yield from reversed(pair)
