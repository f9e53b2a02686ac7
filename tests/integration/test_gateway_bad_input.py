"""What is refused for its time or its number, and what is refused although nothing is wrong with the request itself."""

from collections.abc import Iterator

import grpc
import numpy as np
import pytest

from tests.support.bad_requests import LIMIT, changed, given
from tests.support.callers import Callers, FakeSession, Gate, callers, count, good_request, refused
from tests.support.waiting import wait_for


@pytest.fixture(scope="module")
def served() -> Iterator[Callers]:
    with callers(FakeSession(), max_message_bytes=LIMIT) as open_port:
        yield open_port


def test_typed_contents_are_answered_like_raw_ones(served: Callers) -> None:
    assert served.infer(changed(lambda request: None, typed=True)).model_version == "fake"


def test_nan_reaches_the_student_where_the_configuration_allows() -> None:
    with callers(FakeSession(), refuse_nan=False) as served:
        assert served.infer(given(weights=np.array([[1, np.nan]], np.float32))).model_version == "fake"


def test_a_request_whose_deadline_passes_while_it_waits_is_not_run() -> None:
    gate = Gate()
    session = FakeSession(then=gate.wait)
    before = count("DEADLINE_EXCEEDED", "deadline")
    with callers(session) as served:
        first = served.stub.ModelInfer.future(good_request(2), timeout=20)
        assert gate.entered.acquire(timeout=10)

        status, _ = served.refusal(good_request(), timeout_s=0.2)
        gate.open()

        assert status == "DEADLINE_EXCEEDED"
        assert first.result(20).model_version == "fake"
        wait_for(lambda: count("DEADLINE_EXCEEDED", "deadline") == before + 1, what="the count")
    assert session.batches == [2]


def test_one_request_too_many_is_refused_at_once_and_those_inside_are_answered() -> None:
    gate = Gate()
    with callers(FakeSession(then=gate.wait), threads=1, max_in_flight=3) as served:
        inside = [served.stub.ModelInfer.future(good_request(), timeout=20) for _ in range(3)]
        assert gate.entered.acquire(timeout=10)
        before = count("RESOURCE_EXHAUSTED", "overload")

        def is_refused() -> bool:  # until all three have arrived, another one is let in, and waits
            try:
                served.infer(good_request(), timeout_s=0.2)
            except grpc.RpcError as error:
                return error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED and "Send fewer" in str(error.details())
            return False

        wait_for(is_refused, what="a refusal")
        gate.open()

        assert [one.result(20).model_version for one in inside] == ["fake"] * 3
        assert count("RESOURCE_EXHAUSTED", "overload") > before
        wait_for(lambda: served.infer(good_request()).model_version == "fake", what="a good answer")


def test_a_student_that_fails_on_one_request_answers_those_that_wait_with_it() -> None:
    gate = Gate()

    def spoil(inputs: object) -> None:
        gate.wait({})
        assert isinstance(inputs, dict)
        if (inputs["bytes"] == 13).any():
            raise RuntimeError("unlucky")

    with callers(FakeSession(then=spoil)) as served:
        first = served.stub.ModelInfer.future(good_request(), timeout=20)
        assert gate.entered.acquire(timeout=10)
        spoilt = given(bytes=np.full((1, 4), 13, np.int32))
        waiting = [served.stub.ModelInfer.future(one, timeout=20) for one in (good_request(), spoilt, good_request())]
        gate.open()

        assert first.result(20).model_version == "fake"
        assert waiting[0].result(20).model_version == waiting[2].result(20).model_version == "fake"
        assert refused(lambda: waiting[1].result(20)) == (
            "INTERNAL",
            "this gateway failed on the request; its log says why",
        )


def test_without_a_version_a_request_is_told_to_come_back() -> None:
    before = count("UNAVAILABLE", "no_version")
    with callers(None) as served:
        status, sentence = served.refusal(good_request())

    assert status == "UNAVAILABLE"
    assert "no student version yet" in sentence
    assert "later" in sentence
    assert count("UNAVAILABLE", "no_version") == before + 1
