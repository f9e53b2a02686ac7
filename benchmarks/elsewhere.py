"""A stand-in for a teacher on a machine of its own: `python -m benchmarks.elsewhere`.

Takes as long for a row as magika's model takes here, but sleeps through it: a teacher elsewhere uses none of this machine's
cores. What it answers is one fixed probability for each class; nothing that is measured looks at it.
"""

import json
import math
import signal
import threading
import time
from concurrent import futures

import grpc
import numpy as np

from benchmarks.students import MODEL_SETTINGS
from protos.tensors import numpy_type
from serving.config import TeacherSection
from serving.rpc.convert import infer_response

#: Magika's time for one row, alone on one quiet core.
ROW_S = 0.0035


class Elsewhere:
    """Answers every ModelInfer call after the time that its rows would take; the request isn't even parsed."""

    def __init__(self) -> None:
        spec = MODEL_SETTINGS.inputs[0]
        self._row_bytes = math.prod(spec.shape[1:]) * numpy_type(spec.datatype).itemsize
        self._turn = threading.Lock()
        self._answers: dict[int, bytes] = {}

    def infer(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        """Wait for its turn, sleep, answer."""
        num_rows = len(request) // self._row_bytes
        with self._turn:
            time.sleep(ROW_S * num_rows)
        if num_rows not in self._answers:
            output_BC = np.full((num_rows, MODEL_SETTINGS.num_classes), 1 / MODEL_SETTINGS.num_classes, np.float32)
            answer = infer_response("teacher", "elsewhere", {TeacherSection().output: output_BC})
            self._answers[num_rows] = answer.SerializeToString()
        return self._answers[num_rows]


def main() -> int:
    """Serve on a free port, say which, and stop on SIGTERM."""
    stopping = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopping.set())
    server = grpc.server(futures.ThreadPoolExecutor(8))
    method: grpc.RpcMethodHandler[bytes, bytes] = grpc.unary_unary_rpc_method_handler(Elsewhere().infer)
    service = grpc.method_handlers_generic_handler("inference.GRPCInferenceService", {"ModelInfer": method})
    server.add_generic_rpc_handlers((service,))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print(json.dumps({"event": "started", "address": f"127.0.0.1:{port}"}), flush=True)
    while not stopping.wait(1.0):
        pass
    server.stop(1.0).wait(5.0)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
