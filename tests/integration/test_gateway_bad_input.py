"""Every bad request gets the status that fits, a sentence that says what to change, and a count; the next good one is answered."""

from collections.abc import Callable, Iterator
from typing import Any

import grpc
import numpy as np
import pytest

from protos import inference_pb2 as pb
from serving.rpc.convert import infer_request
from tests.support.callers import Callers, FakeSession, Gate, callers, count, good_inputs, good_request, refused
from tests.support.waiting import wait_for

LIMIT = 64 * 1024


def given(**inputs: np.ndarray) -> pb.ModelInferRequest:
    """Return a good request but for these inputs."""
    return infer_request("two", {**good_inputs(), **inputs})


def changed(change: Callable[[pb.ModelInferRequest], object], *, typed: bool = False) -> pb.ModelInferRequest:
    """Return a good request after a change; `typed` sends typed contents instead of raw ones."""
    request = good_request()
    if typed:
        del request.raw_input_contents[:]
        request.inputs[0].contents.int_contents.extend([0, 0, 0, 0])
        request.inputs[1].contents.fp32_contents.extend([0.0, 0.0])
    change(request)
    return request


def without(name: str) -> pb.ModelInferRequest:
    return infer_request("two", {key: array for key, array in good_inputs().items() if key != name})


def reshape(request: pb.ModelInferRequest, shape: tuple[int, ...], raw: bytes) -> None:
    request.inputs[0].shape[:] = shape
    request.raw_input_contents[0] = raw


def repeat_first(request: pb.ModelInferRequest) -> None:
    request.inputs.add().CopyFrom(request.inputs[0])
    request.raw_input_contents.append(request.raw_input_contents[0])


#: name -> (request, status, reason that is counted, words that the sentence must hold)
CASES = {
    "unknown model": (
        changed(lambda r: setattr(r, "model_name", "three")),
        ("NOT_FOUND", "unknown_model", ("'three'", "serves 'two'")),
    ),
    "unknown version": (
        changed(lambda r: setattr(r, "model_version", "v9")),
        ("NOT_FOUND", "unknown_version", ("'v9'", "'fake'")),
    ),
    "unknown input": (
        given(colour=np.zeros((1, 2), np.float32)),
        ("INVALID_ARGUMENT", "unknown_input", ("'colour'", "takes bytes, weights")),
    ),
    "missing input": (without("weights"), ("INVALID_ARGUMENT", "missing_input", ("'weights'", "Send it"))),
    "no input": (
        changed(lambda r: r.ClearField("inputs")),
        ("INVALID_ARGUMENT", "bad_tensor", ("0 input tensors", "2 raw")),
    ),
    "unknown output": (
        changed(lambda r: r.outputs.add(name="embedding")),
        ("INVALID_ARGUMENT", "unknown_output", ("'embedding'", "has logits")),
    ),
    "wrong datatype": (
        given(bytes=np.zeros((1, 4), np.float32)),
        ("INVALID_ARGUMENT", "wrong_datatype", ("FP32", "Send INT32")),
    ),
    "unknown datatype": (
        changed(lambda r: setattr(r.inputs[0], "datatype", "INT33")),
        ("INVALID_ARGUMENT", "wrong_datatype", ("'INT33'", "Use one of")),
    ),
    "wrong rank": (
        given(bytes=np.zeros((1, 4, 1), np.int32)),
        ("INVALID_ARGUMENT", "wrong_shape", ("[1, 4, 1]", "Send [-1, 4]")),
    ),
    "wrong size": (
        given(bytes=np.zeros((1, 5), np.int32)),
        ("INVALID_ARGUMENT", "wrong_shape", ("[1, 5]", "Send [-1, 4]")),
    ),
    "no rows": (
        infer_request("two", good_inputs(0)),
        ("INVALID_ARGUMENT", "wrong_shape", ("[0, 4]", "at least one row")),
    ),
    "different rows": (
        given(weights=np.zeros((2, 2), np.float32)),
        ("INVALID_ARGUMENT", "wrong_shape", ("bytes 1", "weights 2", "same number")),
    ),
    "negative dimension": (
        changed(lambda r: reshape(r, (-1, 4), bytes(16))),
        ("INVALID_ARGUMENT", "wrong_shape", ("negative dimension", "[-1, 4]")),
    ),
    "overflowing shape": (
        changed(lambda r: reshape(r, (0, 2**62), b"")),
        ("INVALID_ARGUMENT", "wrong_shape", ("'bytes'", "impossible shape")),
    ),
    "too many dimensions": (
        changed(lambda r: reshape(r, (1,) * 100, b"1234")),
        ("INVALID_ARGUMENT", "wrong_shape", ("'bytes'", "100 dimensions")),
    ),
    "too few bytes": (
        changed(lambda r: reshape(r, (1, 4), b"1234567")),
        ("INVALID_ARGUMENT", "wrong_bytes", ("takes 16 bytes, got 7",)),
    ),
    "too many bytes": (
        changed(lambda r: reshape(r, (1, 4), bytes(20))),
        ("INVALID_ARGUMENT", "wrong_bytes", ("takes 16 bytes, got 20",)),
    ),
    "raw contents missing": (
        changed(lambda r: r.raw_input_contents.pop()),
        ("INVALID_ARGUMENT", "bad_tensor", ("2 input tensors", "1 raw contents")),
    ),
    "raw and typed": (
        changed(lambda r: r.inputs[0].contents.int_contents.append(1)),
        ("INVALID_ARGUMENT", "bad_tensor", ("typed contents", "Use one of the two")),
    ),
    "typed in a wrong field": (
        changed(lambda r: r.inputs[0].contents.int64_contents.append(1), typed=True),
        ("INVALID_ARGUMENT", "bad_tensor", ("int64_contents", "Put its values in int_contents")),
    ),
    "too few typed values": (
        changed(lambda r: r.inputs[0].contents.int_contents.pop(), typed=True),
        ("INVALID_ARGUMENT", "wrong_bytes", ("takes 4 values, got 3",)),
    ),
    "an input twice": (
        changed(repeat_first),
        ("INVALID_ARGUMENT", "bad_tensor", ("'bytes' is sent twice", "Send each tensor once")),
    ),
    "NaN": (
        given(weights=np.array([[1, np.nan]], np.float32)),
        ("INVALID_ARGUMENT", "not_finite", ("'weights'", "row 0", "Send finite numbers")),
    ),
    "infinity in the third row": (
        infer_request("two", {**good_inputs(3), "weights": np.array([[0, 0], [0, 0], [np.inf, 0]], np.float32)}),
        ("INVALID_ARGUMENT", "not_finite", ("'weights'", "row 2")),
    ),
    "oversize": (
        given(bytes=np.zeros((LIMIT // 16, 4), np.int32)),
        ("RESOURCE_EXHAUSTED", "oversize", (f"Send at most {LIMIT}",)),
    ),
    "a name too long for a status": (
        given(**{"n" * 20_000: np.zeros((1, 2), np.float32)}),
        ("INVALID_ARGUMENT", "unknown_input", ("nnn", "takes bytes")),
    ),
    "a datatype too long for a status": (
        changed(lambda r: setattr(r.inputs[0], "datatype", "\N{SNOWMAN}" * 5_000)),
        ("INVALID_ARGUMENT", "wrong_datatype", ("Use one of",)),
    ),
}


@pytest.fixture(scope="module")
def served() -> Iterator[Callers]:
    with callers(FakeSession(), max_message_bytes=LIMIT) as open_port:
        yield open_port


@pytest.mark.parametrize("case", CASES)
def test_a_bad_request_is_refused_with_a_sentence_and_counted(served: Callers, case: str) -> None:
    request, (code, reason, words) = CASES[case]
    before = count(code, reason)

    status, sentence = served.refusal(request)

    assert status == code, sentence
    assert all(word in sentence for word in words), sentence
    assert len(sentence) < 1000
    assert count(code, reason) == before + 1
    assert served.infer(good_request()).model_version == "fake"


def test_bytes_that_are_no_request_are_refused(served: Callers) -> None:
    call: Any = served.channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
    before = count("INVALID_ARGUMENT", "unreadable")

    status, sentence = refused(lambda: call(b"\xff\xff\xff", timeout=5))

    assert (status, count("INVALID_ARGUMENT", "unreadable")) == ("INVALID_ARGUMENT", before + 1)
    assert "not a ModelInferRequest" in sentence


def test_a_message_far_too_large_to_read_is_refused_by_grpc_itself(served: Callers) -> None:
    status, _ = served.refusal(given(bytes=np.zeros((LIMIT, 4), np.int32)))

    assert status == "RESOURCE_EXHAUSTED"
    assert served.infer(good_request()).model_version == "fake"


def test_an_unknown_method_is_unimplemented(served: Callers) -> None:
    call: Any = served.channel.unary_unary("/inference.GRPCInferenceService/Promote")

    assert refused(lambda: call(b"", timeout=5))[0] == "UNIMPLEMENTED"


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
