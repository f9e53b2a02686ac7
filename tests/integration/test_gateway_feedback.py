"""Feedback through the callers' port: what is taken, and how everything else is refused; the clients' calls."""

import asyncio
import pathlib
from collections.abc import Iterator

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from protos import control_pb2 as pb
from protos import records_pb2 as records
from protos.records import mint_record_id, row_record_id
from registry.sections import ModelSection, TensorSpec
from serving.config import CaptureSection, TeacherSection
from serving.gateway.feedback import SEND
from serving.rpc.aio import AsyncInferenceClient
from serving.rpc.client import InferenceClient, InvalidRequest, Overloaded
from serving.rpc.control_pb2_grpc import FeedbackStub
from serving.served import Truth
from serving.shadow.capture import Capture
from serving.shadow.ring import Ring, create
from tests.support.callers import Callers, FakeSession, Gate, callers, count, good_inputs, good_request, refused
from tests.support.waiting import wait_for

METRIC = "everstill_gateway_feedback"
#: A model whose classes have names.
NAMED = ModelSection(
    name="named",
    inputs=(TensorSpec(name="x", datatype="FP32", shape=(-1, 1)),),
    num_classes=3,
    labels=("card_lost", "card_arrival", "Balance"),
)
RECORD_ID = mint_record_id()
INVALID = "INVALID_ARGUMENT"
REFUSED = {
    "no model": (
        pb.FeedbackRequest(record_id=RECORD_ID, label="1"),
        INVALID,
        "no_model",
        "serves 'two', 'more', 'named'",
    ),
    "unknown model": (
        pb.FeedbackRequest(model_name="three"),
        "NOT_FOUND",
        "unknown_model",
        "'three'. This gateway serves",
    ),
    "short id": (
        pb.FeedbackRequest(model_name="two", record_id=b"abc", label="1"),
        INVALID,
        "bad_record_id",
        "3 bytes",
    ),
    "an id as hex": (
        pb.FeedbackRequest(model_name="two", record_id=RECORD_ID.hex().encode(), label="1"),
        INVALID,
        "bad_record_id",
        "32 bytes",
    ),
    "an id of another kind": (
        pb.FeedbackRequest(model_name="two", record_id=bytes(16), label="1"),
        INVALID,
        "bad_record_id",
        "no gateway has given",
    ),
    "row": (pb.FeedbackRequest(model_name="two", record_id=RECORD_ID, row=4096), INVALID, "bad_row", "0 to 4095"),
    "no class": (
        pb.FeedbackRequest(model_name="two", record_id=RECORD_ID, label="3"),
        INVALID,
        "unknown_label",
        "0 to 2",
    ),
    "no label": (pb.FeedbackRequest(model_name="two", record_id=RECORD_ID), INVALID, "unknown_label", "no class ''"),
    "a name nearly": (
        pb.FeedbackRequest(model_name="named", record_id=RECORD_ID, label="card_arival"),
        INVALID,
        "unknown_label",
        "no class 'card_arival'. Did you mean 'card_arrival'?",
    ),
    "a name in capitals": (
        pb.FeedbackRequest(model_name="named", record_id=RECORD_ID, label="BALANCE"),
        INVALID,
        "unknown_label",
        "Did you mean 'Balance'?",
    ),
    "a number in place of a name": (
        pb.FeedbackRequest(model_name="named", record_id=RECORD_ID, label="1"),
        INVALID,
        "unknown_label",
        "one of the 3 names in model.labels, e.g. 'card_lost'",
    ),
    "a long name": (
        pb.FeedbackRequest(model_name="named", record_id=RECORD_ID, label="n" * 10_000),
        INVALID,
        "unknown_label",
        "...'. Send one of",
    ),
    "a novel": (pb.FeedbackRequest(label="n" * 20_000), "RESOURCE_EXHAUSTED", "oversize", "Send at most 16384"),
}


@pytest.fixture(scope="module")
def served() -> Iterator[Callers]:
    with callers(FakeSession(), others=[(NAMED, None)]) as open_port:
        yield open_port


def send(served: Callers, request: pb.FeedbackRequest) -> None:
    FeedbackStub(served.channel).Send(request, timeout=10)  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("name", REFUSED)
def test_wrong_feedback_is_refused_with_what_to_do(served: Callers, name: str) -> None:
    request, code, reason, words = REFUSED[name]
    before = count(code, reason, METRIC)

    status, sentence = refused(lambda: send(served, request))

    assert (status, words in sentence) == (code, True), sentence
    assert len(sentence) < 600
    assert count(code, reason, METRIC) == before + 1
    assert not served.room.told


def test_bytes_that_are_no_feedback_and_calls_that_are_none_are_refused(served: Callers) -> None:
    raw = served.channel.unary_unary(SEND)
    other = served.channel.unary_unary("/everstill.v1.Feedback/Sent")

    assert refused(lambda: raw(b"\xff", timeout=5)) == (
        INVALID,
        "the message is not a FeedbackRequest in protobuf, or has a string that is not UTF-8. Send protobuf",
    )
    assert refused(lambda: other(b"", timeout=5)) == (
        "UNIMPLEMENTED",
        "this gateway has no call 'Sent'. It answers Send",
    )


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.binary(max_size=60)
    | st.builds(
        pb.FeedbackRequest,
        record_id=st.binary(max_size=20) | st.just(RECORD_ID),
        label=st.text(max_size=20) | st.sampled_from(["0", "2", "3", "-1", "\u0663"]),
        model_name=st.sampled_from(["", "two", "named", "\0"]),
        row=st.integers(0, 2**32 - 1) | st.just(0),
    ).map(lambda request: request.SerializeToString())
)
def test_whatever_is_sent_is_taken_or_refused_with_a_status_to_act_on(served: Callers, data: bytes) -> None:
    call = served.channel.unary_unary(SEND, response_deserializer=pb.FeedbackResponse.FromString)
    served.room.told.clear()

    code = "OK"
    try:
        call(data, timeout=5)
    except grpc.RpcError as error:
        code = error.code().name

    assert code in ("OK", "INVALID_ARGUMENT", "NOT_FOUND")
    assert len(served.room.told) == (code == "OK")
    if code != "OK":
        return
    truth = served.room.told.pop()
    request = pb.FeedbackRequest.FromString(data)
    names = {"two": ("0", "1", "2"), "named": NAMED.labels}[request.model_name]
    assert names[truth.label_class] == truth.label == request.label
    assert truth.record_id == row_record_id(request.record_id, request.row)


def test_feedback_on_a_row_of_an_answer_reaches_the_hand_over() -> None:
    with callers(FakeSession(), others=[(NAMED, None)]) as served, InferenceClient(served.address) as client:
        record_id = bytes.fromhex(client.infer("two", good_inputs(2)).record_id)
        before = count("OK", "", METRIC)

        client.feedback("two", record_id.hex(), 2, row=1)
        client.feedback("named", record_id, "Balance")

        assert [one._replace(time_unix_ns=0) for one in served.room.told] == [
            Truth(row_record_id(record_id, 1), "2", 2, 0),
            Truth(record_id, "Balance", 2, 0),
        ]
        assert count("OK", "", METRIC) == before + 2


def test_where_there_is_one_model_feedback_need_not_name_it() -> None:
    with callers(FakeSession(), alone=True) as served, InferenceClient(served.address) as client:
        client.feedback("", RECORD_ID, "1")

        assert [one.label_class for one in served.room.told] == [1]


def test_where_the_ring_is_full_the_caller_is_told_and_may_try_again(served: Callers) -> None:
    served.room.full = True
    try:
        with (
            InferenceClient(served.address) as client,
            pytest.raises(Overloaded, match=r"no room for it\. Try again later"),
        ):
            client.feedback("two", RECORD_ID, 1)
    finally:
        served.room.full = False


@pytest.mark.parametrize(("record_id", "row"), [("not hex", 0), (RECORD_ID, -1), (b"short", 0)])
def test_a_client_is_told_what_is_wrong_with_its_feedback(served: Callers, record_id: str | bytes, row: int) -> None:
    with InferenceClient(served.address) as client, pytest.raises(InvalidRequest, match=r"record id|row"):
        client.feedback("two", record_id, 1, row)


def test_the_client_for_asyncio_sends_feedback_too() -> None:
    async def talk(address: str) -> None:
        async with AsyncInferenceClient(address) as client:
            await client.feedback("two", RECORD_ID.hex(), 1)
            with pytest.raises(InvalidRequest, match="no class '7'"):
                await client.feedback("two", RECORD_ID, 7)

    with callers(FakeSession()) as served:
        asyncio.run(talk(served.address))

        assert [one.record_id for one in served.room.told] == [RECORD_ID]


def test_feedback_is_taken_before_there_is_a_version() -> None:
    with callers(None) as served:
        check = health_pb2.HealthCheckRequest(service="everstill.v1.Feedback")

        assert health_pb2_grpc.HealthStub(served.channel).Check(check, timeout=5).status == 1
        send(served, pb.FeedbackRequest(model_name="two", record_id=RECORD_ID, label="1"))


def test_feedback_is_one_too_many_where_an_inference_would_be() -> None:
    gate = Gate()
    with callers(FakeSession(then=gate.wait), max_in_flight=1) as served:
        inside = served.stub.ModelInfer.future(good_request(), timeout=20)
        assert gate.entered.acquire(timeout=10)
        wait_for(lambda: served.server._admission.full, what="the call inside")

        before = count("RESOURCE_EXHAUSTED", "overload", METRIC)
        status, _ = refused(lambda: send(served, pb.FeedbackRequest()))
        gate.open()
        inside.result(20)

    assert (status, count("RESOURCE_EXHAUSTED", "overload", METRIC)) == ("RESOURCE_EXHAUSTED", before + 1)


def test_while_the_gateway_stops_feedback_is_told_to_try_elsewhere(served: Callers) -> None:
    before = count("UNAVAILABLE", "stopping", METRIC)
    served.server._service.stopping = True
    try:
        status, sentence = refused(lambda: send(served, pb.FeedbackRequest()))
    finally:
        served.server._service.stopping = False

    assert (status, sentence) == ("UNAVAILABLE", "this gateway is stopping. Try again, there or elsewhere")
    assert count("UNAVAILABLE", "stopping", METRIC) == before + 1


def test_feedback_lies_in_the_ring_as_a_frame_that_is_no_sample(tmp_path: pathlib.Path) -> None:
    create(tmp_path / "ring", 2**16)
    producer, consumer = Ring(tmp_path / "ring"), Ring(tmp_path / "ring")
    capture = Capture(CaptureSection(), TeacherSection(), NAMED, producer)

    assert capture.feedback(Truth(RECORD_ID, "Balance", 2, 17))

    ((sequence, payload),) = consumer.read(10)
    label = records.Label(record_id=RECORD_ID, label="Balance", time_unix_ns=17, label_class=2, known=True)
    assert (sequence, records.Sample.FromString(payload)) == (0, records.Sample(label=label))
    assert (consumer.labels, consumer.rows_seen, consumer.dropped) == (1, 0, 0)


def test_feedback_that_finds_no_room_is_no_dropped_sample_and_leaves_half_of_the_ring_to_them(
    tmp_path: pathlib.Path,
) -> None:
    create(tmp_path / "ring", 2**16)
    ring = Ring(tmp_path / "ring")
    capture = Capture(CaptureSection(), TeacherSection(), NAMED, ring)
    num_taken = 0

    while capture.feedback(Truth(RECORD_ID, "Balance", 2, 17)):
        num_taken += 1

    assert (ring.labels, ring.pending_frames, ring.dropped) == (num_taken, num_taken, 0)
    assert ring.append(bytes(ring.capacity // 2 - 16))
    assert not ring.append(b"one more")
