"""What a request must be before it reaches the student: right version, and every tensor as the model declares it.

Decides which mistake is named first: version, parameters, outputs, contents, names, datatype, shape, values. Pure; any thread.
"""

from collections.abc import Mapping

import numpy as np

from protos import inference_pb2 as pb
from protos.errors import TensorError
from protos.tensors import BYTES, Array, datatype_of, numpy_type, quoted
from registry.sections import ModelSection, TensorSpec
from serving.gateway.refusal import Refusal, invalid
from serving.rpc.convert import Parameter, read_inputs, read_parameters

#: Parameters of Triton's extensions that change what an answer means. Ignoring them would answer another question.
SEQUENCE_ID, TIMEOUT_US = "sequence_id", "timeout"
SHARED_MEMORY, CLASSIFICATION = "shared_memory_region", "classification"


def check_version(live: str | None, version: str) -> None:
    """Refuse a call for a version that is not the one serving."""
    if version and version != live:
        raise Refusal(
            "NOT_FOUND",
            "unknown_version",
            f"version {quoted(version)} is not serving",
            fix=f"Ask for {live!r}, or leave the version empty" if live else "Leave the version empty",
        )


def check_parameters(request: pb.ModelInferRequest) -> dict[str, Parameter]:
    """Return a request's parameters as plain values. Those of no meaning here are ignored; see docs/protocol.md.

    Raises:
        Refusal: one has no value, or asks for what this gateway doesn't do.
    """
    parameters = read_parameters(request.parameters)
    for name in request.parameters.keys() - parameters.keys():
        raise invalid(
            "bad_parameter",
            f"parameter {quoted(name)} has no value of a known kind",
            "Set its bool_param, int64_param, uint64_param, double_param or string_param",
        )
    if parameters.get(SEQUENCE_ID):
        raise invalid(
            "unsupported_parameter",
            f"the parameter {SEQUENCE_ID!r} asks for state between requests, which no student keeps",
            "Leave it out and send whole inputs",
        )
    for tensor in request.inputs:
        if SHARED_MEMORY in tensor.parameters:
            raise invalid(
                "unsupported_parameter",
                f"input {quoted(tensor.name)} points to shared memory, which this gateway can't read",
                "Send its contents in the message",
            )
    for output in request.outputs:
        if SHARED_MEMORY in output.parameters:
            raise invalid(
                "unsupported_parameter",
                f"output {quoted(output.name)} asks for shared memory, which this gateway can't write",
                "Read it from the answer",
            )
        if CLASSIFICATION in output.parameters:
            raise invalid(
                "unsupported_parameter",
                f"output {quoted(output.name)} asks for a {CLASSIFICATION}, which this gateway doesn't make",
                "Leave the parameter out and take the largest logits",
            )
    return parameters


def time_allowed(parameters: Mapping[str, Parameter], remaining_s: float | None) -> float | None:
    """Return how long a request may take, in seconds: its call's deadline, or its parameter `timeout` (in us) if sooner.

    Raises:
        Refusal: DEADLINE_EXCEEDED where no time is left, INVALID_ARGUMENT where `timeout` is no number of microseconds.
    """
    timeout_us = parameters.get(TIMEOUT_US, 0)
    if isinstance(timeout_us, bool | str) or timeout_us < 0 or timeout_us != timeout_us:
        raise invalid(
            "bad_parameter", f"the parameter {TIMEOUT_US!r} is {timeout_us!r}", "Give a number of microseconds"
        )
    if timeout_us:
        remaining_s = timeout_us / 1e6 if remaining_s is None else min(remaining_s, timeout_us / 1e6)
    if remaining_s is not None and remaining_s <= 0:
        raise Refusal(
            "DEADLINE_EXCEEDED", "deadline", "the deadline passed before the request was read", fix="Allow more time"
        )
    return remaining_s


def wanted_outputs(model: ModelSection, request: pb.ModelInferRequest) -> list[str]:
    """Return the names of the outputs that an answer holds, in the order asked for; all where none is named.

    Raises:
        Refusal: the model has no such output, or one is asked for twice.
    """
    known = [model.output, *(spec.name for spec in model.extra_outputs)]
    wanted = [output.name for output in request.outputs]
    for place, name in enumerate(wanted):
        if name not in known:
            raise invalid("unknown_output", f"unknown output {quoted(name)}", f"The model has {', '.join(known)}")
        if name in wanted[:place]:
            raise invalid("repeated_output", f"output {quoted(name)} is asked for twice", "Ask for each output once")
    return wanted or known


def check_rows(num_rows: int, max_rows: int) -> None:
    """Refuse a request that would keep the student from everybody else for too long.

    Raises:
        Refusal: RESOURCE_EXHAUSTED, with the number of rows that would do.
    """
    if num_rows > max_rows:
        raise Refusal(
            "RESOURCE_EXHAUSTED",
            "too_many_rows",
            f"the request has {num_rows} rows",
            fix=f"Send at most {max_rows} in a request",
        )


def check_answer_size(model: ModelSection, wanted: list[str], num_rows: int, max_bytes: int) -> None:
    """Refuse a request whose answer would be larger than a message may be, before the student runs.

    Raises:
        Refusal: RESOURCE_EXHAUSTED, with the number of rows that would do.
    """
    sizes = {model.output: 4 * model.num_classes}
    for spec in model.extra_outputs:
        fixed = spec.datatype != BYTES and all(size > 0 for size in spec.shape[1:])
        sizes[spec.name] = numpy_type(spec.datatype).itemsize * int(np.prod(spec.shape[1:])) if fixed else 0
    row_bytes = sum(sizes[name] for name in wanted)
    if num_rows * row_bytes > max_bytes:
        raise oversized_answer(num_rows, num_rows * row_bytes, f"Send at most {max_bytes // row_bytes} in a request")


def oversized_answer(num_rows: int, num_bytes: int, fix: str) -> Refusal:
    """Return the refusal of an answer that is larger than a message may be."""
    message = f"the answer to {num_rows} rows has {num_bytes} bytes"
    return Refusal("RESOURCE_EXHAUSTED", "oversize_answer", message, fix=fix)


def check_inputs(model: ModelSection, request: pb.ModelInferRequest, *, refuse_nan: bool) -> dict[str, Array]:
    """Return a request's tensors, each as the model declares it and all with the same number of rows.

    Raises:
        Refusal: INVALID_ARGUMENT with a sentence that names the tensor.
    """
    try:
        arrays = read_inputs(request)
    except TensorError as error:
        raise invalid(error.reason, error.message, error.fix) from None
    declared = {spec.name: spec for spec in model.inputs}
    for name in arrays:
        if name not in declared:
            raise invalid("unknown_input", f"unknown input {quoted(name)}", f"The model takes {', '.join(declared)}")
    for name, spec in declared.items():
        if name not in arrays:
            raise invalid("missing_input", f"input {name!r} is missing", "Send it")
        _check_tensor(spec, arrays[name], refuse_nan=refuse_nan)
    if len({len(array) for array in arrays.values()}) > 1:
        rows = ", ".join(f"{name} {len(array)}" for name, array in arrays.items())
        raise invalid(
            "wrong_shape", f"the inputs have different numbers of rows: {rows}", "Send the same number for each"
        )
    return arrays


def _check_tensor(spec: TensorSpec, array: Array, *, refuse_nan: bool) -> None:
    if datatype_of(array) != spec.datatype:
        raise invalid(
            "wrong_datatype", f"input {spec.name!r} has datatype {datatype_of(array)}", f"Send {spec.datatype}"
        )
    fits = array.ndim == len(spec.shape) and all(
        want in (-1, have) for want, have in zip(spec.shape, array.shape, strict=True)
    )
    if not fits:
        raise invalid(
            "wrong_shape",
            f"input {spec.name!r} has shape {list(array.shape)}",
            f"Send {list(spec.shape)}, -1 being any size",
        )
    if 0 in array.shape:
        raise invalid(
            "wrong_shape",
            f"input {spec.name!r} has shape {list(array.shape)}: nothing to answer",
            "Send at least one row",
        )
    if refuse_nan and array.dtype.kind == "f" and not np.isfinite(array).all():
        row = int(np.argwhere(~np.isfinite(array))[0][0])
        raise invalid("not_finite", f"input {spec.name!r} has NaN or infinity in row {row}", "Send finite numbers")
