"""Callers that never let up: `python -m benchmarks.chaos.callers ADDRESS --rate R`, a load at a fixed pace in a process of its own.

Every call is due at a fixed time and its latency counts from then, so a gateway that stalls shows in all calls that were due meanwhile. With
rate 0 each caller asks again as soon as it is answered (full load). Commands on standard input: `start`, `stop FILE` (write what the calls saw), and it ends
with it. Times are of the system's monotonic clock. `Callers` is the other side.
"""

import argparse
import json
import os
import pathlib
import sys
import threading
import time
from typing import Any

import grpc
import numpy as np

from benchmarks.pairs import MODEL, NUM_FEATURES
from benchmarks.processes import Told
from protos import inference_pb2 as pb
from serving.rpc.convert import infer_request

METHOD = "/inference.GRPCInferenceService/ModelInfer"
TIMEOUT_S = 10.0
FAILED_PAUSE_S = 0.01
#: One call: when it was due, how long it took from then, how it ended, and the id that its answer carried.
RECORD = np.dtype([("due_s", np.float64), ("latency_s", np.float64), ("code", "U24"), ("record_id", "S32")])
Records = np.ndarray[Any, np.dtype[np.void]]


class Caller:
    """One thread that asks at its times."""

    def __init__(self, address: str, interval_s: float, seed: int) -> None:
        self.records: list[tuple[float, float, str, bytes]] = []
        self._interval_s = interval_s
        self._rng = np.random.default_rng(seed)
        channel = grpc.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)])
        self._infer: Any = channel.unary_unary(METHOD, None, pb.ModelInferResponse.FromString)

    def run(self, stopping: threading.Event, first_due_s: float) -> None:
        """Ask until told to stop."""
        due_s = first_due_s
        while not stopping.is_set():
            row = self._rng.standard_normal((1, NUM_FEATURES), np.float32)  # every input is a new one
            request = infer_request(MODEL, {"features": row}).SerializeToString()
            wait_s = due_s - time.monotonic()
            if wait_s > 0:
                time.sleep(wait_s)
            due_s = due_s if self._interval_s else time.monotonic()
            self._ask(request, due_s)
            due_s += self._interval_s

    def _ask(self, request: bytes, due_s: float) -> None:
        try:
            answer = self._infer(request, timeout=TIMEOUT_S)
        except grpc.RpcError as error:
            code = error.code().name if isinstance(error, grpc.Call) else "UNKNOWN"
            self.records.append((due_s, time.monotonic() - due_s, code, b""))
            time.sleep(FAILED_PAUSE_S)
            return
        record_id = answer.parameters["record_id"].string_param.encode()
        self.records.append((due_s, time.monotonic() - due_s, "OK", record_id))


class Callers(Told):
    """A load process that waits for `start`.

    Args:
        rate: calls a second of all callers, 0 for as many as they can.
        nice: its niceness, or None for ours.
    """

    def __init__(
        self,
        address: str,
        folder: pathlib.Path,
        *,
        rate: float,
        num_callers: int = 8,
        seed: int = 1,
        nice: int | None = None,
    ) -> None:
        self._path = folder / f"calls-{seed}.npy"
        self._nice = nice
        options = ("--rate", str(rate), "--callers", str(num_callers), "--seed", str(seed))
        super().__init__("benchmarks.chaos.callers", address, *options)

    def start(self) -> None:
        """Let the callers begin."""
        if self._nice is not None:
            for task in pathlib.Path(f"/proc/{self.process.pid}/task").iterdir():  # threads inherit it
                os.setpriority(os.PRIO_PROCESS, int(task.name), self._nice)
        self.tell("start")

    def stop(self) -> Records:
        """Let the callers end, and return what they saw, in order of time."""
        self.tell(f"stop {self._path}")
        self.hear()
        records: Records = np.load(self._path, allow_pickle=False)
        return records


def serve(callers: list[Caller], interval_s: float) -> None:
    """Do as standard input says until it ends."""
    stopping, threads = threading.Event(), list[threading.Thread]()
    print(json.dumps({"event": "ready"}), flush=True)
    for line in sys.stdin:
        command, _, path = line.strip().partition(" ")
        if command == "start":
            stopping.clear()
            first_s = time.monotonic()
            threads = [
                threading.Thread(
                    target=one.run, args=(stopping, first_s + place * interval_s / len(callers)), daemon=True
                )
                for place, one in enumerate(callers)
            ]
            for thread in threads:
                thread.start()
        elif command == "stop":
            stopping.set()
            for thread in threads:
                thread.join()
            np.save(path, np.array(sorted(record for one in callers for record in one.records), RECORD))
            for one in callers:
                one.records.clear()
            print(json.dumps({"event": "stopped"}), flush=True)
    stopping.set()


def main() -> None:
    """Read the command line and serve."""
    parser = argparse.ArgumentParser(prog="benchmarks.chaos.callers", description=__doc__)
    parser.add_argument("address")
    parser.add_argument("--callers", type=int, default=8)
    parser.add_argument("--rate", type=float, default=100.0)
    parser.add_argument("--seed", type=int, default=1)
    parsed = parser.parse_args()
    interval_s = parsed.callers / parsed.rate if parsed.rate else 0.0
    serve(
        [Caller(parsed.address, interval_s, parsed.seed * 1000 + number) for number in range(parsed.callers)],
        interval_s,
    )


if __name__ == "__main__":
    main()
