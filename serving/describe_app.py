"""`python -m serving.app describe`: one line of JSON that says what a teacher takes and gives, from its file or from its server.

Decides nothing: `everstill init` and `everstill doctor` read it. Starts no server and leaves nothing behind.
"""

import argparse
import json
import os
import sys

from protos.errors import EverstillError
from serving.rpc.client import InferenceClient
from serving.teacher.graph import OnnxGraph
from serving.teacher.server import find_onnx

TIMEOUT_S = 10.0


def main(arguments: list[str]) -> int:
    """Describe one model on standard output; returns the exit code."""
    parser = argparse.ArgumentParser(prog="serving.app describe", description=__doc__)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--onnx", help="an ONNX file, or `magika`")
    source.add_argument("--address", help="host:port of a server of the Open Inference Protocol")
    parser.add_argument("--model", "--teacher-model", default="teacher", help="the model's name on that server")
    parsed = parser.parse_args(arguments)
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # its errors reach us as exceptions
    try:
        found = describe_file(parsed.onnx) if parsed.onnx else describe_server(parsed.address, parsed.model)
    except EverstillError as error:
        print(f"everstill describe: {error}", file=sys.stderr)
        return error.exit_code
    print(json.dumps(found))
    return 0


def describe_file(onnx: str) -> dict[str, object]:
    """Return what an ONNX file takes and gives.

    Raises:
        ConfigurationError: there is no such file, or it is no model.
    """
    graph = OnnxGraph(find_onnx(onnx))
    return {
        "inputs": [vars(tensor) for tensor in graph.inputs],
        "outputs": [vars(tensor) for tensor in graph.outputs],
        "labels": graph.labels,
        "sha256": graph.sha256,
    }


def describe_server(address: str, model: str) -> dict[str, object]:
    """Return what a server says of a model; labels and digest are not part of the protocol.

    Raises:
        RpcError: the server is away, or doesn't know the model.
    """
    client = InferenceClient(address, timeout_s=TIMEOUT_S)
    try:
        metadata = client.metadata(model)
    finally:
        client.close()
    sides = {"inputs": metadata.inputs, "outputs": metadata.outputs}
    found: dict[str, object] = {
        side: [{"name": one.name, "datatype": one.datatype, "shape": list(one.shape)} for one in tensors]
        for side, tensors in sides.items()
    }
    return {**found, "labels": None, "sha256": None}
