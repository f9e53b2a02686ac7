"""Calls of KServe's own Python client, run by an interpreter that has it: `python kserve_calls.py HOST:PORT`, one JSON line.

Imports nothing of ours: that interpreter doesn't have it.
"""

import asyncio
import json
import sys

import grpc
import numpy as np
from kserve import InferenceGRPCClient, InferInput, InferRequest


def request(model: str, text: str) -> InferRequest:
    """Return a request for the model `words`: one row of text and of numbers."""
    words, numbers = InferInput("text", [1], "BYTES"), InferInput("numbers", [1, 2], "FP32")
    words.set_data_from_numpy(np.array([text.encode()], object), binary_data=True)
    numbers.set_data_from_numpy(np.array([[1, 2]], np.float32), binary_data=True)
    return InferRequest(model_name=model, infer_inputs=[words, numbers], request_id="mine")


async def main(address: str) -> dict[str, object]:
    """Talk to a gateway and return what it said."""
    client = InferenceGRPCClient(address, timeout=10)
    answer = await client.infer(request("words", "gr\N{LATIN SMALL LETTER U WITH DIAERESIS}n"))
    try:
        await client.infer(request("other", ""))
        refused = ""
    except grpc.RpcError as error:
        refused = f"{error.code().name}: {error.details()}"
    return {
        "live": await client.is_server_live(),
        "ready": await client.is_server_ready(),
        "model_ready": await client.is_model_ready("words"),
        "id": answer.id,
        "version": answer.model_version,
        "outputs": {one.name: np.asarray(one.as_numpy()).tolist() for one in answer.outputs if one.datatype != "BYTES"},
        "names": [one.name for one in answer.outputs],
        "refused": refused,
    }


print(json.dumps(asyncio.run(main(sys.argv[1]))))
