"""Wrong requests, each with the status, the counted reason and the words that its refusal must hold. Built when asked for.

Requests are for the models `two` (tests/support/callers.py) and `kinds` (tests/support/kinds.py) on a port that takes `LIMIT` bytes.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from protos import inference_pb2 as pb
from serving.rpc.convert import infer_request
from tests.support.callers import good_inputs, good_request
from tests.support.kinds import INPUTS, kinds_inputs

LIMIT = 64 * 1024
INVALID, EXHAUSTED = "INVALID_ARGUMENT", "RESOURCE_EXHAUSTED"
Change = Callable[[pb.ModelInferRequest], object]


class Case(NamedTuple):
    """A wrong request and what must be said of it."""

    request: Callable[[], pb.ModelInferRequest]
    code: str
    reason: str
    words: tuple[str, ...]


def changed(change: Change, *, typed: bool = False) -> pb.ModelInferRequest:
    """Return a good request for `two` after a change; `typed` sends typed contents instead of raw ones."""
    request = good_request()
    if typed:
        del request.raw_input_contents[:]
        request.inputs[0].contents.int_contents.extend([0, 0, 0, 0])
        request.inputs[1].contents.fp32_contents.extend([0.0, 0.0])
    change(request)
    return request


def given(**inputs: np.ndarray) -> pb.ModelInferRequest:
    """Return a good request for `two` but for these inputs."""
    return infer_request("two", {**good_inputs(), **inputs})


def kinds(change: Change, **inputs: np.ndarray) -> pb.ModelInferRequest:
    """Return a good request for `kinds` but for these inputs, after a change."""
    request = infer_request("kinds", {**kinds_inputs(), **inputs})
    change(request)
    return request


def tensor(request: pb.ModelInferRequest, name: str) -> pb.ModelInferRequest.InferInputTensor:
    """Return one input of a request."""
    return next(one for one in request.inputs if one.name == name)


def raw(request: pb.ModelInferRequest, name: str, content: bytes) -> None:
    """Replace one input's raw content."""
    request.raw_input_contents[list(INPUTS).index(name)] = content


def _two(change: Change, code: str, reason: str, *words: str, typed: bool = False) -> Case:
    return Case(lambda: changed(change, typed=typed), code, reason, words)


def _given(code: str, reason: str, *words: str, **inputs: np.ndarray) -> Case:
    return Case(lambda: given(**inputs), code, reason, words)


def _kinds(change: Change, code: str, reason: str, *words: str, **inputs: np.ndarray) -> Case:
    return Case(lambda: kinds(change, **inputs), code, reason, words)


def _shape(shape: tuple[int, ...], reason: str, *words: str, content: bytes = bytes(16)) -> Case:
    def reshape(request: pb.ModelInferRequest) -> None:
        request.inputs[0].shape[:] = shape
        request.raw_input_contents[0] = content

    return _two(reshape, INVALID, reason, "'bytes'", *words)


def _datatype(datatype: str, *words: str) -> Case:
    return _two(lambda r: setattr(r.inputs[0], "datatype", datatype), INVALID, "wrong_datatype", *words)


def _without(name: str) -> pb.ModelInferRequest:
    return infer_request("two", {key: array for key, array in good_inputs().items() if key != name})


def _repeat_first(request: pb.ModelInferRequest) -> None:
    request.inputs.add().CopyFrom(request.inputs[0])
    request.raw_input_contents.append(request.raw_input_contents[0])


def _ask(request: pb.ModelInferRequest, *names: str) -> None:
    for name in names:
        request.outputs.add(name=name)


def _set(request: pb.ModelInferRequest, name: str, **choice: object) -> None:
    request.parameters[name].CopyFrom(pb.InferParameter(**choice))  # type: ignore[arg-type]


def _no_value(request: pb.ModelInferRequest) -> None:
    request.parameters["slice"].ParseFromString(bytes([9 << 3, 1]))  # field 9: of no kind that the protocol has


def _output_with(parameter: str, **choice: object) -> Change:
    def ask(request: pb.ModelInferRequest) -> None:
        request.outputs.add(name="logits").parameters[parameter].CopyFrom(
            pb.InferParameter(**choice)  # type: ignore[arg-type]
        )

    return ask


def _typed(name: str, field: str, values: list[object]) -> Change:
    """Send one input of `kinds` alone, typed: what is wrong with it is said before what is missing."""

    def send(request: pb.ModelInferRequest) -> None:
        del request.raw_input_contents[:]
        one = tensor(request, name)
        getattr(one.contents, field).extend(values)
        kept = pb.ModelInferRequest.InferInputTensor()
        kept.CopyFrom(one)
        del request.inputs[:]
        request.inputs.append(kept)

    return send


def _rows(**inputs: np.ndarray) -> Case:
    return Case(
        lambda: infer_request("two", {**good_inputs(3), **inputs}), INVALID, "not_finite", ("'weights'", "row 2")
    )


NAMES = {
    "empty message": Case(pb.ModelInferRequest, "NOT_FOUND", "unknown_model", ("''", "serves 'two'")),
    "unknown model": _two(
        lambda r: setattr(r, "model_name", "three"), "NOT_FOUND", "unknown_model", "'three'", "serves 'two'"
    ),
    "model that is not ASCII": _two(
        lambda r: setattr(r, "model_name", "zw\N{LATIN SMALL LETTER O WITH DIAERESIS}lf"),
        "NOT_FOUND",
        "unknown_model",
        "'zw\N{LATIN SMALL LETTER O WITH DIAERESIS}lf'",
    ),
    "model with control characters": _two(
        lambda r: setattr(r, "model_name", "a\r\nb\0"), "NOT_FOUND", "unknown_model", r"'a\r\nb\x00'"
    ),
    "model name of 20,000 characters": _two(
        lambda r: setattr(r, "model_name", "m" * 20_000), "NOT_FOUND", "unknown_model", "mmm...'", "serves 'two'"
    ),
    "unknown version": _two(
        lambda r: setattr(r, "model_version", "v9"), "NOT_FOUND", "unknown_version", "'v9'", "'fake'"
    ),
    "version that is not ASCII": _two(
        lambda r: setattr(r, "model_version", "\N{SNOWMAN}"), "NOT_FOUND", "unknown_version", "'\N{SNOWMAN}'"
    ),
    "unknown output": _two(
        lambda r: _ask(r, "embedding"), INVALID, "unknown_output", "'embedding'", "The model has logits"
    ),
    "unknown output beside a known one": _two(
        lambda r: _ask(r, "logits", "\N{SNOWMAN}"), INVALID, "unknown_output", "'\N{SNOWMAN}'"
    ),
    "output without a name": _two(lambda r: _ask(r, ""), INVALID, "unknown_output", "unknown output ''"),
    "output asked for twice": _two(
        lambda r: _ask(r, "logits", "logits"), INVALID, "repeated_output", "'logits' is asked for twice"
    ),
    "unknown input": _given(
        INVALID, "unknown_input", "'colour'", "takes bytes, weights", colour=np.zeros((1, 2), np.float32)
    ),
    "unknown input instead of a known one": _two(
        lambda r: setattr(r.inputs[0], "name", "byte"), INVALID, "unknown_input", "'byte'", "takes bytes, weights"
    ),
    "input name that is not ASCII": _given(
        INVALID, "unknown_input", "'\N{SNOWMAN}'", **{"\N{SNOWMAN}": np.zeros((1, 2), np.float32)}
    ),
    "input without a name": _two(
        lambda r: r.inputs[1].ClearField("name"), INVALID, "unknown_input", "unknown input ''"
    ),
    "input name of 20,000 characters": _given(
        INVALID, "unknown_input", "nnn...'", "takes bytes", **{"n" * 20_000: np.zeros((1, 2), np.float32)}
    ),
    "missing input": Case(lambda: _without("weights"), INVALID, "missing_input", ("'weights'", "Send it")),
    "no input at all": Case(
        lambda: pb.ModelInferRequest(model_name="two"), INVALID, "missing_input", ("'bytes' is missing",)
    ),
    "an input twice": _two(_repeat_first, INVALID, "bad_tensor", "'bytes' is sent twice", "Send each tensor once"),
}

CONTENTS = {
    "raw contents without tensors": _two(
        lambda r: r.ClearField("inputs"), INVALID, "bad_tensor", "0 input tensors", "2 raw"
    ),
    "too few raw contents": _two(
        lambda r: r.raw_input_contents.pop(), INVALID, "bad_tensor", "2 input tensors", "1 raw contents"
    ),
    "surplus raw contents": _two(
        lambda r: r.raw_input_contents.append(b""), INVALID, "bad_tensor", "2 input tensors", "3 raw contents"
    ),
    "raw and typed": _two(
        lambda r: r.inputs[0].contents.int_contents.append(1), INVALID, "bad_tensor", "'bytes'", "Use one of the two"
    ),
    "neither raw nor typed": _two(
        lambda r: r.ClearField("raw_input_contents"), INVALID, "wrong_bytes", "'bytes'", "takes 4 values, got 0"
    ),
    "typed in a wrong field": _two(
        lambda r: r.inputs[0].contents.int64_contents.append(1),
        INVALID,
        "bad_tensor",
        "int64_contents",
        "Put its values in int_contents",
        typed=True,
    ),
    "typed floats as doubles": _two(
        lambda r: r.inputs[1].contents.fp64_contents.append(1.0),
        INVALID,
        "bad_tensor",
        "'weights'",
        "Put its values in fp32_contents",
        typed=True,
    ),
    "too few typed values": _two(
        lambda r: r.inputs[0].contents.int_contents.pop(), INVALID, "wrong_bytes", "takes 4 values, got 3", typed=True
    ),
    "too many typed values": _two(
        lambda r: r.inputs[0].contents.int_contents.append(7),
        INVALID,
        "wrong_bytes",
        "takes 4 values, got 5",
        typed=True,
    ),
    "typed value above its range": _kinds(
        _typed("small", "int_contents", [1, 300]), INVALID, "bad_tensor", "'small'", "outside the range of INT8"
    ),
    "typed value below its range": _kinds(
        _typed("small", "int_contents", [1, -129]), INVALID, "bad_tensor", "'small'", "outside the range of INT8"
    ),
    "typed half": _kinds(
        _typed("half", "fp32_contents", [1.0, 2.0]), INVALID, "bad_tensor", "'half'", "Send it as raw contents"
    ),
    "typed booleans as integers": _kinds(
        _typed("flag", "int_contents", [1, 0]), INVALID, "bad_tensor", "'flag'", "Put its values in bool_contents"
    ),
    "too many typed strings": _kinds(
        _typed("text", "bytes_contents", [b"a", b"b"]), INVALID, "wrong_bytes", "'text'", "takes 1 values, got 2"
    ),
    "boolean that is 2": _kinds(
        lambda r: raw(r, "flag", b"\x01\x02"), INVALID, "bad_tensor", "'flag'", "neither 0 nor 1"
    ),
    "string without its length": _kinds(
        lambda r: raw(r, "text", b"\x05\x00"), INVALID, "wrong_bytes", "'text'", "ends inside its string 0"
    ),
    "string shorter than its length": _kinds(
        lambda r: raw(r, "text", b"\x05\x00\x00\x00abc"), INVALID, "wrong_bytes", "'text'", "ends inside its string 0"
    ),
    "string of 4 GiB that isn't there": _kinds(
        lambda r: raw(r, "text", b"\xff\xff\xff\xff"), INVALID, "wrong_bytes", "'text'", "ends inside its string 0"
    ),
    "no string where one is declared": _kinds(
        lambda r: raw(r, "text", b""), INVALID, "wrong_bytes", "'text'", "takes 1 values, got 0"
    ),
    "more strings than the shape says": _kinds(
        lambda r: raw(r, "text", bytes(8)), INVALID, "wrong_bytes", "'text'", "takes 1 values, got 2"
    ),
    "text that is not UTF-8": _kinds(
        lambda r: raw(r, "text", b"\x02\x00\x00\x00\xc3("), INVALID, "bad_string", "'text'", "not UTF-8"
    ),
}

SHAPES = {
    "wrong datatype": _given(INVALID, "wrong_datatype", "FP32", "Send INT32", bytes=np.zeros((1, 4), np.float32)),
    "datatype of the same width": _datatype("UINT32", "'bytes' has datatype UINT32", "Send INT32"),
    "unknown datatype": _datatype("INT33", "'INT33'", "Use one of BOOL"),
    "datatype in small letters": _datatype("int32", "'int32'", "Use one of BOOL"),
    "no datatype": _datatype("", "''", "Use one of BOOL"),
    "brain float": _datatype("BF16", "'bytes' has datatype BF16", "Convert it to FP32"),
    "a datatype of 5,000 snowmen": _datatype("\N{SNOWMAN}" * 5_000, "Use one of"),
    "a scalar": _shape((), "wrong_shape", "shape []", "Send [-1, 4]", content=bytes(4)),
    "too few dimensions": _shape((4,), "wrong_shape", "[4]", "Send [-1, 4]"),
    "too many dimensions": _shape((1, 4, 1), "wrong_shape", "[1, 4, 1]", "Send [-1, 4]"),
    "100 dimensions": _shape((1,) * 100, "wrong_shape", "100 dimensions", content=bytes(4)),
    "30,000 dimensions": _shape((2**31,) * 10_000, "wrong_shape", "10000 dimensions"),
    "wrong size": _shape((1, 5), "wrong_shape", "[1, 5]", "Send [-1, 4]", content=bytes(20)),
    "no rows": _shape((0, 4), "wrong_shape", "[0, 4]", "at least one row", content=b""),
    "no columns": _shape((1, 0), "wrong_shape", "[1, 0]", "Send [-1, 4]", content=b""),
    "different rows": _given(
        INVALID, "wrong_shape", "bytes 1", "weights 2", "same number", weights=np.zeros((2, 2), np.float32)
    ),
    "negative dimension": _shape((-1, 4), "wrong_shape", "negative dimension", "[-1, 4]"),
    "two negative dimensions": _shape((-1, -4), "wrong_shape", "negative dimension"),
    "most negative dimension": _shape((-(2**63), 4), "wrong_shape", "negative dimension"),
    "shape that overflows": _shape((2**62, 2**62), "wrong_bytes", "more than 2**63 bytes, got 16"),
    "shape that overflows to the right size": _shape((2**62 + 1, 4), "wrong_bytes", "more than 2**63 bytes, got 16"),
    "shape that overflows beside a zero": _shape((0, 2**62), "wrong_shape", "impossible shape", content=b""),
    "shape larger than any memory": _shape((2**40, 4), "wrong_bytes", "takes 17592186044416 bytes, got 16"),
    "too few bytes": _shape((1, 4), "wrong_bytes", "takes 16 bytes, got 7", content=bytes(7)),
    "too many bytes": _shape((1, 4), "wrong_bytes", "takes 16 bytes, got 20", content=bytes(20)),
    "no bytes": _shape((1, 4), "wrong_bytes", "takes 16 bytes, got 0", content=b""),
}

VALUES = {
    "NaN": _given(INVALID, "not_finite", "'weights'", "row 0", "finite", weights=np.array([[1, np.nan]], np.float32)),
    "infinity in the third row": _rows(weights=np.array([[0, 0], [0, 0], [np.inf, 0]], np.float32)),
    "minus infinity in the third row": _rows(weights=np.array([[0, 0], [0, 0], [0, -np.inf]], np.float32)),
    "NaN as a half": _kinds(lambda r: None, INVALID, "not_finite", "'half'", half=np.array([[np.nan, 0]], np.float16)),
    "index that the student doesn't have": _kinds(
        lambda r: None, INVALID, "student_refused", "Gather refuses them", "idx=3", index=np.array([3])
    ),
    "index far below zero": _kinds(
        lambda r: None, INVALID, "student_refused", "Gather refuses them", index=np.array([-(2**63)])
    ),
    "request too large": _given(
        EXHAUSTED, "oversize", f"Send at most {LIMIT}", bytes=np.zeros((LIMIT // 16, 4), np.int32)
    ),
    "more rows than one request may have": _given(
        EXHAUSTED,
        "too_many_rows",
        "the request has 1025 rows",
        "Send at most 1024",
        bytes=np.zeros((1025, 4), np.int32),
        weights=np.zeros((1025, 2), np.float32),
    ),
    "answer too large": Case(
        lambda: infer_request("wide", {"x": np.zeros((1000, 1), np.int8)}),
        EXHAUSTED,
        "oversize_answer",
        ("the answer to 1000 rows has 400000 bytes", "Send at most 163"),
    ),
    "a deadline of a microsecond": _two(
        lambda r: _set(r, "timeout", int64_param=1), "DEADLINE_EXCEEDED", "deadline", "Allow more time"
    ),
    "a negative timeout": _two(
        lambda r: _set(r, "timeout", int64_param=-1), INVALID, "bad_parameter", "'timeout' is -1", "microseconds"
    ),
    "a timeout in words": _two(
        lambda r: _set(r, "timeout", string_param="soon"), INVALID, "bad_parameter", "'timeout' is 'soon'"
    ),
    "a parameter of an unknown kind": _two(
        _no_value, INVALID, "bad_parameter", "'slice' has no value of a known kind", "Set its bool_param"
    ),
    "a sequence": _two(
        lambda r: _set(r, "sequence_id", uint64_param=7), INVALID, "unsupported_parameter", "'sequence_id'", "state"
    ),
    "a sequence by name": _two(
        lambda r: _set(r, "sequence_id", string_param="s"), INVALID, "unsupported_parameter", "'sequence_id'"
    ),
    "input in shared memory": _two(
        lambda r: r.inputs[0].parameters["shared_memory_region"].CopyFrom(pb.InferParameter(string_param="r")),
        INVALID,
        "unsupported_parameter",
        "input 'bytes' points to shared memory",
    ),
    "output in shared memory": _two(
        _output_with("shared_memory_region", string_param="r"),
        INVALID,
        "unsupported_parameter",
        "output 'logits' asks for shared memory",
    ),
    "a classification": _two(
        _output_with("classification", int64_param=3), INVALID, "unsupported_parameter", "classification", "largest"
    ),
}

CASES = {**NAMES, **CONTENTS, **SHAPES, **VALUES}
