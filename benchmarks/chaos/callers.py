"""Callers that never let up: `python -m benchmarks.chaos.callers ADDRESS --rate R`, a load at a fixed pace in a process of its own.

Every call is due at a fixed time and its latency counts from then, so a gateway that stalls shows in all calls that were due meanwhile. With
rate 0 each caller asks again as soon as it is answered (full load). Beside them one thread says what was true of rows that were just answered, seldom
enough to slow nobody down. Commands on standard input: `start`, `stop FILE` (write what the calls saw), and it ends with it. Times are of the system's
monotonic clock. `Callers` is the other side.
"""

import argparse
import os
import pathlib
import threading
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import grpc
import numpy as np

from benchmarks.pairs import MODEL, NUM_CLASSES, NUM_FEATURES
from benchmarks.told import Told, serve_load
from protos import control_pb2
from protos import inference_pb2 as pb
from serving.rpc.convert import infer_request

INFER, FEEDBACK = "/inference.GRPCInferenceService/ModelInfer", "/everstill.v1.Feedback/Send"
TIMEOUT_S = 10.0
FAILED_PAUSE_S = 0.01
#: Of so many inputs one is a caller's first again: what counts inputs, not records, must tell them apart.
SAME_INPUT_EVERY = 8
#: A gateway whose hand-over is full says to try again later: how often, and for how long.
AGAIN_S, PATIENCE_S = 0.2, 120.0
#: One call: when it was due, how long it took from then, how it ended, and the id that its answer carried, or of the row that it was about.
RECORD = np.dtype([("due_s", np.float64), ("latency_s", np.float64), ("code", "U24"), ("record_id", "S32")])
Records = np.ndarray[Any, np.dtype[np.void]]
Record = tuple[float, float, str, bytes]


class Seen(NamedTuple):
    """What the callers saw: of their requests, and of their feedback."""

    calls: Records
    feedback: Records


class Caller:
    """One thread that asks at its times."""

    def __init__(self, address: str, interval_s: float, seed: int) -> None:
        self.records: list[Record] = []
        self._interval_s = interval_s
        self._rng = np.random.default_rng(seed)
        self._first = self._new_row()
        channel = _channel(address)
        self._infer: Any = channel.unary_unary(INFER, None, pb.ModelInferResponse.FromString)

    def run(self, stopping: threading.Event, first_due_s: float) -> None:
        """Ask until told to stop."""
        due_s, number = first_due_s, 0
        while not stopping.is_set():
            number += 1
            row = self._new_row() if number % SAME_INPUT_EVERY else self._first
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

    def _new_row(self) -> Any:
        return self._rng.standard_normal((1, NUM_FEATURES), np.float32)


class Informer:
    """One thread that says what was true of rows that were answered a moment ago, each row once, so many a second.

    What the gateway has no room for is sent again, as it asks: it fails only where that lasts.
    """

    def __init__(self, address: str, callers: list[Caller], rate: float, seed: int) -> None:
        self.records: list[Record] = []
        self._callers = callers
        self._interval_s = 1.0 / rate
        self._rng = np.random.default_rng(seed)
        channel = _channel(address)
        self._send: Any = channel.unary_unary(FEEDBACK, None, control_pb2.FeedbackResponse.FromString)

    def run(self, stopping: threading.Event) -> None:
        """Inform until told to stop."""
        said = {b""}
        while not stopping.wait(self._interval_s):
            caller = self._callers[self._rng.integers(len(self._callers))]
            record_id = caller.records[-1][3] if caller.records else b""
            if record_id not in said:
                said.add(record_id)
                self._say(record_id, str(self._rng.integers(NUM_CLASSES)))

    def _say(self, record_id: bytes, label: str) -> None:
        feedback = control_pb2.FeedbackRequest(record_id=bytes.fromhex(record_id.decode()), label=label)
        request = feedback.SerializeToString()
        due_s, code = time.monotonic(), ""
        while code != "OK":
            try:
                self._send(request, timeout=TIMEOUT_S)
                code = "OK"
            except grpc.RpcError as error:
                code = error.code().name if isinstance(error, grpc.Call) else "UNKNOWN"
                if code != "RESOURCE_EXHAUSTED" or time.monotonic() - due_s > PATIENCE_S:
                    break
                time.sleep(AGAIN_S)
        self.records.append((due_s, time.monotonic() - due_s, code, record_id))


class Callers(Told):
    """A load process that waits for `start`.

    Args:
        rate: calls a second of all callers, 0 for as many as they can.
        feedback_rate: rows a second of which they say afterwards what was true.
        nice: its niceness, or None for ours.
    """

    def __init__(
        self,
        address: str,
        folder: pathlib.Path,
        *,
        rate: float,
        feedback_rate: float = 0.0,
        num_callers: int = 8,
        seed: int = 1,
        nice: int | None = None,
    ) -> None:
        self._path = folder / f"calls-{seed}.npz"
        self._nice = nice
        options = ("--rate", str(rate), "--feedback-rate", str(feedback_rate), "--callers", str(num_callers))
        super().__init__("benchmarks.chaos.callers", address, *options, "--seed", str(seed))

    def start(self) -> None:
        """Let the callers begin."""
        if self._nice is not None:
            for task in pathlib.Path(f"/proc/{self.process.pid}/task").iterdir():  # threads inherit it
                os.setpriority(os.PRIO_PROCESS, int(task.name), self._nice)
        self.tell("start")

    def stop(self) -> Seen:
        """Let the callers end, and return what they saw, in order of time."""
        self.tell(f"stop {self._path}")
        self.hear()
        with np.load(self._path, allow_pickle=False) as kept:
            return Seen(kept["calls"], kept["feedback"])


def _channel(address: str) -> grpc.Channel:
    return grpc.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)])


def _take(each: Sequence[Caller | Informer]) -> Records:
    """Take out what they saw, in order of time."""
    records: Records = np.array(sorted(record for one in each for record in one.records), RECORD)
    for one in each:
        one.records.clear()
    return records


def main() -> None:
    """Read the command line and serve."""
    parser = argparse.ArgumentParser(prog="benchmarks.chaos.callers", description=__doc__)
    parser.add_argument("address")
    parser.add_argument("--callers", type=int, default=8)
    parser.add_argument("--rate", type=float, default=100.0)
    parser.add_argument("--feedback-rate", type=float, default=0.0)
    parser.add_argument("--seed", type=int, default=1)
    parsed = parser.parse_args()
    address, seed = parsed.address, parsed.seed * 1000
    interval_s = parsed.callers / parsed.rate if parsed.rate else 0.0
    callers = [Caller(address, interval_s, seed + number) for number in range(parsed.callers)]
    informers = [Informer(address, callers, parsed.feedback_rate, seed + len(callers))] if parsed.feedback_rate else []

    def begin(stopping: threading.Event) -> list[threading.Thread]:
        first_s = time.monotonic()
        dues_s = [first_s + place * interval_s / len(callers) for place in range(len(callers))]
        asking = [
            threading.Thread(target=one.run, args=(stopping, due_s), daemon=True)
            for one, due_s in zip(callers, dues_s, strict=True)
        ]
        return asking + [threading.Thread(target=one.run, args=(stopping,), daemon=True) for one in informers]

    serve_load(begin, lambda path: np.savez(path, calls=_take(callers), feedback=_take(informers)))


if __name__ == "__main__":
    main()
