"""ModelStreamInfer as Triton has it: answers in order, an error that ends only its own request, and a stop that loses nothing."""

import queue
from collections.abc import Callable, Iterator
from concurrent import futures

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from protos import inference_pb2 as pb
from serving.rpc.convert import infer_request, read_outputs, read_parameters
from tests.support.callers import FakeSession, Gate, callers, count, good_inputs, refused
from tests.support.waiting import wait_for


def numbered(number: int, *, model: str = "two") -> pb.ModelInferRequest:
    """Return a request whose id and first byte are a number."""
    inputs = {**good_inputs(), "bytes": np.full((1, 4), number, np.int32)}
    return infer_request(model, inputs, request_id=str(number))


class Caller:
    """A stream's requests, sent when the test says so."""

    def __init__(self) -> None:
        self._sent: queue.SimpleQueue[pb.ModelInferRequest | None] = queue.SimpleQueue()

    def send(self, request: pb.ModelInferRequest) -> None:
        self._sent.put(request)

    def end(self) -> None:
        self._sent.put(None)

    def __iter__(self) -> Iterator[pb.ModelInferRequest]:
        return iter(self._sent.get, None)


def test_requests_of_a_stream_are_answered_in_their_order() -> None:
    with callers(FakeSession()) as served:
        answers = list(served.stream(map(numbered, range(100))))

    assert [one.infer_response.id for one in answers] == [str(number) for number in range(100)]
    assert [read_outputs(one.infer_response)["logits"][0, 0] for one in answers] == list(range(100))
    assert all(read_parameters(one.infer_response.parameters)["triton_final_response"] for one in answers)
    assert len(served.captured) == 100


def test_a_bad_request_in_the_middle_is_told_and_the_next_one_is_answered() -> None:
    before = count("NOT_FOUND", "unknown_model")
    with callers(FakeSession()) as served:
        first, bad, last = served.stream([numbered(1), numbered(2, model="three"), numbered(3)])

    assert (first.infer_response.id, last.infer_response.id) == ("1", "3")
    assert bad.error_message.startswith("NOT_FOUND: unknown model 'three'")
    assert bad.infer_response.id == "2"
    parameters = read_parameters(bad.infer_response.parameters)
    assert (parameters["code"], parameters["reason"]) == ("NOT_FOUND", "unknown_model")
    assert count("NOT_FOUND", "unknown_model") == before + 1


def test_a_caller_may_have_the_first_error_end_the_stream() -> None:
    with callers(FakeSession()) as served:
        requests = [numbered(1), numbered(2, model="three"), numbered(3)]
        answers = served.stream(requests, metadata=(("triton_grpc_error", "true"),))

        assert next(answers).infer_response.id == "1"
        code, sentence = refused(lambda: next(answers))

    assert (code, "unknown model 'three'" in sentence) == ("NOT_FOUND", True)


def test_each_request_is_answered_while_the_stream_stays_open() -> None:
    caller = Caller()
    with callers(FakeSession()) as served:
        answers = served.stream(caller)
        for number in range(3):
            caller.send(numbered(number))
            assert next(answers).infer_response.id == str(number)
        caller.end()

        assert list(answers) == []


def test_a_stream_with_no_request_just_ends() -> None:
    with callers(FakeSession()) as served:
        assert list(served.stream([])) == []


def test_idle_streams_take_no_thread_from_other_callers() -> None:
    idle = [Caller() for _ in range(4)]
    with callers(FakeSession(), threads=1) as served:
        streams = [served.stream(one) for one in idle]
        for one, answers in zip(idle, streams, strict=True):
            one.send(numbered(1))
            next(answers)

        assert served.infer(numbered(2)).id == "2"
        for one in idle:
            one.end()
        assert [list(answers) for answers in streams] == [[]] * 4


def test_one_stream_too_many_is_refused_and_let_in_when_another_has_ended() -> None:
    first = Caller()
    with callers(FakeSession(), max_streams=1) as served:
        answers = served.stream(first)
        first.send(numbered(1))
        next(answers)

        code, sentence = refused(lambda: list(served.stream([numbered(2)])))
        assert (code, "1 streams are open already" in sentence) == ("RESOURCE_EXHAUSTED", True)
        first.end()
        assert list(answers) == []

        wait_for(lambda: not _is_refused(lambda: list(served.stream([numbered(3)]))), what="room for a stream")


def test_requests_of_streams_count_among_those_in_flight() -> None:
    gate = Gate()
    with callers(FakeSession(then=gate.wait), max_in_flight=1) as served:
        inside = served.stub.ModelInfer.future(numbered(1), timeout=20)
        assert gate.entered.acquire(timeout=10)

        (told,) = served.stream([numbered(2)])
        gate.open()

        assert inside.result(20).id == "1"
    assert told.error_message.startswith("RESOURCE_EXHAUSTED: 1 requests are running")
    assert told.infer_response.id == "2"


def test_a_request_too_large_for_the_gateway_leaves_its_stream_open() -> None:
    large = infer_request("two", {**good_inputs(), "bytes": np.zeros((1000, 4), np.int32)})
    with callers(FakeSession(), max_message_bytes=8192) as served:
        told, answer = served.stream([large, numbered(2)])

    assert told.error_message.startswith("RESOURCE_EXHAUSTED: the request has 16")
    assert answer.infer_response.id == "2"


def test_a_graceful_stop_answers_what_a_stream_has_sent_and_then_ends_it() -> None:
    gate, caller = Gate(), Caller()
    with callers(FakeSession(then=gate.wait)) as served, futures.ThreadPoolExecutor(1) as pool:
        answers = served.stream(caller)
        caller.send(numbered(1))
        assert gate.entered.acquire(timeout=10)

        stopping = pool.submit(served.server.stop, 10.0)
        wait_for(lambda: _is_refused(lambda: served.infer(numbered(9), timeout_s=0.2)), what="the stop")
        gate.open()

        assert next(answers).infer_response.id == "1"
        code, sentence = refused(lambda: next(answers))
        stopping.result(20)
    assert (code, sentence) == ("UNAVAILABLE", "this gateway is stopping. Try again, there or elsewhere")


def test_a_balancer_that_watches_health_is_told_and_does_not_hold_up_a_stop() -> None:
    with callers(FakeSession()) as served, futures.ThreadPoolExecutor(1) as pool:
        watching = health_pb2_grpc.HealthStub(served.channel).Watch(health_pb2.HealthCheckRequest(), timeout=60)
        assert next(watching).status == health_pb2.HealthCheckResponse.SERVING

        stopping = pool.submit(served.server.stop, 60.0)

        assert next(watching).status == health_pb2.HealthCheckResponse.NOT_SERVING
        stopping.result(20)


def test_a_caller_who_goes_away_leaves_nothing_behind() -> None:
    gate, caller = Gate(), Caller()
    with callers(FakeSession(then=gate.wait), max_streams=1) as served:
        call = served.stub.ModelStreamInfer(iter(caller), timeout=20)
        for number in range(30):  # more than is read ahead
            caller.send(numbered(number))
        assert gate.entered.acquire(timeout=10)

        call.cancel()
        caller.end()
        gate.open()

        wait_for(lambda: not _is_refused(lambda: list(served.stream([numbered(3)]))), what="room for a stream")


@pytest.mark.parametrize("deadline_s", [0.3])
def test_a_streams_deadline_ends_it(deadline_s: float) -> None:
    caller = Caller()
    with callers(FakeSession()) as served:
        answers = served.stub.ModelStreamInfer(iter(caller), timeout=deadline_s)
        caller.send(numbered(1))
        assert next(answers).infer_response.id == "1"

        assert refused(lambda: next(answers))[0] == "DEADLINE_EXCEEDED"
        caller.end()


def _is_refused(call: Callable[[], object]) -> bool:
    try:
        call()
    except grpc.RpcError:
        return True
    return False
