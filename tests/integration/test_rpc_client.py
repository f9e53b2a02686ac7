"""The typed clients: arrays in, arrays out, and every way in which a call may fail as one sentence of a class to act on."""

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import numpy as np
import pytest

from protos import inference_pb2 as pb
from protos.errors import TensorError, UnavailableError
from serving.gateway.refusal import overload
from serving.gateway.validation import oversized_answer
from serving.rpc.aio import AsyncInferenceClient
from serving.rpc.answers import Answer
from serving.rpc.client import InferenceClient, RpcError
from serving.rpc.convert import infer_response, read_inputs, read_parameters
from serving.rpc.errors import InvalidRequest, NotFound, Overloaded, Retry, Unavailable, Unimplemented
from tests.support.teachers import OUTPUT, FakeTeacher, rows, serving

Infer = Callable[..., Answer]
AWAY = "127.0.0.1:1"


@contextlib.contextmanager
def asking(teacher: FakeTeacher, *, timeout_s: float = 10.0, retries: int = 0) -> Iterator[InferenceClient]:
    with serving(teacher) as address, InferenceClient(address, timeout_s=timeout_s, retries=retries) as client:
        yield client


def infer_sync(address: str, *arguments: Any, timeout_s: float = 10.0, retries: int = 0, **options: Any) -> Answer:
    with InferenceClient(address, timeout_s=timeout_s, retries=retries) as client:
        return client.infer(*arguments, **options)


def infer_async(address: str, *arguments: Any, timeout_s: float = 10.0, retries: int = 0, **options: Any) -> Answer:
    async def run() -> Answer:
        async with AsyncInferenceClient(address, timeout_s=timeout_s, retries=retries) as client:
            return await client.infer(*arguments, **options)

    return asyncio.run(run())


@pytest.fixture(params=[infer_sync, infer_async], ids=["sync", "aio"])
def infer(request: pytest.FixtureRequest) -> Infer:
    chosen: Infer = request.param
    return chosen


def test_an_answer_has_outputs_version_and_latency(infer: Infer) -> None:
    with serving(FakeTeacher()) as address:
        answer = infer(address, "m", rows(2), request_id="mine")

    assert answer.outputs[OUTPUT].shape == (2, 3)
    assert (answer.version, answer.request_id, answer.retries) == ("teacher-7", "mine", 0)
    assert answer.latency_s > 0


def test_everything_arrives_as_it_was_sent(infer: Infer) -> None:
    with serving(teacher := FakeTeacher()) as address:
        infer(address, "m", rows(2), parameters={"no_capture": True, "slice": "eu"}, version="v1", outputs=[OUTPUT])

    (request,) = teacher.requests
    assert (request.model_name, request.model_version) == ("m", "v1")
    assert [one.name for one in request.outputs] == [OUTPUT]
    assert read_inputs(request)["bytes"].tolist() == rows(2)["bytes"].tolist()
    assert read_parameters(request.parameters) == {"no_capture": True, "slice": "eu"}


@pytest.mark.parametrize("texts", [["no", "ünï"], np.array(["no", "ünï"]), ["no", "ünï".encode()]])
def test_texts_become_a_bytes_input(texts: Any, infer: Infer) -> None:
    with serving(teacher := FakeTeacher()) as address:
        teacher.answer = lambda request: infer_response("m", "v", {"y": np.zeros((2, 1), np.float32)})
        infer(address, "m", {"text": texts})

    assert read_inputs(teacher.requests[0])["text"].tolist() == [b"no", "ünï".encode()]


def test_numbers_that_are_no_array_are_refused_before_anything_is_sent(infer: Infer) -> None:
    with pytest.raises(TensorError, match=r"input 'x' is no array\. Give a numpy array"):
        infer(AWAY, "m", {"x": [1.0, 2.0]})


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (grpc.StatusCode.INVALID_ARGUMENT, InvalidRequest),
        (grpc.StatusCode.NOT_FOUND, NotFound),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, Overloaded),
        (grpc.StatusCode.UNAVAILABLE, Unavailable),
        (grpc.StatusCode.UNIMPLEMENTED, Unimplemented),
        (grpc.StatusCode.INTERNAL, RpcError),
    ],
)
def test_a_refusal_names_server_status_and_sentence(code: grpc.StatusCode, kind: type, infer: Infer) -> None:
    with serving(FakeTeacher((code,))) as address, pytest.raises(RpcError) as caught:
        infer(address, "m", rows())

    assert type(caught.value) is kind
    assert caught.value.code == code.name
    assert caught.value.message == f"{address} answered {code.name}: as the test says"


def test_nothing_is_tried_twice_unless_asked_for(infer: Infer) -> None:
    with serving(teacher := FakeTeacher((grpc.StatusCode.UNAVAILABLE,))) as address, pytest.raises(Unavailable):
        infer(address, "m", rows())

    assert len(teacher.requests) == 1


@pytest.mark.parametrize("code", [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED])
def test_what_was_away_or_busy_is_tried_again_and_counted(code: grpc.StatusCode, infer: Infer) -> None:
    with serving(teacher := FakeTeacher((code, code))) as address:
        answer = infer(address, "m", rows(), retries=3)

    assert answer.retries == 2
    assert len(teacher.requests) == 3


@pytest.mark.parametrize("code", [grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.INTERNAL])
def test_what_would_fail_again_is_not_tried_again(code: grpc.StatusCode, infer: Infer) -> None:
    with serving(teacher := FakeTeacher((code,))) as address, pytest.raises(RpcError):
        infer(address, "m", rows(), retries=3)

    assert len(teacher.requests) == 1


def test_what_is_too_large_is_not_sent_again(infer: Infer) -> None:
    def refuse(request: Any, context: grpc.ServicerContext) -> Any:
        teacher.requests.append(request)
        context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, str(oversized_answer(9, 10**8, "Send fewer rows")))

    teacher = FakeTeacher()
    teacher.ModelInfer = refuse  # type: ignore[method-assign]
    with serving(teacher) as address, pytest.raises(Overloaded):
        infer(address, "m", rows(), retries=3)

    assert len(teacher.requests) == 1


@pytest.mark.parametrize(
    ("sentence", "again"),
    [
        ("the request has 5000000 bytes. Send at most 4194304", False),
        ("Received message larger than max (8388623 vs. 4194304)", False),
        ("CLIENT: Sent message larger than max (70000000 vs. 67108864)", False),
        ("grpc: received message larger than max (5 vs. 4)", False),
        ("gRPC message exceeds maximum size 4194304: 5000000", False),
        (str(overload(256)), True),
        ("this gateway has no memory for the request. Send fewer rows in a request", True),
    ],
)
def test_only_what_may_fit_later_is_tried_again(sentence: str, again: bool) -> None:
    error = Overloaded(f"there:1 answered RESOURCE_EXHAUSTED: {sentence}", "RESOURCE_EXHAUSTED")

    assert (Retry(1).pause_s(error, 0, remaining_s=10.0) is not None) == again


def test_retries_have_an_end_and_the_error_counts_them(infer: Infer) -> None:
    with (
        serving(teacher := FakeTeacher((grpc.StatusCode.UNAVAILABLE,) * 9)) as address,
        pytest.raises(Unavailable) as caught,
    ):
        infer(address, "m", rows(), retries=2)

    assert caught.value.retries == 2
    assert len(teacher.requests) == 3


def test_a_pause_that_would_pass_the_deadline_is_not_begun() -> None:
    retry, error = Retry(5, first_s=1.0), Unavailable("away", "UNAVAILABLE")

    assert retry.pause_s(error, 0, remaining_s=0.0) is None
    pauses = [retry.pause_s(error, num, remaining_s=10.0) for num in (0, 1, 2) for _ in range(50)]
    assert all(pause is not None and 0 <= pause <= 2.0 for pause in pauses)


def test_a_call_ends_at_its_deadline(infer: Infer) -> None:
    teacher = FakeTeacher()
    teacher.dawdle.clear()

    with serving(teacher) as address, pytest.raises(RpcError, match=r"gave no answer within 0\.2 s") as caught:
        infer(address, "m", rows(), timeout_s=0.2)

    assert caught.value.code == "DEADLINE_EXCEEDED"


def test_one_call_may_have_less_time_than_the_others() -> None:
    with asking(teacher := FakeTeacher(), timeout_s=30.0) as client:
        teacher.dawdle.clear()

        with pytest.raises(RpcError, match=r"gave no answer within 0\.2 s"):
            client.infer("m", rows(), timeout_s=0.2)


def test_a_server_that_is_away_is_unavailable_and_not_ready() -> None:
    with InferenceClient(AWAY, timeout_s=2.0) as client:
        with pytest.raises(UnavailableError, match=r"nothing answers at 127\.0\.0\.1:1: .*onnection refused") as caught:
            client.infer("m", rows())
        assert isinstance(caught.value, Unavailable)
        assert not client.ready()
        assert not client.ready("m")
        with pytest.raises(Unavailable):
            client.metadata("m")
        with pytest.raises(Unavailable):
            client.index()


def use_closed_sync(use: Callable[[Any], Any]) -> Any:
    client = InferenceClient(AWAY)
    client.close()
    return use(client)


def use_closed_async(use: Callable[[Any], Any]) -> Any:
    async def run() -> Any:
        client = AsyncInferenceClient(AWAY)
        await client.close()
        used = use(client)
        return [one async for one in used] if hasattr(used, "__aiter__") else await used

    return asyncio.run(run())


@pytest.mark.parametrize("use_closed", [use_closed_sync, use_closed_async], ids=["sync", "aio"])
def test_a_closed_client_says_that_it_is(use_closed: Callable[[Callable[[Any], Any]], Any]) -> None:
    uses: tuple[Callable[[Any], Any], ...] = (
        lambda client: client.infer("m", rows()),
        lambda client: client.index(),
        lambda client: (
            list(client.stream("m", [rows()])) if isinstance(client, InferenceClient) else client.stream("m", [rows()])
        ),
    )
    for use in uses:
        with pytest.raises(Unavailable, match=r"this client of 127\.0\.0\.1:1 was closed before the call"):
            use_closed(use)
    assert use_closed(lambda client: client.ready()) is False


@pytest.mark.parametrize("client", [InferenceClient, AsyncInferenceClient])
@pytest.mark.parametrize("address", ["", " "])
def test_an_empty_address_is_refused_before_grpc_has_it(client: Any, address: str) -> None:
    with pytest.raises(InvalidRequest, match="the server's address is empty; give host:port"):
        client(address)


class Describing(FakeTeacher):
    """Answers what is asked about models."""

    def ModelReady(self, request: pb.ModelReadyRequest, context: grpc.ServicerContext) -> pb.ModelReadyResponse:
        return pb.ModelReadyResponse(ready=request.name == "m")

    def ModelMetadata(self, request: Any, context: grpc.ServicerContext) -> pb.ModelMetadataResponse:
        return pb.ModelMetadataResponse(name=request.name, versions=["v1"])

    def RepositoryIndex(self, request: Any, context: grpc.ServicerContext) -> pb.RepositoryIndexResponse:
        model = pb.RepositoryIndexResponse.ModelIndex(name="m", version="v1", state="READY")
        return pb.RepositoryIndexResponse(models=[model])


def test_models_are_listed_described_and_ready() -> None:
    with asking(Describing()) as client:
        assert [(one.name, one.state) for one in client.index()] == [("m", "READY")]
        assert client.metadata("m").versions == ["v1"]
        assert (client.ready("m"), client.ready("n")) == (True, False)


def test_the_asynchronous_client_lists_and_describes_too() -> None:
    async def run(address: str) -> tuple[Any, ...]:
        async with AsyncInferenceClient(address) as client:
            index, metadata = await client.index(), await client.metadata("m")
            return index[0].name, metadata.name, await client.ready("m"), await client.ready("n"), await client.ready()

    with serving(Describing()) as address:
        assert asyncio.run(run(address)) == ("m", "m", True, False, False)
