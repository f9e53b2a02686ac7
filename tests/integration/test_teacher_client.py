"""The teacher client against real gRPC servers that are slow, dead, refusing, failing for a while, or talking nonsense."""

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest

from protos import inference_pb2 as pb
from protos.errors import TensorError
from serving.rpc.convert import infer_response, read_inputs
from serving.teacher.client import TeacherClient, TeacherRefused, TeacherUnavailable, TimeTooShort
from tests.support.teachers import OUTPUT, FakeTeacher, rows, serving, settings
from tests.support.waiting import wait_for

Code = grpc.StatusCode


class Clock:
    """Monotonic seconds that the test moves."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@contextlib.contextmanager
def client_of(address: str, *, clock: Clock | None = None, **values: Any) -> Iterator[TeacherClient]:
    client = TeacherClient(settings(address, **values), clock=clock or Clock())
    try:
        yield client
    finally:
        client.close()


@contextlib.contextmanager
def asked(teacher: FakeTeacher, **values: Any) -> Iterator[TeacherClient]:
    with serving(teacher) as address, client_of(address, **values) as client:
        yield client


def test_an_answer_has_a_row_for_each_row_and_names_its_version() -> None:
    with asked(FakeTeacher()) as client:
        answer = client.ask(rows(4))

    assert (answer.output_BC.shape, answer.output_BC.dtype) == ((4, 3), np.float32)
    assert (answer.version, answer.attempts) == ("teacher-7", 1)
    assert answer.latency_s > 0


def test_inputs_go_by_the_teachers_names_and_one_without_a_name_stays_here() -> None:
    def answer(request: pb.ModelInferRequest) -> pb.ModelInferResponse:
        (name,) = read_inputs(request)
        assert name == "octets"
        return infer_response("teacher", "teacher-7", {OUTPUT: np.eye(3, dtype=np.float32)[[0]]})

    with asked(FakeTeacher(answer=answer), inputs={"bytes": "octets", "mask": ""}) as client:
        output_BC = client.ask({**rows(), "mask": rows()["bytes"]}).output_BC

    assert output_BC.tolist() == [[1, 0, 0]]


@pytest.mark.parametrize("labels", [np.array([[1]]), np.array([[b"cat"]], object)])
def test_labels_instead_of_scores_are_refused_with_what_to_name(labels: np.ndarray[Any, Any]) -> None:
    answer = infer_response("teacher", "teacher-7", {OUTPUT: labels})

    with (
        asked(FakeTeacher(answer=lambda request: answer)) as client,
        pytest.raises(TeacherRefused, match=r"has datatype (INT64|BYTES): it names a class.*teacher\.output"),
    ):
        client.ask(rows())


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_scores_of_any_precision_are_taken(dtype: type[np.floating[Any]]) -> None:
    answer = infer_response("teacher", "teacher-7", {OUTPUT: np.array([[0.5, 0.25, 0.25]], dtype)})

    with asked(FakeTeacher(answer=lambda request: answer)) as client:
        output_BC = client.ask(rows()).output_BC

    assert (output_BC.dtype, output_BC.tolist()) == (np.float32, [[0.5, 0.25, 0.25]])


def test_only_the_declared_output_is_asked_for() -> None:
    with asked(teacher := FakeTeacher()) as client:
        client.ask(rows())

    assert [output.name for output in teacher.requests[0].outputs] == [OUTPUT]
    assert list(read_inputs(teacher.requests[0])) == ["bytes"]


@pytest.mark.parametrize("code", [Code.UNAVAILABLE, Code.RESOURCE_EXHAUSTED, Code.DEADLINE_EXCEEDED, Code.ABORTED])
def test_a_passing_failure_is_tried_again(code: grpc.StatusCode) -> None:
    with asked(FakeTeacher((code, code)), attempts=3) as client:
        answer = client.ask(rows())

    assert answer.attempts == 3


def test_failures_beyond_the_attempts_are_unavailable_and_counted() -> None:
    teacher, failed = FakeTeacher((Code.UNAVAILABLE,) * 9), "UNAVAILABLE: as the test says"
    with asked(teacher, attempts=3) as client, pytest.raises(TeacherUnavailable, match=failed) as caught:
        client.ask(rows())

    assert caught.value.attempts == len(teacher.requests) == 3


def test_a_refusal_is_not_tried_again_and_leaves_the_breaker_closed() -> None:
    with asked(teacher := FakeTeacher((Code.INVALID_ARGUMENT,) * 9), breaker_failures=1) as client:
        for _ in range(3):
            with pytest.raises(TeacherRefused, match="INVALID_ARGUMENT") as caught:
                client.ask(rows())
        assert not client.breaker.is_open

    assert (caught.value.attempts, len(teacher.requests)) == (1, 3)


@pytest.mark.parametrize("code", [Code.NOT_FOUND, Code.UNAUTHENTICATED, Code.PERMISSION_DENIED, Code.UNIMPLEMENTED])
def test_what_is_wrong_with_the_connection_keeps_the_samples_and_is_not_tried_again(code: grpc.StatusCode) -> None:
    with asked(FakeTeacher((code,) * 9), attempts=5) as client, pytest.raises(TeacherUnavailable) as caught:
        client.ask(rows())

    assert caught.value.attempts == 1


def test_a_slow_teacher_costs_no_more_than_the_deadline_of_each_attempt() -> None:
    teacher = FakeTeacher()
    teacher.dawdle.clear()

    with (
        asked(teacher, attempts=2, timeout_s=0.2) as client,
        pytest.raises(TeacherUnavailable, match="DEADLINE_EXCEEDED") as caught,
    ):
        client.ask(rows())

    assert caught.value.attempts == 2


def test_a_dead_teacher_opens_the_breaker_and_is_then_not_even_tried() -> None:
    with client_of("127.0.0.1:1", attempts=2, breaker_failures=2) as client:
        with pytest.raises(TeacherUnavailable) as first:
            client.ask(rows())
        with pytest.raises(TeacherUnavailable, match="the circuit breaker is open") as second:
            client.ask(rows())

    assert (first.value.attempts, second.value.attempts) == (2, 0)


def test_a_teacher_that_comes_back_is_asked_again_after_the_pause() -> None:
    teacher, clock = FakeTeacher((Code.UNAVAILABLE,)), Clock()
    with asked(teacher, clock=clock, attempts=1, breaker_failures=1, breaker_open_s=5.0) as client:
        with pytest.raises(TeacherUnavailable):
            client.ask(rows())
        assert client.breaker.is_open

        clock.now = 5.0
        answer = client.ask(rows())

        assert (answer.attempts, client.breaker.is_open) == (1, False)


def test_a_teacher_that_starts_late_is_found() -> None:
    with serving(FakeTeacher()) as address:
        pass
    with client_of(address, breaker_failures=1000, timeout_s=1.0) as client:
        with pytest.raises(TeacherUnavailable):
            client.ask(rows())

        with serving(FakeTeacher(), address=address):
            answer = wait_for(lambda: _answer(client), what="the late teacher")

    assert answer.version == "teacher-7"


def _answer(client: TeacherClient) -> Any:
    with contextlib.suppress(TeacherUnavailable):
        return client.ask(rows())


def test_each_attempt_is_paid_for_before_it_is_made() -> None:
    teacher = FakeTeacher((Code.UNAVAILABLE,) * 9)
    purse, calls_at_payment = [True, True], []

    def pay() -> bool:
        calls_at_payment.append(len(teacher.requests))
        return bool(purse) and purse.pop()

    with asked(teacher, attempts=5) as client, pytest.raises(TeacherUnavailable, match="budget") as caught:
        client.ask(rows(), before_attempt=pay)

    assert calls_at_payment == [0, 1, 2]
    assert caught.value.attempts == len(teacher.requests) == 2


def test_an_empty_purse_does_not_use_up_the_half_open_breakers_probe() -> None:
    clock = Clock()
    with asked(FakeTeacher((Code.UNAVAILABLE,)), clock=clock, attempts=1, breaker_failures=1) as client:
        with pytest.raises(TeacherUnavailable):
            client.ask(rows())
        clock.now = 60.0

        with pytest.raises(TeacherUnavailable, match="budget"):
            client.ask(rows(), before_attempt=lambda: False)

        assert client.ask(rows()).attempts == 1


def other_output(request: pb.ModelInferRequest) -> pb.ModelInferResponse:
    return infer_response("teacher", "1", {"other": np.zeros((1, 3), np.float32)})


def too_few_rows(request: pb.ModelInferRequest) -> pb.ModelInferResponse:
    return infer_response("teacher", "1", {OUTPUT: np.zeros((1, 3), np.float32)})


def one_dimension(request: pb.ModelInferRequest) -> pb.ModelInferResponse:
    return infer_response("teacher", "1", {OUTPUT: np.zeros(2, np.float32)})


def torn(request: pb.ModelInferRequest) -> pb.ModelInferResponse:
    response = infer_response("teacher", "1", {OUTPUT: np.zeros((2, 3), np.float32)})
    response.raw_output_contents[0] = b"torn"
    return response


@pytest.mark.parametrize("nonsense", [other_output, too_few_rows, one_dimension, torn])
def test_an_answer_that_is_not_what_was_declared_is_refused_even_from_a_half_open_breaker(nonsense: Any) -> None:
    teacher, clock = FakeTeacher((Code.UNAVAILABLE,), nonsense), Clock()
    with asked(teacher, clock=clock, attempts=1, breaker_failures=1) as client:
        with pytest.raises(TeacherUnavailable):
            client.ask(rows(2))
        clock.now = 60.0

        for _ in range(2):  # the second is not held back by the first
            with pytest.raises(TeacherRefused) as caught:
                client.ask(rows(2))

    assert caught.value.attempts == 1


def test_an_input_that_can_not_be_sent_is_the_callers_error_and_touches_no_breaker() -> None:
    clock = Clock()
    with asked(FakeTeacher((Code.UNAVAILABLE,)), clock=clock, attempts=1, breaker_failures=1) as client:
        with pytest.raises(TeacherUnavailable):
            client.ask(rows())
        clock.now = 60.0

        with pytest.raises(TensorError):
            client.ask({"bytes": np.array([["text"]])})

        assert client.ask(rows()).attempts == 1


def test_many_threads_are_answered_by_one_client() -> None:
    with asked(FakeTeacher()) as client:
        answers: list[int] = []
        threads = [
            threading.Thread(target=lambda n=n: answers.append(len(client.ask(rows(n)).output_BC))) for n in range(1, 9)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)

    assert sorted(answers) == list(range(1, 9))


def test_a_closed_client_is_unavailable() -> None:
    with asked(FakeTeacher()) as client:
        client.close()

        with pytest.raises(TeacherUnavailable, match="closed"):
            client.ask(rows())


def test_closing_ends_a_call_in_flight_and_keeps_its_samples() -> None:
    teacher, errors = FakeTeacher(), []
    teacher.dawdle.clear()

    def ask(client: TeacherClient) -> None:
        try:
            client.ask(rows(), timeout_s=20.0)
        except TeacherUnavailable as error:
            errors.append(error)

    with asked(teacher) as client:
        thread = threading.Thread(target=ask, args=(client,))
        thread.start()
        wait_for(lambda: teacher.requests, what="the call to arrive")
        client.close()
        thread.join(10)

    assert [error.attempts for error in errors] == [1]


def test_callers_without_patience_do_not_open_the_breaker_for_others() -> None:
    teacher = FakeTeacher()
    with asked(teacher, breaker_failures=2) as client:
        client.ask(rows())
        teacher.dawdle.clear()
        for _ in range(3):
            with pytest.raises(TimeTooShort, match=r"no answer within 0\.02 s"):
                client.ask(rows(), timeout_s=0.02, attempts=1)
        teacher.dawdle.set()

        assert client.ask(rows()).attempts == 1


@pytest.mark.parametrize("code", [Code.INVALID_ARGUMENT, Code.OUT_OF_RANGE, Code.INTERNAL])
def test_a_refusal_tells_whether_it_is_of_the_values(code: grpc.StatusCode) -> None:
    with asked(FakeTeacher((code,))) as client, pytest.raises(TeacherRefused) as caught:
        client.ask(rows())

    assert caught.value.of_values is (code is not Code.INTERNAL)
