"""A stand-in for a teacher on a machine of its own: `python -m benchmarks.elsewhere`.

Takes as long for a row as magika's model takes here, but sleeps through it: a teacher elsewhere uses none of this machine's
cores. What it answers is one fixed probability for each class; nothing that is measured looks at it. With --by-input it names one class, that nobody can
learn, by the input's first bytes: then two students are right now and then, and neither stays ahead.
"""

import argparse
import json
import signal
import threading
import time
from concurrent import futures

import grpc
import numpy as np

from benchmarks.students import MODEL_SETTINGS
from protos import inference_pb2 as pb
from protos.tensors import Array
from serving.config import TeacherSection
from serving.rpc.convert import infer_response

#: Magika's time for one row, alone on one quiet core.
ROW_S = 0.0035


class Elsewhere:
    """Answers every ModelInfer call after the time that its rows would take, on one core of its own.

    Args:
        row_s: time of a row.
        num_classes: of the answer.
        output: name of the answer's tensor.
        by_input: whether an input decides its answer.
    """

    def __init__(self, row_s: float, num_classes: int, output: str, *, by_input: bool = False) -> None:
        self._row_s, self._num_classes, self._output = row_s, num_classes, output
        self._by_input = by_input
        self._turn = threading.Lock()
        self._answers: dict[int, bytes] = {}

    def infer(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        """Wait for its turn, sleep, answer."""
        asked = pb.ModelInferRequest.FromString(request)
        num_rows = int(asked.inputs[0].shape[0])
        if self._row_s:
            with self._turn:
                time.sleep(self._row_s * num_rows)
        if self._by_input:
            words_BN = np.frombuffer(asked.raw_input_contents[0], np.uint32).reshape(num_rows, -1)
            output_BC = np.full((num_rows, self._num_classes), 0.5 / self._num_classes, np.float32)
            output_BC[np.arange(num_rows), words_BN[:, 0] % self._num_classes] += 0.5
            return self._packed(output_BC)
        if num_rows not in self._answers:
            output_BC = np.full((num_rows, self._num_classes), 1 / self._num_classes, np.float32)
            self._answers[num_rows] = self._packed(output_BC)
        return self._answers[num_rows]

    def _packed(self, output_BC: Array) -> bytes:
        return infer_response("teacher", "elsewhere", {self._output: output_BC}).SerializeToString()


def main() -> int:
    """Serve on a free port, say which, and stop on SIGTERM."""
    parser = argparse.ArgumentParser(prog="benchmarks.elsewhere", description=__doc__)
    parser.add_argument("--row-s", type=float, default=ROW_S)
    parser.add_argument("--classes", type=int, default=MODEL_SETTINGS.num_classes)
    parser.add_argument("--by-input", action="store_true")
    parser.add_argument("--output", default=TeacherSection().output)
    parsed = parser.parse_args()
    stopping = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopping.set())
    teacher = Elsewhere(parsed.row_s, parsed.classes, parsed.output, by_input=parsed.by_input)
    server = grpc.server(futures.ThreadPoolExecutor(8))
    method: grpc.RpcMethodHandler[bytes, bytes] = grpc.unary_unary_rpc_method_handler(teacher.infer)
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
