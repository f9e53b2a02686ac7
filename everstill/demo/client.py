"""The demo's caller: sends inputs at a steady pace, several at once, and notes what came back. It never retries: a failure counts."""

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from everstill.demo.score import Sent
from everstill.recipes.recipe import Row
from serving.rpc.client import InferenceClient, RpcError

CALLERS = 8
CALL_TIMEOUT_S = 10.0
#: Inputs that are asked about alone, for their latency, before the others are asked about in batches.
ALONE = 300


def send_all(
    address: str,
    model: str,
    rows: Sequence[Row],
    requests_per_s: float,
    *,
    on_sent: Callable[[Sent], None],
    before_each: Callable[[int], float],
) -> list[Sent]:
    """Send each input once, at the pace, and return what was answered, in order.

    Args:
        on_sent: told about each answer, from the callers' threads, one at a time.
        before_each: called with each request's index before it is sent; returns the seconds that it waited on purpose, by
            which everything after it is later. May raise, which ends the sending.
    """
    client = InferenceClient(address, timeout_s=CALL_TIMEOUT_S)
    lock = threading.Lock()
    start = time.monotonic()

    def call(index: int) -> Sent:
        begun = time.monotonic()
        try:
            answer = client.infer(model, rows[index])
            top = int(np.argmax(next(iter(answer.outputs.values()))[0]))
            sent = Sent(index, begun - start, answer.version, top, answer.latency_s)
        except RpcError as error:
            sent = Sent(index, begun - start, "", -1, time.monotonic() - begun, error.code)
        with lock:
            on_sent(sent)
        return sent

    futures: list[Future[Sent]] = []
    pool = ThreadPoolExecutor(CALLERS, thread_name_prefix="demo-caller")
    waited_s = 0.0
    try:
        for index in range(len(rows)):
            wait_s = start + waited_s + index / requests_per_s - time.monotonic()
            if wait_s > 0:
                time.sleep(wait_s)
            waited_s += before_each(index)
            futures.append(pool.submit(call, index))
        return [future.result() for future in futures]
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        client.close()


def ask_all(
    address: str, model: str, output: str, rows: Sequence[Row], on_progress: Callable[[int], None], *, batch: int = 1
) -> tuple[list[int], list[float]]:
    """Ask a server about every input; returns top classes in the order of the inputs, and latencies in seconds of single inputs.

    Args:
        on_progress: told after each call how many inputs are answered.
        batch: inputs in one call, all of one shape; the first few are asked about alone, for their latency.
    """
    client = InferenceClient(address, timeout_s=CALL_TIMEOUT_S)
    tops, latencies, num_answered = [-1] * len(rows), [], 0
    try:
        for places in lots(rows, batch):
            inputs = {name: np.concatenate([rows[place][name] for place in places]) for name in rows[places[0]]}
            answer = client.infer(model, inputs)
            for place, top in zip(places, answer.outputs[output].argmax(axis=1), strict=True):
                tops[place] = int(top)
            if len(places) == 1:
                latencies.append(answer.latency_s)
            num_answered += len(places)
            on_progress(num_answered)
    finally:
        client.close()
    return tops, latencies


def lots(rows: Sequence[Row], batch: int) -> list[list[int]]:
    """Return the places of inputs that are asked about in one call: inputs of one shape, the first few alone."""
    num_alone = len(rows) if batch == 1 else min(ALONE, len(rows))
    by_shape: dict[tuple[tuple[int, ...], ...], list[int]] = {}
    for place in range(num_alone, len(rows)):
        by_shape.setdefault(tuple(array.shape for array in rows[place].values()), []).append(place)
    batched = [same[start : start + batch] for same in by_shape.values() for start in range(0, len(same), batch)]
    return [[place] for place in range(num_alone)] + batched
