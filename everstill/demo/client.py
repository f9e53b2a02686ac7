"""The demo's caller: sends inputs at a steady pace, several at once, and notes what came back. It never retries: a failure counts."""

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from everstill.demo.score import Sent
from protos.tensors import Array
from serving.rpc.client import InferenceClient, RpcError

CALLERS = 8
CALL_TIMEOUT_S = 10.0


def send_all(
    address: str,
    model: str,
    inputs: Sequence[Array],
    requests_per_s: float,
    *,
    on_sent: Callable[[Sent], None],
    keep_going: Callable[[], bool],
) -> list[Sent]:
    """Send each input once, at the pace, and return what was answered, in order.

    Args:
        on_sent: told about each answer, from the callers' threads, one at a time.
        keep_going: asked before each request; may raise.
    """
    client = InferenceClient(address, timeout_s=CALL_TIMEOUT_S)
    lock = threading.Lock()
    start = time.monotonic()

    def call(index: int) -> Sent:
        begun = time.monotonic()
        try:
            answer = client.infer(model, {"bytes": inputs[index]})
            top = int(np.argmax(next(iter(answer.outputs.values()))[0]))
            sent = Sent(index, begun - start, answer.version, top, answer.latency_s)
        except RpcError as error:
            sent = Sent(index, begun - start, "", -1, time.monotonic() - begun, error.code)
        with lock:
            on_sent(sent)
        return sent

    futures: list[Future[Sent]] = []
    pool = ThreadPoolExecutor(CALLERS, thread_name_prefix="demo-caller")
    try:
        for index in range(len(inputs)):
            wait_s = start + index / requests_per_s - time.monotonic()
            if wait_s > 0:
                time.sleep(wait_s)
            if not keep_going():
                break
            futures.append(pool.submit(call, index))
        return [future.result() for future in futures]
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        client.close()


def ask_each(
    address: str, model: str, output: str, inputs: Sequence[Array], on_progress: Callable[[int], None]
) -> tuple[list[int], list[float]]:
    """Ask a server about each input alone; returns top classes and latencies in seconds."""
    client = InferenceClient(address, timeout_s=CALL_TIMEOUT_S)
    tops, latencies = [], []
    try:
        for number, one in enumerate(inputs, start=1):
            answer = client.infer(model, {"bytes": one})
            tops.append(int(np.argmax(answer.outputs[output][0])))
            latencies.append(answer.latency_s)
            on_progress(number)
    finally:
        client.close()
    return tops, latencies
