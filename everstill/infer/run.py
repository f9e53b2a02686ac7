"""`everstill infer`: sends rows to a gateway and prints one JSON line for each, in order; what fails is a line too, and the rest goes on.

Decides what a line says. Several calls are on their way at once, so that the gateway's batcher and workers have work; a stream
instead keeps everything on one connection. A thread of its own reads the rows, the caller's thread prints.
"""

import collections
import dataclasses
import json
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, BinaryIO, TextIO

import numpy as np

from everstill.infer.rows import Options, Row, batches, join, read
from protos.errors import EverstillError
from protos.tensors import Array
from registry.sections import TensorSpec
from serving.rpc.client import Answer, InferenceClient, RpcError

PROGRESS_S = 5.0
#: Rows that sum to 1 within this, and lie between 0 and 1, are probabilities already (a teacher that answers for itself).
SUM_TOLERANCE = 1e-3

#: A batch with its call, what reading it raised, or None where it isn't sent.
Waiting = tuple[list[Row], Future[Answer | RpcError] | BaseException | None]


@dataclasses.dataclass(frozen=True)
class Order:
    """What shall be asked and printed.

    Args:
        output: name of the output that is ranked; the first where empty.
        labels: names of the classes, or none.
        top: how many classes a line names.
        raw: print all outputs as they are instead.
        batch: rows of one request.
        in_flight: requests on their way at once.
        stream: whether they go over one stream, one after the other, instead of side by side.
    """

    model: str
    files: tuple[str, ...] = ()
    options: Options = dataclasses.field(default_factory=Options)
    output: str = ""
    labels: tuple[str, ...] = ()
    top: int = 1
    raw: bool = False
    batch: int = 1
    in_flight: int = 16
    stream: bool = False


class Infer:
    """One run. Counts what was answered and what failed."""

    def __init__(self, client: InferenceClient, order: Order, out: TextIO, say: Callable[[str], None]) -> None:
        self._client = client
        self._order = order
        self._out = out
        self._say = say
        self._started = self._said_at = time.monotonic()
        self._versions: set[str] = set()
        self.num_answered = 0
        self.num_failed = 0

    def run(self, stdin: BinaryIO) -> int:
        """Answer everything; returns the exit code: 1 where a row failed.

        Raises:
            EverstillError: the server is away, has no such model, or a file can't be read.
        """
        rows = read(self._order.files, stdin, specs_of(self._client, self._order.model), self._order.options)
        pending = batches(rows, self._order.batch)
        for batch, answer in self._streamed(pending) if self._order.stream else self._called(pending):
            self._print(batch, answer)
        seconds = time.monotonic() - self._started
        versions = f", version {', '.join(sorted(self._versions))}" if self._versions else ""
        self._say(f"{self.num_answered:,} answered, {self.num_failed:,} failed in {seconds:.1f} s{versions}")
        return 1 if self.num_failed else 0

    def _called(self, pending: Iterator[list[Row]]) -> Iterator[tuple[list[Row], Answer | RpcError | None]]:
        """Yield each batch with its answer, in order; calls run side by side, and a slow reader holds nothing back."""
        waiting: queue.Queue[Waiting | None] = queue.Queue(maxsize=self._order.in_flight)
        pool = ThreadPoolExecutor(self._order.in_flight, thread_name_prefix="infer")

        def feed() -> None:
            try:
                for batch in pending:
                    waiting.put((batch, None if batch[0].error else pool.submit(self._call, batch)))
                waiting.put(None)
            except Exception as error:  # a supervision point: it is raised where the answers are read
                waiting.put(([], error))

        threading.Thread(target=feed, name="infer-read", daemon=True).start()
        try:
            while (one := waiting.get()) is not None:
                batch, answer = one
                if isinstance(answer, BaseException):
                    raise answer
                yield batch, answer.result() if answer else None
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def _call(self, batch: list[Row]) -> Answer | RpcError:
        try:
            return self._client.infer(self._order.model, join(batch))
        except RpcError as error:
            return error

    def _streamed(self, pending: Iterator[list[Row]]) -> Iterator[tuple[list[Row], Answer | RpcError | None]]:
        """Yield each batch with its answer, all over one stream; raises RpcError where the stream breaks."""
        sent: collections.deque[list[Row]] = collections.deque()

        def requests() -> Iterator[dict[str, Array]]:
            for batch in pending:
                sent.append(batch)
                if not batch[0].error:
                    yield join(batch)

        for answer in self._client.stream(self._order.model, requests(), window=self._order.in_flight):
            while sent[0][0].error:
                yield sent.popleft(), None
            yield sent.popleft(), answer
        while sent:
            yield sent.popleft(), None

    def _print(self, batch: list[Row], answer: Answer | RpcError | None) -> None:
        """Print a batch's lines; without an answer, it is a row that was never sent."""
        for place, row in enumerate(batch):
            if answer is None:
                self._write(row, {"error": row.error, "code": "INVALID_ARGUMENT"})
                self.num_failed += 1
            elif isinstance(answer, RpcError):
                self._write(row, {"error": answer.message, "code": answer.code})
                self.num_failed += 1
            else:
                which = {"record_id": answer.record_id, **({"row": place} if len(batch) > 1 else {})}
                self._write(row, {"version": answer.version, **which, **self._body(answer, place)})
                self._versions.add(answer.version)
                self.num_answered += 1
        if time.monotonic() - self._said_at > PROGRESS_S:
            self._said_at = time.monotonic()
            self._say(f"{self.num_answered:,} answered, {self.num_failed:,} failed")

    def _body(self, answer: Answer, place: int) -> dict[str, Any]:
        order, outputs = self._order, answer.outputs
        name = order.output or next(iter(outputs), "")
        if name not in outputs:
            raise EverstillError(f"the answer has no output {name!r}", fix=f"It has {', '.join(outputs)}: see --output")
        scores = outputs[name]
        if order.raw or scores.ndim != 2 or scores.dtype.kind != "f":
            chosen = {name: scores} if order.output else outputs
            return {"outputs": {key: _plain(one[place]) for key, one in chosen.items()}}
        return {"top": top_classes(scores[place], order.top, order.labels)}

    def _write(self, row: Row, body: dict[str, Any]) -> None:
        known = {"id": row.request_id} if row.request_id is not None else {}
        line = {"source": row.source, "line": row.line, **known, **body}
        print(json.dumps(line, ensure_ascii=False), file=self._out, flush=self._out.isatty())


def specs_of(client: InferenceClient, model: str) -> tuple[TensorSpec, ...]:
    """Return what a served model takes."""
    metadata = client.metadata(model)
    return tuple(
        TensorSpec(name=one.name, datatype=one.datatype, shape=(-1, *one.shape[1:])) for one in metadata.inputs
    )


def top_classes(scores_C: Array, num: int, labels: Sequence[str]) -> list[dict[str, Any]]:
    """Return the best classes with their probability: softmax of logits, for display."""
    wide_C = scores_C.astype(np.float64)
    total = float(wide_C.sum())
    if not (wide_C.min() >= 0 and abs(total - 1.0) < SUM_TOLERANCE):
        exponents_C = np.exp(wide_C - wide_C.max())
        wide_C = exponents_C / exponents_C.sum()
    best = np.argsort(-wide_C, kind="stable")[:num]
    return [
        {
            "class": int(one),
            **({"label": labels[one]} if one < len(labels) else {}),
            "probability": round(float(wide_C[one]), 6),
        }
        for one in best
    ]


def _plain(row: Array) -> Any:
    if row.dtype.kind == "O":
        return (
            [one.decode(errors="replace") for one in row.reshape(-1)]
            if row.ndim
            else row.item().decode(errors="replace")
        )
    return row.tolist()
