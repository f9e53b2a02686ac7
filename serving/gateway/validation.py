"""What a request must be before it reaches the student: right version, and every tensor as the model declares it.

Decides which mistake is named first: version, contents, names, datatype, shape, values. Pure; any thread.
"""

import numpy as np

from protos import inference_pb2 as pb
from protos.errors import TensorError
from protos.tensors import Array, datatype_of
from registry.config import ModelSection, TensorSpec
from serving.gateway.refusal import Refusal
from serving.rpc.convert import read_inputs


def check_version(live: str | None, version: str) -> None:
    """Refuse a call for a version that is not the one serving."""
    if version and version != live:
        raise Refusal(
            "NOT_FOUND",
            "unknown_version",
            f"version {version[:64]!r} is not serving",
            fix=f"Ask for {live!r}, or leave the version empty" if live else "Leave the version empty",
        )


def check_inputs(model: ModelSection, request: pb.ModelInferRequest, *, refuse_nan: bool) -> dict[str, Array]:
    """Return a request's tensors, each as the model declares it and all with the same number of rows.

    Raises:
        Refusal: INVALID_ARGUMENT with a sentence that names the tensor.
    """
    for output in request.outputs:
        if output.name != model.output:
            raise _invalid("unknown_output", f"unknown output {output.name[:64]!r}", f"The model has {model.output!r}")
    try:
        arrays = read_inputs(request)
    except TensorError as error:
        raise Refusal("INVALID_ARGUMENT", error.reason, error.message, fix=error.fix) from None
    declared = {spec.name: spec for spec in model.inputs}
    for name in arrays:
        if name not in declared:
            raise _invalid("unknown_input", f"unknown input {name[:64]!r}", f"The model takes {', '.join(declared)}")
    for name, spec in declared.items():
        if name not in arrays:
            raise _invalid("missing_input", f"input {name!r} is missing", "Send it")
        _check_tensor(spec, arrays[name], refuse_nan=refuse_nan)
    if len({len(array) for array in arrays.values()}) > 1:
        rows = ", ".join(f"{name} {len(array)}" for name, array in arrays.items())
        raise _invalid(
            "wrong_shape", f"the inputs have different numbers of rows: {rows}", "Send the same number for each"
        )
    return arrays


def _check_tensor(spec: TensorSpec, array: Array, *, refuse_nan: bool) -> None:
    if datatype_of(array) != spec.datatype:
        raise _invalid(
            "wrong_datatype", f"input {spec.name!r} has datatype {datatype_of(array)}", f"Send {spec.datatype}"
        )
    fits = array.ndim == len(spec.shape) and all(
        want in (-1, have) for want, have in zip(spec.shape, array.shape, strict=True)
    )
    if not fits:
        raise _invalid(
            "wrong_shape",
            f"input {spec.name!r} has shape {list(array.shape)}",
            f"Send {list(spec.shape)}, -1 being any size",
        )
    if 0 in array.shape:
        raise _invalid(
            "wrong_shape",
            f"input {spec.name!r} has shape {list(array.shape)}: nothing to answer",
            "Send at least one row",
        )
    if refuse_nan and array.dtype.kind == "f" and not np.isfinite(array).all():
        row = int(np.argwhere(~np.isfinite(array))[0][0])
        raise _invalid("not_finite", f"input {spec.name!r} has NaN or infinity in row {row}", "Send finite numbers")


def _invalid(reason: str, message: str, fix: str) -> Refusal:
    return Refusal("INVALID_ARGUMENT", reason, message, fix=fix)
