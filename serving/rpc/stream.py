"""One `ModelStreamInfer` of the synchronous client: requests go out ahead of their answers, answers come back in order.

Decides how far ahead (the window), when a stream is given up (requests wait, and nothing was answered for the timeout), and that
after a break only what has no answer is sent again. One feeding thread reads the caller's requests, one listening thread for each call reads answers; the caller's own thread
takes them. They meet in two queues, and in the requests in flight, under one lock.
"""

import queue
import threading
import time
from collections.abc import Callable, Generator, Iterator
from typing import Any

import grpc

from protos import inference_pb2 as pb
from serving.rpc.answers import Answer, InFlight
from serving.rpc.errors import Retry, RpcError, as_error, error_of

DEFAULT_WINDOW = 32
#: How often the caller's thread looks at the clock, in seconds.
LOOK_S = 0.1


class Stream:
    """The pipelined requests of one generator. `answers` may be called once."""

    def __init__(
        self,
        method: Callable[..., Any],
        address: str,
        requests: Iterator[pb.ModelInferRequest],
        *,
        timeout_s: float,
        retry: Retry,
        window: int,
    ) -> None:
        self._method = method
        self._address = address
        self._requests = requests
        self._timeout_s = timeout_s
        self._retry = retry
        self._window = window
        self._in_flight = InFlight(address)
        self._room = threading.Condition()
        #: What the present call sends; None ends it.
        self._outbox: queue.SimpleQueue[pb.ModelInferRequest | None] = queue.SimpleQueue()
        #: (call, answer), (call, error that ended it, or None), (None, what the caller's requests raised).
        self._inbox: queue.SimpleQueue[tuple[Any, Any]] = queue.SimpleQueue()
        self._call: Any = None
        self._fed = False
        self._left = False

    def answers(self) -> Iterator[Answer | RpcError]:
        """Yield each request's answer or error, in the order of the requests."""
        threading.Thread(target=self._feed, name="stream-feed", daemon=True).start()
        retries = 0
        try:
            while True:
                self._open()
                error, answered = yield from self._take()
                if error is None:
                    return
                retries = 0 if answered else retries
                pause_s = self._retry.pause_s(error, retries, self._timeout_s - self._in_flight.silent_s)
                if pause_s is None:
                    raise self._in_flight.given_up(error, retries)
                time.sleep(pause_s)
                retries += 1
        finally:
            with self._room:
                self._left = True
                self._room.notify_all()
                self._outbox.put(None)
            if self._call is not None:
                self._call.cancel()

    def _open(self) -> None:
        """Start a call; what an earlier one left without an answer goes first."""
        with self._room:
            self._outbox.put(None)
            outbox = self._outbox = queue.SimpleQueue()
            for request in self._in_flight.unanswered():
                outbox.put(request)
            if self._fed:
                outbox.put(None)
        self._call = call = self._method(iter(outbox.get, None))
        threading.Thread(target=self._listen, args=(call,), name="stream-listen", daemon=True).start()

    def _take(self) -> Generator[Answer | RpcError, None, tuple[RpcError | None, bool]]:
        """Yield answers until the call is over; returns what broke it (None where all is answered) and whether it answered any."""
        answered = False
        while True:
            try:
                call, event = self._inbox.get(timeout=LOOK_S)
            except queue.Empty:
                with self._room:
                    late = self._in_flight.silent_s > self._timeout_s
                if late:
                    return self._in_flight.silence(self._timeout_s), answered
                continue
            if call is None:
                raise event
            if call is not self._call:
                continue  # the last words of a call that broke
            if not isinstance(event, pb.ModelStreamInferResponse):
                return self._why_over(event), answered
            with self._room:
                self._in_flight.take(event)
                ready = list(self._in_flight.in_order())
                self._room.notify_all()
            answered = True
            yield from ready

    def _why_over(self, error: RpcError | None) -> RpcError | None:
        """Return the error that a call's end means: none only where every request was read and answered."""
        with self._room:
            done = self._fed and not self._in_flight.num_unanswered
        if error is None and not done:
            return error_of("UNAVAILABLE", f"{self._address} ended the stream before every request was answered")
        return None if done else error

    def _feed(self) -> None:
        """Send the caller's requests as there is room; in a thread of its own."""
        try:
            while True:
                with self._room:
                    self._room.wait_for(lambda: self._left or len(self._in_flight) < self._window)
                    if self._left:
                        return
                request = next(self._requests, None)
                with self._room:
                    if request is None:
                        self._fed = True
                        self._outbox.put(None)
                        return
                    self._outbox.put(self._in_flight.add(request))
        except Exception as error:  # a supervision point: it is the caller's, and is raised in the caller's thread
            self._inbox.put((None, error))

    def _listen(self, call: Any) -> None:
        """Read one call's answers until it ends; in a thread of its own."""
        try:
            for response in call:
                self._inbox.put((call, response))
            self._inbox.put((call, None))
        except grpc.RpcError as error:
            self._inbox.put((call, as_error(self._address, error, timeout_s=self._timeout_s)))
