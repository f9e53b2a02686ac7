"""Triton's own Python client, unchanged, against a gateway: sync, asyncio and streams, in one process with our generated code."""

import asyncio
import queue
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from tritonclient.utils import InferenceServerException

from protos.tensors import datatype_of
from serving.rpc.convert import infer_request, read_outputs
from tests.support.callers import FakeSession, callers, good_inputs
from tests.support.kinds import BACK, INPUTS, KINDS, TABLE, kinds_graph, kinds_inputs, session_of

VERSION = "f" * 12


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    kinds = session_of(tmp_path_factory.mktemp("kinds"), KINDS, kinds_graph())
    with callers(FakeSession(), others=[(KINDS, kinds)]) as served:
        ours = read_outputs(served.infer(infer_request("kinds", kinds_inputs())))  # both copies live in one process
        assert ours["logits"].tolist() == TABLE[:1].tolist()
        yield served.address


@pytest.fixture
def client(address: str) -> Iterator[triton.InferenceServerClient]:
    connection = triton.InferenceServerClient(address)
    yield connection
    connection.close()


def kinds_tensors(num_rows: int = 2, module: Any = triton, **changed: np.ndarray) -> list[Any]:
    tensors = []
    for name, array in {**kinds_inputs(num_rows), **changed}.items():
        tensor = module.InferInput(name, array.shape, datatype_of(array))
        tensor.set_data_from_numpy(array)
        tensors.append(tensor)
    return tensors


def wanted(*names: str) -> list[Any]:
    return [triton.InferRequestedOutput(name) for name in names]


def test_the_server_says_what_it_is(client: triton.InferenceServerClient) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("kinds")
    assert client.is_model_ready("kinds", VERSION)
    assert not client.is_model_ready("kinds", "1")
    assert client.get_server_metadata().name == "everstill"
    assert [one.name for one in client.get_model_metadata("kinds").inputs] == list(INPUTS)
    assert [(one.name, one.state) for one in client.get_model_repository_index().models] == [
        ("two", "READY"),
        ("more", "READY"),
        ("kinds", "READY"),
    ]


@pytest.mark.parametrize("name", [name for name in INPUTS if name != "index"])
def test_a_tensor_of_each_kind_goes_in_and_comes_out(client: triton.InferenceServerClient, name: str) -> None:
    answer = client.infer("kinds", kinds_tensors(), outputs=wanted(name + BACK))

    sent, back = kinds_inputs(2)[name], answer.as_numpy(name + BACK)
    assert (back.tolist(), back.dtype) == (sent.tolist(), sent.dtype)


def test_ids_parameters_outputs_and_versions_are_as_asked(client: triton.InferenceServerClient) -> None:
    answer = client.infer(
        "kinds",
        kinds_tensors(),
        model_version=VERSION,
        outputs=wanted("text_back", "logits"),
        request_id="mine",
        priority=3,
        timeout=5_000_000,
        parameters={"slice": "eu", "no_capture": True, "weight": 0.5},
        client_timeout=10,
        compression_algorithm="gzip",
    )

    response = answer.get_response()
    assert (response.id, response.model_version) == ("mine", VERSION)
    assert [one.name for one in response.outputs] == ["text_back", "logits"]
    assert answer.as_numpy("logits").tolist() == TABLE[:2].tolist()


@pytest.mark.parametrize(
    ("call", "status", "words"),
    [
        (lambda client: client.infer("three", kinds_tensors()), "NOT_FOUND", "unknown model 'three'"),
        (lambda client: client.infer("kinds", kinds_tensors()[1:]), "INVALID_ARGUMENT", "'index' is missing"),
        (lambda client: client.infer("kinds", kinds_tensors(1, index=np.array([9]))), "INVALID_ARGUMENT", "Gather"),
        (lambda client: client.infer("kinds", kinds_tensors(), sequence_id=7), "INVALID_ARGUMENT", "'sequence_id'"),
        (
            lambda client: client.infer(
                "kinds", kinds_tensors(), outputs=[triton.InferRequestedOutput("logits", class_count=2)]
            ),
            "INVALID_ARGUMENT",
            "asks for a classification",
        ),
        (lambda client: client.load_model("kinds"), "UNIMPLEMENTED", "registry"),
        (lambda client: client.unload_model("kinds"), "UNIMPLEMENTED", "registry"),
        (lambda client: client.get_model_config("kinds"), "UNIMPLEMENTED", "no call 'ModelConfig'"),
        (lambda client: client.get_system_shared_memory_status(), "UNIMPLEMENTED", "no call 'SystemSharedMemory"),
    ],
)
def test_what_is_refused_comes_with_status_and_sentence(
    client: triton.InferenceServerClient, call: Any, status: str, words: str
) -> None:
    with pytest.raises(InferenceServerException) as caught:
        call(client)

    assert caught.value.status() == f"StatusCode.{status}"
    assert words in caught.value.message()
    assert client.infer("kinds", kinds_tensors()).as_numpy("logits").tolist() == TABLE[:2].tolist()


def test_a_stream_answers_in_order_and_survives_an_error(client: triton.InferenceServerClient) -> None:
    told: queue.SimpleQueue[Any] = queue.SimpleQueue()
    client.start_stream(lambda result, error: told.put(error or result))
    for number, index in enumerate((0, 1, 9, 2)):
        client.async_stream_infer(
            "kinds", kinds_tensors(1, index=np.array([index])), outputs=wanted("logits"), request_id=str(number)
        )
    answers = [told.get(timeout=10) for _ in range(4)]
    client.stop_stream()

    error = answers.pop(2)
    assert error.message().startswith("INVALID_ARGUMENT: version ffffffffffff can't answer these values")
    assert [one.get_response().id for one in answers] == ["0", "1", "3"]
    assert [int(one.as_numpy("logits").argmax()) for one in answers] == [0, 1, 2]
    assert all(one.get_response().parameters["triton_final_response"].bool_param for one in answers)


def test_the_first_error_ends_a_stream_that_asks_for_statuses(client: triton.InferenceServerClient) -> None:
    told: queue.SimpleQueue[Any] = queue.SimpleQueue()
    client.start_stream(lambda result, error: told.put(error or result), headers={"triton_grpc_error": "true"})
    client.async_stream_infer("kinds", kinds_tensors(1, index=np.array([9])))
    error = told.get(timeout=10)
    client.stop_stream()

    assert error.status() == "StatusCode.INVALID_ARGUMENT"


def test_the_asyncio_client_is_answered_alone_and_in_streams(address: str) -> None:
    async def requests(indices: tuple[int, ...]) -> Any:
        for index in indices:
            inputs = kinds_tensors(1, triton_aio, index=np.array([index]))
            yield {"model_name": "kinds", "inputs": inputs, "outputs": wanted("logits"), "request_id": str(index)}

    async def talk() -> tuple[Any, list[Any]]:
        async with triton_aio.InferenceServerClient(address) as client:
            alone = await client.infer("kinds", kinds_tensors(2, triton_aio))
            return alone, [one async for one in client.stream_infer(requests((2, 9, 1)))]

    alone, streamed = asyncio.run(talk())

    assert alone.as_numpy("logits").tolist() == TABLE[:2].tolist()
    (first, no_error), (no_result, error), (last, _) = streamed
    assert (no_error, no_result) == (None, None)
    assert [int(one.as_numpy("logits").argmax()) for one in (first, last)] == [2, 1]
    assert "INVALID_ARGUMENT" in error.message()


def test_many_requests_at_once_each_get_their_own_answer(client: triton.InferenceServerClient) -> None:
    told: queue.SimpleQueue[Any] = queue.SimpleQueue()
    inputs = {**good_inputs(), "weights": np.zeros((1, 2), np.float32)}
    for number in range(50):
        tensors = []
        for name, array in {**inputs, "bytes": np.full((1, 4), number, np.int32)}.items():
            tensor = triton.InferInput(name, array.shape, datatype_of(array))
            tensor.set_data_from_numpy(array)
            tensors.append(tensor)
        client.async_infer("two", tensors, lambda result, error: told.put(error or result), request_id=str(number))

    answers = [told.get(timeout=10) for _ in range(50)]

    assert {one.get_response().id: one.as_numpy("logits")[0, 0] for one in answers} == {
        str(number): float(number) for number in range(50)
    }
