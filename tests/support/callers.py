"""A worker's callers' port inside the test's own process, with whatever student the test wants behind it."""

import contextlib
import dataclasses
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

import grpc
import numpy as np
from prometheus_client import REGISTRY

from protos import inference_pb2 as pb
from protos.tensors import Array, strings
from registry.sections import ModelSection, TensorSpec
from serving.config import GatewaySection
from serving.gateway.server import CallersServer
from serving.gateway.servicer import ServedModel, Servicer, Student, TeacherAnswer
from serving.rpc.convert import infer_request
from serving.rpc.inference_pb2_grpc import GRPCInferenceServiceStub
from serving.served import Served, Truth
from serving.student.batcher import Batcher
from serving.student.slot import Session, Slot
from serving.worker_app import refusal_of, refusal_of_teacher

#: A model with an integer and a floating-point input.
TWO_INPUTS = ModelSection(
    name="two",
    inputs=(
        TensorSpec(name="bytes", datatype="INT32", shape=(-1, 4)),
        TensorSpec(name="weights", datatype="FP32", shape=(-1, 2)),
    ),
    output="logits",
    num_classes=3,
)
#: The same with two further outputs, as FakeSession gives them.
MORE_OUTPUTS = TWO_INPUTS.model_copy(
    update={
        "name": "more",
        "extra_outputs": (
            TensorSpec(name="double", datatype="INT64", shape=(-1,)),
            TensorSpec(name="text", datatype="BYTES", shape=(-1,)),
        ),
    }
)


def good_inputs(num_rows: int = 1) -> dict[str, Array]:
    """Return inputs that `TWO_INPUTS` takes; row i holds i."""
    rows = np.arange(num_rows)[:, None]
    return {"bytes": np.repeat(rows, 4, 1).astype(np.int32), "weights": np.repeat(rows, 2, 1).astype(np.float32)}


def good_request(num_rows: int = 1) -> pb.ModelInferRequest:
    """Return a request that `TWO_INPUTS` takes."""
    return infer_request("two", good_inputs(num_rows))


@dataclasses.dataclass(frozen=True)
class Answer:
    """A teacher's answer."""

    output_BC: Array
    version: str = "teacher-7"
    latency_s: float = 0.01


class FakeSession:
    """A student for a slot: the logits of a row are [its first byte, 0, 0], or whatever `then` makes of the inputs.

    Args:
        then: called with the inputs of each run first; may wait or raise.
    """

    def __init__(
        self, version: str = "fake", then: Callable[[Mapping[str, Array]], None] = lambda inputs: None
    ) -> None:
        self.version = version
        self.digest = version
        self.batches: list[int] = []
        self._then = then

    def run(self, inputs: Mapping[str, Array]) -> Array:
        """Answer a batch."""
        self._then(inputs)
        first_B = inputs["bytes"][:, 0]
        self.batches.append(len(first_B))
        return np.stack([first_B, 0 * first_B, 0 * first_B], axis=1).astype(np.float32)

    def run_with(self, inputs: Mapping[str, Array], extra: Sequence[str]) -> tuple[Array, dict[str, Array]]:
        """Answer a batch with further outputs: `double` is twice the first byte, `text` its digits."""
        logits_BC = self.run(inputs)
        first_B = inputs["bytes"][:, 0].astype(np.int64)
        outputs = {"double": 2 * first_B, "text": strings(str(one) for one in first_B)}
        return logits_BC, {name: outputs[name] for name in extra}


class Gate:
    """Holds runs of a FakeSession until the test opens it."""

    def __init__(self) -> None:
        self.entered = threading.Semaphore(0)
        self._opened = threading.Event()

    def wait(self, inputs: Mapping[str, Array]) -> None:
        """Say that a run began, and wait."""
        self.entered.release()
        assert self._opened.wait(20)

    def open(self) -> None:
        """Let every run go on."""
        self._opened.set()


class FakeRoom:
    """Takes feedback while there is room."""

    def __init__(self) -> None:
        self.told: list[Truth] = []
        self.full = False

    def take(self, truth: Truth) -> bool:
        """Keep it."""
        if not self.full:
            self.told.append(truth)
        return not self.full


class Callers:
    """The running server, a connection to it, and what was captured."""

    def __init__(
        self,
        server: CallersServer,
        address: str,
        slot: Slot,
        channel: grpc.Channel,
        captured: list[Served],
        room: FakeRoom,
    ) -> None:
        self.server = server
        self.address = address
        self.slot = slot
        self.channel = channel
        self.captured = captured
        self.room = room
        self.stub = GRPCInferenceServiceStub(channel)  # type: ignore[no-untyped-call]

    def infer(self, request: pb.ModelInferRequest, *, timeout_s: float = 10.0) -> Any:
        """Ask the gateway."""
        return self.stub.ModelInfer(request, timeout=timeout_s)

    def stream(
        self, requests: Iterable[pb.ModelInferRequest], *, metadata: tuple[tuple[str, str], ...] = ()
    ) -> Iterator[pb.ModelStreamInferResponse]:
        """Return the messages that a stream of requests is answered with."""
        return iter(self.stub.ModelStreamInfer(iter(requests), timeout=20, metadata=metadata))

    def refusal(self, request: pb.ModelInferRequest, *, timeout_s: float = 10.0) -> tuple[str, str]:
        """Return status and sentence of a request that must be refused."""
        return refused(lambda: self.infer(request, timeout_s=timeout_s))


def slot_of(session: Session | None) -> Slot:
    """Return a slot that holds this."""
    slot = Slot()
    if session:
        slot.swap(session, drain_deadline_s=1.0)
    return slot


def student_of(slot: Slot, max_batch: int) -> Student:
    """Return how a servicer reaches what a slot holds."""
    batcher = Batcher(slot, max_batch=max_batch)
    return Student(
        run=lambda inputs, deadline, extra: batcher.run(inputs, extra=extra, deadline=deadline),
        version=lambda: slot.version,
        no_answer=refusal_of,
    )


def refused(call: Callable[[], Any]) -> tuple[str, str]:
    """Return status and sentence of a call that must be refused."""
    try:
        answer = call()
    except grpc.RpcError as error:
        return error.code().name, error.details() or ""
    raise AssertionError(f"it was answered: {answer}")


def count(code: str, reason: str, metric: str = "everstill_gateway_requests") -> float:
    """Return how many calls of this process ended so."""
    wanted = {"code": code, "reason": reason}.items()
    (requests,) = (one for one in REGISTRY.collect() if one.name == metric)
    return sum(one.value for one in requests.samples if one.name.endswith("_total") and wanted <= one.labels.items())


@contextlib.contextmanager
def callers(
    session: FakeSession | None,
    *,
    ask_teacher: Callable[[Mapping[str, Array], float], TeacherAnswer] | None = None,
    teacher_kind: Literal["logits", "probabilities"] = "logits",
    others: Sequence[tuple[ModelSection, Session | None]] = (),
    alone: bool = False,
    **settings: Any,
) -> Iterator[Callers]:
    """Open a callers' port for `TWO_INPUTS` and `MORE_OUTPUTS`, answered by one student.

    Args:
        session: what the slot holds, or nothing.
        others: further models, each with what answers for it.
        alone: whether `TWO_INPUTS` is the only model.
        settings: of the section [gateway].
    """
    gateway = GatewaySection(port=0, **settings)
    captured: list[Served] = []
    room = FakeRoom()
    slot = slot_of(session)
    served = [(TWO_INPUTS, slot), (MORE_OUTPUTS, slot), *((model, slot_of(own)) for model, own in others)]
    served = served[:1] if alone else served
    servicer = Servicer(
        {
            model.name: ServedModel(
                model,
                student_of(own, gateway.max_batch),
                captured.append,
                room.take,
                ask_teacher,
                teacher_kind,
                refusal_of_teacher,
            )
            for model, own in served
        },
        refuse_nan=gateway.refuse_nan,
        max_message_bytes=gateway.max_message_bytes,
        max_rows=gateway.max_rows,
        server_version="test",
    )
    server = CallersServer(gateway, servicer)
    address = server.start()
    channel = grpc.insecure_channel(address, options=[("grpc.max_send_message_length", -1)])
    try:
        yield Callers(server, address, slot, channel, captured, room)
    finally:
        channel.close()
        server.stop(0.0)  # nobody is inside any more
