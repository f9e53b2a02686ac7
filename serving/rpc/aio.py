"""`AsyncInferenceClient`: the client of serving/rpc/client.py for asyncio, with the same calls, errors and promises.

    async with AsyncInferenceClient("127.0.0.1:8001", retries=2) as client:
        answer = await client.infer("my-service", {"text": ["what is my balance"]})

Belongs to the event loop that it was made in.
"""

import asyncio
import contextlib
import functools
import time
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any

import grpc
import grpc.aio

from protos import inference_pb2 as pb
from serving.rpc.answers import CHANNEL_OPTIONS, Answer, Ask, InFlight, Input, answer_of, feedback_request
from serving.rpc.control_pb2_grpc import FeedbackStub
from serving.rpc.convert import Parameter
from serving.rpc.errors import HIDDEN_STATUS, Retry, RpcError, Unavailable, as_error, check_address, closed, error_of
from serving.rpc.inference_pb2_grpc import GRPCInferenceServiceStub
from serving.rpc.stream import DEFAULT_WINDOW

Requests = Iterable[Mapping[str, Input]] | AsyncIterable[Mapping[str, Input]]


class AsyncInferenceClient:
    """A connection to one server; also an async context manager. Arguments as of `InferenceClient`."""

    def __init__(self, address: str, *, timeout_s: float = 5.0, retries: int = 0) -> None:
        self.address = check_address(address)
        self._timeout_s = timeout_s
        self._retry = Retry(retries)
        self._channel = grpc.aio.insecure_channel(address, options=list(CHANNEL_OPTIONS))
        self._stub = GRPCInferenceServiceStub(self._channel)  # type: ignore[no-untyped-call]
        self._feedback = FeedbackStub(self._channel)  # type: ignore[no-untyped-call]

    async def __aenter__(self) -> "AsyncInferenceClient":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def infer(
        self,
        model: str,
        inputs: Mapping[str, Input],
        *,
        version: str = "",
        outputs: Sequence[str] = (),
        request_id: str = "",
        parameters: Mapping[str, Parameter] | None = None,
        timeout_s: float | None = None,
    ) -> Answer:
        """Ask a model; arguments and errors as of `InferenceClient.infer`."""
        request = Ask(model, version, tuple(outputs), parameters).request(inputs, request_id)
        start = time.monotonic()
        response, retries = await self._call(self._stub.ModelInfer, request, timeout_s)
        return answer_of(response, time.monotonic() - start, retries)

    async def stream(
        self,
        model: str,
        requests: Requests,
        *,
        version: str = "",
        outputs: Sequence[str] = (),
        parameters: Mapping[str, Parameter] | None = None,
        timeout_s: float | None = None,
        window: int = DEFAULT_WINDOW,
    ) -> AsyncGenerator[Answer | RpcError, None]:
        """Ask many times over one stream and yield answers in order; arguments and errors as of `InferenceClient.stream`.

        Args:
            requests: inputs of each request; an ordinary iterable must not wait.
        """
        ask = Ask(model, version, tuple(outputs), parameters)
        allowed_s = self._timeout_s if timeout_s is None else timeout_s
        call = functools.partial(self._invoke, self._stub.ModelStreamInfer)
        stream = _Stream(call, self.address, ask, requests, allowed_s, self._retry, window)
        async with contextlib.aclosing(stream.answers()) as answers:
            async for answer in answers:
                yield answer

    async def feedback(
        self, model: str, record_id: str | bytes, label: str | int, row: int = 0, *, timeout_s: float | None = None
    ) -> None:
        """Say what was true of one row; arguments and errors as of `InferenceClient.feedback`."""
        await self._call(self._feedback.Send, feedback_request(model, record_id, label, row), timeout_s)

    async def ready(self, model: str = "", *, timeout_s: float | None = None) -> bool:
        """Return whether the server, or a model of it, says that it is ready; False where it is away."""
        allowed_s = self._timeout_s if timeout_s is None else timeout_s
        try:
            if model:
                request = pb.ModelReadyRequest(name=model)
                return bool((await self._invoke(self._stub.ModelReady, request, timeout=allowed_s)).ready)
            return bool((await self._invoke(self._stub.ServerReady, pb.ServerReadyRequest(), timeout=allowed_s)).ready)
        except (grpc.RpcError, Unavailable):
            return False

    async def metadata(self, model: str, *, timeout_s: float | None = None) -> pb.ModelMetadataResponse:
        """Return what the server says of a model; raises RpcError as `infer`."""
        response: pb.ModelMetadataResponse
        response, _ = await self._call(self._stub.ModelMetadata, pb.ModelMetadataRequest(name=model), timeout_s)
        return response

    async def index(self, *, timeout_s: float | None = None) -> list[pb.RepositoryIndexResponse.ModelIndex]:
        """Return the server's models with version and state; raises RpcError as `infer`."""
        response, _ = await self._call(self._stub.RepositoryIndex, pb.RepositoryIndexRequest(), timeout_s)
        return list(response.models)

    async def close(self) -> None:
        """Close the connection; calls in flight are cancelled, and later ones raise Unavailable."""
        await self._channel.close()

    def _invoke(self, method: Callable[..., Any], request: Any, **options: Any) -> Any:
        """Begin a call; raises Unavailable where this client is closed, for which gRPC has an error of its own."""
        try:
            return method(request, **options)
        except grpc.aio.UsageError:
            raise closed(self.address) from None

    async def _call(self, method: Callable[..., Any], request: Any, timeout_s: float | None) -> tuple[Any, int]:
        """Call until it is answered, or trying again is over; returns the answer and the number of retries."""
        allowed_s = self._timeout_s if timeout_s is None else timeout_s
        end, retries = time.monotonic() + allowed_s, 0
        while True:
            try:
                return await self._invoke(method, request, timeout=max(0.0, end - time.monotonic())), retries
            except grpc.RpcError as caught:
                error = as_error(self.address, caught, timeout_s=allowed_s, retries=retries)
            pause_s = self._retry.pause_s(error, retries, end - time.monotonic())
            if pause_s is None:
                raise error
            await asyncio.sleep(pause_s)
            retries += 1


class _Stream:
    """The pipelined requests of one async generator: a feeding task, and one reading coroutine at a time."""

    def __init__(
        self,
        method: Callable[..., Any],
        address: str,
        ask: Ask,
        requests: Requests,
        timeout_s: float,
        retry: Retry,
        window: int,
    ) -> None:
        self._method = method
        self._address = address
        self._ask = ask
        self._requests = requests
        self._timeout_s = timeout_s
        self._retry = retry
        self._window = window
        self._in_flight = InFlight(address)
        self._room = asyncio.Condition()
        self._outbox: asyncio.Queue[pb.ModelInferRequest | None] = asyncio.Queue()
        self._fed = False

    async def answers(self) -> AsyncGenerator[Answer | RpcError, None]:
        """Yield each request's answer or error, in the order of the requests."""
        feeder = asyncio.create_task(self._feed())
        retries, call = 0, None
        try:
            while True:
                call = self._open()
                error, answered = None, False
                while True:
                    event = await self._next(call, feeder)
                    if not isinstance(event, pb.ModelStreamInferResponse):
                        error = event
                        break
                    answered = True
                    self._in_flight.take(event)
                    for answer in list(self._in_flight.in_order()):
                        yield answer
                    async with self._room:
                        self._room.notify_all()
                if error is None:
                    return
                retries = 0 if answered else retries
                pause_s = self._retry.pause_s(error, retries, self._timeout_s - self._in_flight.silent_s)
                if pause_s is None:
                    raise self._in_flight.given_up(error, retries)
                await asyncio.sleep(pause_s)
                retries += 1
        finally:
            feeder.cancel()
            if call is not None:
                call.cancel()
            await asyncio.wait({feeder})
            if not feeder.cancelled():
                feeder.exception()  # looked at: it was raised already, or the caller left first

    def _open(self) -> Any:
        """Start a call; what an earlier one left without an answer goes first."""
        self._outbox.put_nowait(None)
        outbox = self._outbox = asyncio.Queue()
        for request in self._in_flight.unanswered():
            outbox.put_nowait(request)
        if self._fed:
            outbox.put_nowait(None)
        return self._method(_until_none(outbox))

    async def _next(self, call: Any, feeder: "asyncio.Task[None]") -> pb.ModelStreamInferResponse | RpcError | None:
        """Return the next answer, the error that broke the call, or None where all is answered."""
        reading: asyncio.Task[Any] = asyncio.create_task(call.read())
        try:
            while not reading.done():
                waited_for = {reading} if feeder.done() else {reading, feeder}
                await asyncio.wait(waited_for, timeout=0.1, return_when=asyncio.FIRST_COMPLETED)
                if feeder.done() and not feeder.cancelled() and feeder.exception() is not None:
                    raise feeder.exception()  # type: ignore[misc]
                if not reading.done() and self._in_flight.silent_s > self._timeout_s:
                    return self._in_flight.silence(self._timeout_s)
        finally:
            if not reading.done():
                reading.cancel()
        try:
            response = reading.result()
        except grpc.aio.AioRpcError as error:
            return await self._why_broken(error)
        if response is not grpc.aio.EOF:
            answer: pb.ModelStreamInferResponse = response
            return answer
        if self._fed and not self._in_flight.num_unanswered:
            return None
        return error_of("UNAVAILABLE", f"{self._address} ended the stream before every request was answered")

    async def _why_broken(self, error: grpc.aio.AioRpcError) -> RpcError:
        """Return a broken call's error; where grpc has lost its status, what an empty stream is told by the server."""
        told: grpc.RpcError = error
        if error.details() == HIDDEN_STATUS:
            probe = self._method(iter(()), timeout=self._timeout_s)
            try:
                await probe.read()
            except grpc.RpcError as reason:
                told = reason
            probe.cancel()
        return as_error(self._address, told, timeout_s=self._timeout_s)

    async def _feed(self) -> None:
        """Send the caller's requests as there is room."""
        source = _each(self._requests)
        while True:
            async with self._room:
                await self._room.wait_for(lambda: len(self._in_flight) < self._window)
            inputs = await anext(source, None)
            if inputs is None:
                break
            self._outbox.put_nowait(self._in_flight.add(self._ask.request(inputs)))
        self._fed = True
        self._outbox.put_nowait(None)


async def _until_none(outbox: "asyncio.Queue[pb.ModelInferRequest | None]") -> AsyncIterator[pb.ModelInferRequest]:
    while (request := await outbox.get()) is not None:
        yield request


async def _each(requests: Requests) -> AsyncIterator[Mapping[str, Input]]:
    if isinstance(requests, AsyncIterable):
        async for inputs in requests:
            yield inputs
    else:
        for inputs in requests:
            yield inputs
