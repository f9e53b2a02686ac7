"""Every wrong request, alone and in the middle of a stream: a status to act on, a sentence, a count, and the next one is answered."""

import pathlib
import re
from collections.abc import Iterator, Mapping
from typing import Any

import grpc
import numpy as np
import pytest

from protos import inference_pb2 as pb
from protos.errors import EverstillError
from protos.tensors import Array
from registry.sections import ModelSection, TensorSpec
from serving.rpc.convert import infer_request, read_outputs, read_parameters
from serving.teacher.client import TeacherAnswer, TeacherRefused, TeacherUnavailable, TimeTooShort
from tests.support.bad_requests import CASES, LIMIT
from tests.support.callers import Callers, FakeSession, callers, count, good_inputs, refused
from tests.support.kinds import KINDS, kinds_graph, session_of

SERVICE = "/inference.GRPCInferenceService/"
#: A model whose answers are much larger than its requests.
WIDE = ModelSection(name="wide", inputs=(TensorSpec(name="x", datatype="INT8", shape=(-1, 1)),), num_classes=100)
#: What a caller must never see: where this program lies, or how it failed inside.
INSIDE = re.compile(r"Traceback|\.py\b|\.cc\b|\.h:|/\w+/|Exception|Error\(|object at 0x")


#: Reasons that are found after validation.
LATE = {"deadline", "student_refused"}
#: What a teacher may say of a request, and callers must not hear.
TRACEBACK = 'the teacher at 10.0.0.7:8101 refused: Traceback ... File "/opt/mlserver/runtime.py"'
#: How asking the teacher fails, and what the caller is told.
TEACHERS_ERRORS = [
    (TeacherRefused(TRACEBACK, 1, of_values=True), "INVALID_ARGUMENT", "teacher_refused", "Send values"),
    (TeacherRefused(TRACEBACK, 1), "UNAVAILABLE", "teacher_wrong", "Whoever runs this gateway"),
    (TeacherUnavailable(TRACEBACK, 1), "UNAVAILABLE", "teacher_away", "Try again"),
    (TimeTooShort(0.02), "DEADLINE_EXCEEDED", "deadline", "no answer within 0.02 s. Allow more time"),
]


@pytest.fixture(scope="module")
def passing_through() -> Iterator[Callers]:
    def ask(inputs: Mapping[str, Array], timeout_s: float) -> TeacherAnswer:
        raise AssertionError("a wrong request went to the teacher")

    with callers(None, ask_teacher=ask, max_message_bytes=LIMIT, max_rows=1024) as open_port:
        yield open_port


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callers]:
    kinds = session_of(tmp_path_factory.mktemp("kinds"), KINDS, kinds_graph())
    with callers(
        FakeSession(), others=[(KINDS, kinds), (WIDE, FakeSession())], max_message_bytes=LIMIT, max_rows=1024
    ) as open_port:
        yield open_port


def good(number: int) -> pb.ModelInferRequest:
    inputs = {**good_inputs(), "bytes": np.full((1, 4), number, np.int32)}
    return infer_request("two", inputs, request_id=f"good-{number}")


def assert_answered(answer: pb.ModelInferResponse, number: int) -> None:
    assert (answer.id, answer.model_version) == (f"good-{number}", "fake")
    assert read_outputs(answer)["logits"].tolist() == [[number, 0, 0]]


def assert_tells(sentence: str, words: tuple[str, ...]) -> None:
    assert all(word in sentence for word in words), sentence
    assert not INSIDE.search(sentence), sentence
    assert len(sentence) < 1000


@pytest.mark.parametrize("name", CASES)
def test_a_wrong_request_is_refused(served: Callers, name: str) -> None:
    case = CASES[name]
    before = count(case.code, case.reason)

    status, sentence = served.refusal(case.request())

    assert status == case.code, sentence
    assert_tells(sentence, case.words)
    assert count(case.code, case.reason) == before + 1
    assert_answered(served.infer(good(1)), 1)


@pytest.mark.parametrize("name", CASES)
def test_a_wrong_request_in_the_middle_of_a_stream_is_refused(served: Callers, name: str) -> None:
    case = CASES[name]
    before = count(case.code, case.reason)
    wrong = case.request()
    wrong.id = "wr\N{LATIN SMALL LETTER O WITH DIAERESIS}ng"

    first, told, last = served.stream([good(1), wrong, good(2)])

    assert told.error_message.startswith(f"{case.code}: "), told.error_message
    assert_tells(told.error_message, case.words)
    parameters = read_parameters(told.infer_response.parameters)
    assert (parameters["code"], parameters["reason"]) == (case.code, case.reason)
    assert told.infer_response.id == ("" if case.reason == "oversize" else wrong.id)  # what is too large is not read
    assert count(case.code, case.reason) == before + 1
    assert_answered(first.infer_response, 1)
    assert_answered(last.infer_response, 2)


@pytest.mark.parametrize(
    "name", [name for name, case in CASES.items() if case.reason not in LATE and case.request().model_name == "two"]
)
def test_a_wrong_request_is_refused_before_the_teacher_is_asked_for_a_first_version(
    passing_through: Callers, name: str
) -> None:
    case = CASES[name]
    before = count(case.code, case.reason)

    status, sentence = passing_through.refusal(case.request())

    assert status == case.code, sentence
    assert_tells(sentence, tuple(word for word in case.words if word != "'fake'"))  # no version has a name yet
    assert count(case.code, case.reason) == before + 1


@pytest.mark.parametrize(("error", "code", "reason", "words"), TEACHERS_ERRORS)
def test_what_the_teacher_says_of_a_request_stays_inside(
    error: EverstillError, code: str, reason: str, words: str
) -> None:
    def ask(inputs: Mapping[str, Array], timeout_s: float) -> TeacherAnswer:
        raise error

    before = count(code, reason)
    with callers(None, ask_teacher=ask) as open_port:
        status, sentence = open_port.refusal(good(1))

    assert (status, count(code, reason)) == (code, before + 1)
    assert_tells(sentence, (words,))
    assert "10.0.0.7" not in sentence


BYTES = {
    "garbage": b"\xff\xff\xff",
    "cut short": good(1).SerializeToString()[:-3],
    "an id that is not UTF-8": pb.ModelInferRequest(model_name="two").SerializeToString() + b"\x1a\x02\xc3\x28",
    "an input's name that is not UTF-8": b"\x0a\x03two\x2a\x04\x0a\x02\xc3\x28",
}


@pytest.mark.parametrize("name", BYTES)
def test_bytes_that_are_no_request_are_refused(served: Callers, name: str) -> None:
    call: Any = served.channel.unary_unary(SERVICE + "ModelInfer")
    before = count("INVALID_ARGUMENT", "unreadable")

    status, sentence = refused(lambda: call(BYTES[name], timeout=5))

    assert (status, count("INVALID_ARGUMENT", "unreadable")) == ("INVALID_ARGUMENT", before + 1)
    assert_tells(sentence, ("not a ModelInferRequest", "UTF-8"))
    assert_answered(served.infer(good(3)), 3)


@pytest.mark.parametrize("name", BYTES)
def test_bytes_that_are_no_request_leave_their_stream_open(served: Callers, name: str) -> None:
    call: Any = served.channel.stream_stream(SERVICE + "ModelStreamInfer")
    sent = iter([good(1).SerializeToString(), BYTES[name], good(2).SerializeToString()])

    first, told, last = map(pb.ModelStreamInferResponse.FromString, call(sent, timeout=5))

    assert told.error_message.startswith("INVALID_ARGUMENT: the message is not a ModelInferRequest")
    assert_answered(first.infer_response, 1)
    assert_answered(last.infer_response, 2)


@pytest.mark.parametrize(
    "method",
    [
        "ModelReady",
        "ServerMetadata",
        "ModelMetadata",
        "RepositoryIndex",
        "RepositoryModelLoad",
        "RepositoryModelUnload",
    ],
)
def test_bytes_that_are_no_message_of_another_call_are_refused(served: Callers, method: str) -> None:
    call: Any = served.channel.unary_unary(SERVICE + method)

    status, sentence = refused(lambda: call(b"\xff\xff\xff", timeout=5))

    assert status == "INVALID_ARGUMENT"
    assert_tells(sentence, (f"not a {method}Request",))


@pytest.mark.parametrize("method", ["Promote", "ModelConfig", "ModelStatistics", "SystemSharedMemoryStatus"])
def test_an_unknown_call_is_named_with_those_that_are_answered(served: Callers, method: str) -> None:
    unary: Any = served.channel.unary_unary(SERVICE + method)
    stream: Any = served.channel.stream_stream(SERVICE + method)

    for call in (lambda: unary(b"", timeout=5), lambda: list(stream(iter([b""]), timeout=5))):
        status, sentence = refused(call)
        assert status == "UNIMPLEMENTED"
        assert_tells(sentence, (f"no call {method!r}", "ModelInfer, ModelMetadata"))
    assert_answered(served.infer(good(4)), 4)


def test_a_call_of_an_unknown_service_is_unimplemented(served: Callers) -> None:
    call: Any = served.channel.unary_unary("/inference.Other/ModelInfer")

    assert refused(lambda: call(b"", timeout=5))[0] == "UNIMPLEMENTED"


@pytest.mark.parametrize(("call", "done"), [("RepositoryModelLoad", "loaded"), ("RepositoryModelUnload", "unloaded")])
def test_models_are_not_loaded_by_a_call_and_the_registry_is_named(served: Callers, call: str, done: str) -> None:
    request = getattr(pb, f"{call}Request")(model_name="two")

    status, sentence = refused(lambda: getattr(served.stub, call)(request, timeout=5))

    assert status == "UNIMPLEMENTED"
    assert_tells(sentence, (f"model 'two' can't be {done} by a call", "the registry's live pointer"))


def test_a_message_far_too_large_to_read_is_refused_by_grpc_itself(served: Callers) -> None:
    huge = infer_request("two", {**good_inputs(), "bytes": np.zeros((LIMIT, 4), np.int32)})

    assert served.refusal(huge)[0] == "RESOURCE_EXHAUSTED"
    assert refused(lambda: list(served.stream([good(1), huge])))[0] == "RESOURCE_EXHAUSTED"
    assert_answered(served.infer(good(5)), 5)


def test_a_deadline_that_has_passed_is_told(served: Callers) -> None:
    assert refused(lambda: served.stub.ModelInfer(good(1), timeout=-1.0))[0] == "DEADLINE_EXCEEDED"
    assert refused(lambda: list(served.stub.ModelStreamInfer(iter([good(1)]), timeout=-1.0)))[0] == "DEADLINE_EXCEEDED"
    assert_answered(served.infer(good(6)), 6)


def test_a_compression_that_the_server_knows_is_fine(served: Callers) -> None:
    answer = served.stub.ModelInfer(good(7), timeout=5, compression=grpc.Compression.Gzip)

    assert_answered(answer, 7)


def test_ids_and_parameters_may_hold_any_text(served: Callers, tmp_path: pathlib.Path) -> None:
    odd = "\N{SNOWMAN}\0\n\U0001f600"
    request = infer_request("two", good_inputs(), request_id=odd, parameters={odd: odd, "slice": odd})

    assert served.infer(request).id == odd
