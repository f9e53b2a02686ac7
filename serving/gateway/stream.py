"""ModelStreamInfer as Triton has it: a stream of requests, and for each, in their order, an answer or an error of its own.

Decides that the requests of one stream run one after another, so that versions never go back on it and a slow one holds up
nobody else, and that an error is a message and not the end (docs/decisions/0006). Each stream has a thread of its own, so that
idle streams take none from other callers, and a second one that reads ahead.
"""

import collections
import threading
from collections.abc import Callable, Iterator
from concurrent import futures

import grpc

from protos import inference_pb2 as pb
from serving.gateway.admission import Admission
from serving.gateway.refusal import Refusal, stopping
from serving.gateway.servicer import Arrived, Servicer, abort, counted
from serving.rpc.convert import write_parameters
from serving.telemetry import STREAMS

#: Requests of one stream that are read while another is answered; what comes after waits with the caller.
READ_AHEAD = 16
#: The metadata with which a caller asks for Triton's other way: the first error ends the stream, as its status.
ERRORS_END_THE_STREAM = ("triton_grpc_error", "true")
#: Triton's word that no further answer to this request will come.
FINAL = "triton_final_response"


class Streams:
    """The open streams of a server. gRPC calls it for each new one, in a thread of its pool.

    Args:
        admission: counts requests, those of streams among them.
        max_streams: streams that may be open at once.
    """

    def __init__(self, servicer: Servicer, admission: Admission, max_streams: int) -> None:
        self._servicer = servicer
        self._admission = admission
        self._max_streams = max_streams
        self._open: set[_Arriving] = set()
        self._stopping = False
        self._changing = threading.Lock()
        #: gRPC's name for "run this in that pool".
        self.experimental_thread_pool = futures.ThreadPoolExecutor(max_streams, thread_name_prefix="stream")

    @property
    def num_open(self) -> int:
        """Streams that are open."""
        return len(self._open)

    @property
    def full(self) -> bool:
        """Whether one more stream is one too many."""
        return self.num_open >= self._max_streams

    def too_many(self) -> Refusal:
        """Return the refusal of a stream that is one too many."""
        return Refusal(
            "RESOURCE_EXHAUSTED", "streams", f"{self._max_streams} streams are open already", fix="Close one first"
        )

    def stop(self) -> None:
        """Let every stream answer what it has read, and end."""
        with self._changing:
            self._stopping = True
            for arriving in self._open:
                arriving.stop()

    def __call__(
        self, requests: Iterator[Arrived], context: grpc.ServicerContext
    ) -> Iterator[pb.ModelStreamInferResponse]:
        """Answer a stream's requests until its caller has no more."""
        errors_end_it = any(
            (key, str(value).lower()) == ERRORS_END_THE_STREAM for key, value in context.invocation_metadata()
        )
        arriving = _Arriving(requests)
        self._change(self._open.add, arriving)
        threading.Thread(target=arriving.read, name="stream-read", daemon=True).start()
        try:
            while (request := arriving.take()) is not None:
                outcome = self._respond(request, context.time_remaining())
                if isinstance(outcome, Refusal) and errors_end_it:
                    abort(outcome, context)
                yield _message(request, outcome)
            if arriving.stopped:
                abort(counted(stopping()), context)
        finally:
            arriving.close()
            self._change(self._open.discard, arriving)

    def _respond(self, request: Arrived, remaining_s: float | None) -> pb.ModelInferResponse | Refusal:
        try:
            with self._admission.one_more():
                return self._servicer.respond(request, remaining_s)
        except Refusal as refusal:
            return counted(refusal)

    def _change(self, change: "Callable[[_Arriving], None]", arriving: "_Arriving") -> None:
        with self._changing:
            change(arriving)
            STREAMS.set(self.num_open)
            if self._stopping:
                arriving.stop()


class _Arriving:
    """What a stream's caller has sent and nobody has answered yet. One thread reads, one takes."""

    def __init__(self, requests: Iterator[Arrived]) -> None:
        self._requests = requests
        self._read: collections.deque[Arrived] = collections.deque()
        self._changed = threading.Condition()
        self._ended = False
        self.stopped = False

    def read(self) -> None:
        """Read ahead until the caller has no more, or nobody wants more."""
        try:
            for request in self._requests:
                with self._changed:
                    self._changed.wait_for(lambda: len(self._read) < READ_AHEAD or self._unwanted)
                    if self._unwanted:
                        return
                    self._read.append(request)
                    self._changed.notify_all()
        except grpc.RpcError:  # the caller went away
            return
        finally:
            self.close()

    def take(self) -> Arrived | None:
        """Return the next request, waiting for it; None is the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._read or self._unwanted)
            if not self._read:
                return None
            self._changed.notify_all()
            return self._read.popleft()

    def stop(self) -> None:
        """Read no more; what was read is still to be taken."""
        with self._changed:
            self.stopped = True
            self._changed.notify_all()

    def close(self) -> None:
        """Wait for nothing any more: the stream has ended on one side."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    @property
    def _unwanted(self) -> bool:
        return self._ended or self.stopped


def _message(request: Arrived, outcome: pb.ModelInferResponse | Refusal) -> pb.ModelStreamInferResponse:
    if isinstance(outcome, pb.ModelInferResponse):
        write_parameters(outcome.parameters, {FINAL: True})
        return pb.ModelStreamInferResponse(infer_response=outcome)
    message = pb.ModelStreamInferResponse(error_message=f"{outcome.code}: {outcome}")
    if isinstance(request, pb.ModelInferRequest):
        message.infer_response.id = request.id
        message.infer_response.model_name = request.model_name
    write_parameters(message.infer_response.parameters, {"code": outcome.code, "reason": outcome.reason, FINAL: True})
    return message
