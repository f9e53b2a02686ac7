"""Connections to a gateway of several workers: each is a TCP connection of its own, and it can be told which worker has it."""

import contextlib
import socket
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import grpc

from protos import inference_pb2 as pb
from protos.tensors import Array
from serving.rpc.convert import infer_request, read_outputs
from serving.shadow.ring import Ring

METHOD = "/inference.GRPCInferenceService/ModelInfer"
MOST_TRIES = 64


def free_ports(num: int) -> list[int]:
    """Return ports of this machine that nobody listens on now."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(num)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


class Answered(NamedTuple):
    """What a gateway said."""

    version: str
    top: int
    record_id: bytes


class Connection:
    """One TCP connection. Without the option, gRPC shares one among all channels of a process."""

    def __init__(self, address: str) -> None:
        self._channel = grpc.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)])
        self._infer: Any = self._channel.unary_unary(METHOD, None, pb.ModelInferResponse.FromString)

    def infer(self, model: str, inputs: Mapping[str, Array], *, timeout_s: float = 10.0) -> Answered:
        """Ask; raises grpc.RpcError."""
        answer = self._infer(infer_request(model, inputs).SerializeToString(), timeout=timeout_s)
        logits = next(iter(read_outputs(answer).values()))
        record_id = bytes.fromhex(answer.parameters["record_id"].string_param)
        return Answered(answer.model_version, int(logits.argmax()), record_id)

    def close(self) -> None:
        """Close it."""
        self._channel.close()


@contextlib.contextmanager
def one_to_each(
    address: str, rings: Sequence[Ring], model: str, inputs: Mapping[str, Array]
) -> Iterator[list[Connection]]:
    """Return a connection to each worker, in their order: a ring counts the rows that its worker answered."""
    found: dict[int, Connection] = {}
    opened: list[Connection] = []
    try:
        while len(found) < len(rings):
            assert len(opened) < MOST_TRIES, f"{MOST_TRIES} connections all went to workers {sorted(found)}"
            opened.append(Connection(address))
            before = [ring.rows_seen for ring in rings]
            opened[-1].infer(model, inputs)
            grown = [number for number, ring in enumerate(rings) if ring.rows_seen > before[number]]
            found.setdefault(grown[0], opened[-1])
        yield [found[number] for number in range(len(rings))]
    finally:
        for connection in opened:
            connection.close()
