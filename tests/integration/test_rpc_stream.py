"""Streams of both clients: answers in order, one request's error in its place, and after a break nothing is asked twice."""

import asyncio
import contextlib
import pathlib
import re
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from typing import Any

import numpy as np
import pytest

from protos import inference_pb2 as pb
from serving.rpc import answers
from serving.rpc.aio import AsyncInferenceClient
from serving.rpc.answers import Answer
from serving.rpc.client import InferenceClient
from serving.rpc.errors import DeadlineExceeded, InvalidRequest, RpcError, Unavailable, Unimplemented
from tests.support.gateways import gateway
from tests.support.streams import FakeStream, doubled, inputs
from tests.support.students import publish_student
from tests.support.teachers import FakeTeacher, serving

Outcome = list[int | RpcError]
Run = Callable[..., Outcome]


def run_sync(
    address: str, values: Iterable[int], *, retries: int = 0, timeout_s: float = 10.0, **options: Any
) -> Outcome:
    with InferenceClient(address, retries=retries, timeout_s=timeout_s) as client:
        return [plain(one) for one in client.stream("m", map(inputs, values), **options)]


def run_async(
    address: str, values: Iterable[int], *, retries: int = 0, timeout_s: float = 10.0, **options: Any
) -> Outcome:
    async def run() -> Outcome:
        async with AsyncInferenceClient(address, retries=retries, timeout_s=timeout_s) as client:
            return [plain(one) async for one in client.stream("m", map(inputs, values), **options)]

    return asyncio.run(run())


def plain(one: Answer | RpcError) -> int | RpcError:
    return one if isinstance(one, RpcError) else int(one.outputs["y"][0, 0])


@pytest.fixture(params=[run_sync, run_async], ids=["sync", "aio"])
def run(request: pytest.FixtureRequest) -> Run:
    chosen: Run = request.param
    return chosen


def test_answers_come_in_the_order_of_the_requests(run: Run) -> None:
    with serving(FakeStream(shuffle=True)) as address:
        assert run(address, range(100)) == [2 * value for value in range(100)]


def test_one_request_s_error_is_a_value_in_its_place(run: Run) -> None:
    with serving(FakeStream()) as address:
        first, error, last = run(address, [1, -5, 2])

    assert (first, last) == (2, 4)
    assert isinstance(error, InvalidRequest)
    assert error.message == f"{address} answered INVALID_ARGUMENT: -5 is negative"


@pytest.mark.parametrize(
    ("sentence", "code"),
    [
        ("input 'x' has wrong shape", "INVALID_ARGUMENT"),
        ("Request for unknown model: 'm2' is not found", "NOT_FOUND"),
        ("m", "UNIMPLEMENTED"),
    ],
)
def test_errors_of_servers_that_name_no_status_get_one(sentence: str, code: str, run: Run) -> None:
    def refuse(request: pb.ModelInferRequest) -> pb.ModelStreamInferResponse:
        return pb.ModelStreamInferResponse(error_message=sentence, infer_response=pb.ModelInferResponse(id=request.id))

    with serving(FakeStream(answer=refuse)) as address:
        (error,) = run(address, [1])

    assert isinstance(error, RpcError)
    assert error.code == code


def test_a_stream_without_requests_is_empty(run: Run) -> None:
    with serving(FakeStream()) as address:
        assert run(address, []) == []


def test_no_more_requests_are_read_than_the_window_allows(run: Run) -> None:
    read: list[int] = []

    def values() -> Iterator[int]:
        for value in range(50):
            read.append(value)
            yield value

    with serving(FakeStream(silent=True)) as address, pytest.raises(DeadlineExceeded):
        run(address, values(), timeout_s=0.3, window=4)

    assert len(read) == 4


def test_a_broken_stream_raises_where_nothing_is_tried_again(run: Run) -> None:
    with serving(FakeStream(lives=(2,))) as address, pytest.raises(Unavailable) as caught:
        run(address, range(10))

    assert caught.value.retries == 0


def test_after_breaks_each_request_has_one_answer(run: Run) -> None:
    with serving(FakeStream(lives=(3, 2))) as address:
        assert run(address, range(10), retries=3) == [2 * value for value in range(10)]


def test_after_a_break_only_what_has_no_answer_is_asked_again() -> None:
    # Not with asyncio: there grpc drops answers that arrived while a write failed.
    with serving(server := FakeStream(lives=(3, 2))) as address:
        run_sync(address, range(10), retries=1)

    assert server.num_calls == 3
    answered_first = server.values[:3]
    assert not set(answered_first) & set(server.values[4:])


def test_a_stream_that_keeps_breaking_gives_up(run: Run) -> None:
    with serving(server := FakeStream(lives=(0,) * 9)) as address, pytest.raises(Unavailable) as caught:
        run(address, range(3), retries=2)

    assert caught.value.retries == 2
    assert server.num_calls == 3


def test_silence_ends_at_the_deadline(run: Run) -> None:
    with serving(FakeStream(silent=True)) as address, pytest.raises(DeadlineExceeded, match=r"no answer within 0\.2 s"):
        run(address, [1], timeout_s=0.2)


def test_a_server_that_answers_steadily_is_not_silent(run: Run) -> None:
    def slowly(request: pb.ModelInferRequest) -> pb.ModelStreamInferResponse:
        threading.Event().wait(0.05)
        return doubled(request)

    with serving(FakeStream(answer=slowly)) as address:  # the last one waits for three times the timeout
        assert run(address, range(30), timeout_s=0.5) == [2 * value for value in range(30)]


def test_a_stream_that_dies_says_what_happened_and_how_far_it_came(run: Run) -> None:
    with serving(FakeStream(lives=(2,))) as address, pytest.raises(Unavailable) as broken:
        run(address, range(3))
    with serving(FakeStream(silent=True)) as address, pytest.raises(DeadlineExceeded) as silent:
        run(address, range(3), timeout_s=0.2)

    assert re.search(r"\(\d of 3 requests sent on this stream were answered\)", broken.value.message)
    assert silent.value.message.endswith("within 0.2 s (0 of 3 requests sent on this stream were answered)")


def test_silence_counts_from_the_last_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    in_flight, ask = answers.InFlight("there:1"), answers.Ask("m")
    first, _ = (in_flight.add(ask.request(inputs(value))) for value in (1, 2))

    now[0] = 104.0
    waited_s = in_flight.silent_s
    in_flight.take(doubled(first))
    now[0] = 106.0

    assert (waited_s, in_flight.silent_s) == (4.0, 2.0)
    assert in_flight.silence(5.0).message == "there:1 gave no answer within 5 s since its last one"


def test_what_the_requests_raise_reaches_the_caller(run: Run) -> None:
    def values() -> Iterator[int]:
        yield 1
        raise LookupError("no more rows")

    with serving(FakeStream(silent=True)) as address, pytest.raises(LookupError, match="no more rows"):
        run(address, values())


def test_a_server_without_streams_says_so(run: Run) -> None:
    with serving(FakeTeacher()) as address, pytest.raises(Unimplemented):
        run(address, [1])


def test_leaving_a_stream_early_ends_it() -> None:
    def forever() -> Iterator[dict[str, np.ndarray]]:
        value = 0
        while True:
            yield inputs(value)
            value += 1

    with serving(FakeStream()) as address, InferenceClient(address) as client:
        answers = client.stream("m", forever())
        with contextlib.closing(answers):  # type: ignore[type-var]
            first = next(answers)

    assert plain(first) == 0


def test_an_asynchronous_source_may_wait_between_requests() -> None:
    async def slowly() -> AsyncIterator[dict[str, np.ndarray]]:
        for value in range(3):
            await asyncio.sleep(0)
            yield inputs(value)

    async def run(address: str) -> Outcome:
        async with AsyncInferenceClient(address) as client:
            return [plain(one) async for one in client.stream("m", slowly())]

    with serving(FakeStream()) as address:
        assert asyncio.run(run(address)) == [0, 2, 4]


def test_a_real_gateway_refuses_one_request_of_a_stream_and_answers_the_others(tmp_path: pathlib.Path) -> None:
    good, bad = {"bytes": np.zeros((1, 2048), np.int32)}, {"bytes": np.zeros((1, 7), np.int32)}
    with gateway(tmp_path) as running:
        digest = publish_student(running.store, winner=3)
        running.point(digest)
        running.wait_for_live(digest[:12])
        with InferenceClient(running.address(), timeout_s=20) as client:
            first, refused, last = client.stream("filetypes", [good, bad, good])
            (model,) = client.index()

    assert [one.version for one in (first, last) if isinstance(one, Answer)] == [digest[:12]] * 2
    assert isinstance(refused, InvalidRequest)
    assert "2048" in refused.message
    assert (model.name, model.version, model.state) == ("filetypes", digest[:12], "READY")
