"""A closed-loop load over gRPC, in a process of its own: N callers, each asking again as soon as it is answered.

`python -m benchmarks.load ADDRESS` reads commands from standard input, one a line: `start`, `stop FILE` (write what the calls
since `start` saw, and say so). It ends when its standard input does, and a run ends by itself after --limit-s, so no
load outlives a benchmark. Several processes' times compare: all are of the system's monotonic clock. Each caller has a connection of its own.
`Load` is the other side: what a benchmark uses to drive such a process.
"""

import argparse
import pathlib
import threading
import time
from typing import Any

import grpc
import numpy as np

from benchmarks.students import MODEL_SETTINGS, make_inputs
from benchmarks.told import Told, serve_load
from protos import inference_pb2 as pb
from serving.rpc.convert import infer_request, read_outputs

METHOD = "/inference.GRPCInferenceService/ModelInfer"
TIMEOUT_S = 10.0
#: Pause after a failed call, so that a server that is away isn't asked in a spin.
FAILED_PAUSE_S = 0.01

#: One call: when it was made (monotonic), how long it took, over which channel, which input, how it ended, and what the answer was.
RECORD = np.dtype(
    [
        ("start_s", np.float64),
        ("latency_s", np.float64),
        ("channel", np.int32),
        ("input", np.int32),
        ("code", "U24"),
        ("version", "U16"),
        ("top", np.int32),
        ("first_logit", np.float32),
    ]
)
Records = np.ndarray[Any, np.dtype[np.void]]


class Caller:
    """One thread that asks, again and again, about the inputs in turn."""

    def __init__(self, channel: grpc.Channel, number: int, requests: list[bytes], first: int) -> None:
        self.records: list[tuple[float, float, int, int, str, str, int, float]] = []
        self._number = number
        self._requests = requests
        self._next = first
        self._infer: Any = channel.unary_unary(METHOD, None, pb.ModelInferResponse.FromString)

    def run(self, stopping: threading.Event, limit_s: float) -> None:
        """Ask until told to stop, or until the time is up."""
        end = time.monotonic() + limit_s
        while not stopping.is_set() and time.monotonic() < end:
            self._ask(self._next)
            self._next = (self._next + 1) % len(self._requests)

    def _ask(self, place: int) -> None:
        start = time.monotonic()
        try:
            answer = self._infer(self._requests[place], timeout=TIMEOUT_S)
        except grpc.RpcError as error:
            code = error.code().name if isinstance(error, grpc.Call) else "UNKNOWN"
            self.records.append((start, time.monotonic() - start, self._number, place, code, "", -1, 0.0))
            time.sleep(FAILED_PAUSE_S)
            return
        latency_s = time.monotonic() - start
        logits_C = read_outputs(answer)[MODEL_SETTINGS.output][0]
        self.records.append(
            (
                start,
                latency_s,
                self._number,
                place,
                "OK",
                answer.model_version,
                int(logits_C.argmax()),
                float(logits_C[0]),
            )
        )


def serve(address: str, num_callers: int, num_channels: int, num_inputs: int, seed: int, limit_s: float) -> None:
    """Do as standard input says until it ends."""
    inputs = make_inputs(num_inputs, seed)
    requests = [infer_request(MODEL_SETTINGS.name, {"bytes": row[None]}).SerializeToString() for row in inputs]
    # A channel of its own is a connection of its own: gRPC shares one among all channels of a process.
    channels = [
        grpc.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)]) for _ in range(num_channels)
    ]
    callers = [
        Caller(channels[number % num_channels], number % num_channels, requests, number * num_inputs // num_callers)
        for number in range(num_callers)
    ]

    def begin(stopping: threading.Event) -> list[threading.Thread]:
        return [threading.Thread(target=one.run, args=(stopping, limit_s), daemon=True) for one in callers]

    def keep(path: str) -> None:
        records = [record for one in callers for record in one.records]
        np.save(path, np.array(sorted(records), RECORD), allow_pickle=False)
        for one in callers:
            one.records.clear()

    serve_load(begin, keep)


class Load(Told):
    """A load process that waits for `start`. Use as a context. Each caller has a channel, where no number of them is given."""

    def __init__(
        self,
        address: str,
        folder: pathlib.Path,
        num_callers: int,
        num_inputs: int,
        seed: int,
        num_channels: int | None = None,
        limit_s: float = 300.0,
    ) -> None:
        self._path = folder.resolve() / "records.npy"
        options = ["--callers", str(num_callers), "--channels", str(num_channels or num_callers)]
        options += ["--inputs", str(num_inputs), "--seed", str(seed), "--limit-s", str(limit_s)]
        super().__init__("benchmarks.load", address, *options)

    def start(self) -> None:
        """Let the callers begin."""
        self.tell("start")

    def stop(self) -> Records:
        """Let the callers end, and return what they saw, in order of time."""
        self.tell(f"stop {self._path}")
        self.hear()
        records: Records = np.load(self._path, allow_pickle=False)
        return records

    def run(self, seconds: float) -> Records:
        """Return what the callers saw in that time."""
        self.start()
        time.sleep(seconds)
        return self.stop()


def latencies_ms(records: Records) -> dict[str, float]:
    """Return quantiles of the answered calls' latency."""
    answered = records["latency_s"][records["code"] == "OK"]
    if not len(answered):
        return {}
    quantiles = {"p50": 0.5, "p99": 0.99, "p999": 0.999, "max": 1.0}
    return {name: round(float(np.quantile(answered, share)) * 1e3, 3) for name, share in quantiles.items()}


def main() -> None:
    """Read the command line and serve."""
    parser = argparse.ArgumentParser(prog="benchmarks.load", description=__doc__)
    parser.add_argument("address")
    parser.add_argument("--callers", type=int, default=8)
    parser.add_argument("--channels", type=int, default=8)
    parser.add_argument("--inputs", type=int, default=256)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--limit-s", type=float, default=300.0)
    parsed = parser.parse_args()
    serve(parsed.address, parsed.callers, parsed.channels, parsed.inputs, parsed.seed, parsed.limit_s)


if __name__ == "__main__":
    main()
