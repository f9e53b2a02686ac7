"""The calls of everstill.v1.Feedback: a caller says what was true of a row that was answered before.

Decides what feedback must be: the id of a record, a class of the model. Refuses to know whether anybody sampled that record: who joins
the two is the loop. Hands over and never waits: a full ring is the caller's to try again. Called by gRPC's threads.
"""

import difflib
import time
from collections.abc import Mapping

import grpc
import structlog
from google.protobuf.message import DecodeError

from protos import control_pb2 as pb
from protos.records import ID_BYTES, is_record_id, row_record_id
from protos.tensors import quoted
from registry.sections import ModelSection
from serving.gateway.refusal import Refusal, invalid
from serving.gateway.servicer import ServedModel, abort, find_model, unreadable
from serving.served import Truth
from serving.telemetry import FEEDBACK

SERVICE = "everstill.v1.Feedback"
SEND = f"/{SERVICE}/Send"
#: An id, a class's name and a model's need far less.
MAX_MESSAGE_BYTES = 16 * 2**10
#: Names among which the nearest one is looked for: it takes about 2 us each, of the interpreter that callers need.
MAX_NAMES_COMPARED = 1000


class Feedback:
    """Takes feedback for several models, each by its name.

    Args:
        max_rows: that a request may have: no row has a larger number.
    """

    def __init__(self, models: Mapping[str, ServedModel], *, max_rows: int) -> None:
        self._models = models
        self._max_rows = max_rows
        self._classes = {name: _classes_of(model.settings) for name, model in models.items()}
        self._log = structlog.get_logger()

    def send(self, data: bytes, context: grpc.ServicerContext) -> pb.FeedbackResponse:
        """Take one feedback; what is answered lies in the ring, and outlives this process."""
        request = _readable(data)
        try:
            if isinstance(request, Refusal):
                raise request
            self._take(request)
        except Refusal as refusal:
            abort(self._counted(refusal, request), context)
        except Exception:  # a supervision point, as for inference: never UNKNOWN, never a traceback
            self._log.exception("feedback failed unexpectedly")
            bug = Refusal("INTERNAL", "bug", "this gateway failed on the feedback; its log says why")
            abort(self._counted(bug, request), context)
        FEEDBACK.labels("OK", "", request.model_name or next(iter(self._models))).inc()
        return pb.FeedbackResponse()

    def _take(self, request: pb.FeedbackRequest) -> None:
        if not request.model_name and len(self._models) > 1:
            served = ", ".join(map(repr, self._models))
            raise invalid("no_model", "the feedback names no model", f"This gateway serves {served}")
        model = find_model(self._models, request.model_name or next(iter(self._models)))
        if not is_record_id(request.record_id):
            raise invalid(
                "bad_record_id",
                f"the record id is {len(request.record_id)} bytes that no gateway has given",
                f"Send the {ID_BYTES} bytes that an answer's parameter record_id has in hex",
            )
        if request.row >= self._max_rows:
            raise invalid(
                "bad_row",
                f"row {request.row} is beyond what a request may have",
                f"Rows go from 0 to {self._max_rows - 1}",
            )
        truth = Truth(
            row_record_id(request.record_id, request.row),
            request.label,
            self._class_of(model.settings, request.label),
            time.time_ns(),
        )
        if not model.feedback(truth):
            raise Refusal(
                "RESOURCE_EXHAUSTED",
                "ring_full",
                "the hand-over to the mirror has no room for it",
                fix="Try again later",
            )

    def _class_of(self, model: ModelSection, label: str) -> int:
        known = self._classes[model.name]
        if label in known:
            return known[label]
        if not model.labels:
            fix = f"Send its number, 0 to {model.num_classes - 1}: the classes have no names here"
        elif len(known) <= MAX_NAMES_COMPARED and (near := _nearest(label, known)):
            fix = f"Did you mean {near!r}?"
        else:
            fix = f"Send one of the {model.num_classes} names in model.labels, e.g. {model.labels[0]!r}"
        raise invalid("unknown_label", f"the model {model.name!r} has no class {quoted(label)}", fix)

    def _counted(self, refusal: Refusal, request: pb.FeedbackRequest | Refusal) -> Refusal:
        name = "" if isinstance(request, Refusal) else request.model_name
        return counted(refusal, name if name in self._models else "")


def counted(refusal: Refusal, model: str = "") -> Refusal:
    """Count a refusal of feedback and return it."""
    FEEDBACK.labels(refusal.code, refusal.reason, model).inc()
    return refusal


def _readable(data: bytes) -> pb.FeedbackRequest | Refusal:
    if len(data) > MAX_MESSAGE_BYTES:
        message = f"the request has {len(data)} bytes"
        return Refusal("RESOURCE_EXHAUSTED", "oversize", message, fix=f"Send at most {MAX_MESSAGE_BYTES}")
    try:
        return pb.FeedbackRequest.FromString(data)
    except DecodeError:
        return unreadable("FeedbackRequest")


def _classes_of(model: ModelSection) -> dict[str, int]:
    """Return each class by what feedback calls it; a name that two classes have means the first."""
    names = model.labels or tuple(map(str, range(model.num_classes)))
    return {name: number for number, name in reversed(list(enumerate(names)))}


def _nearest(label: str, known: Mapping[str, int]) -> str | None:
    folded = {name.casefold(): name for name in known}
    if label.casefold() in folded:
        return folded[label.casefold()]
    near = difflib.get_close_matches(label[:100], known, n=1)
    return near[0] if near else None
