"""Open Inference Protocol messages to arrays and back, for raw and typed contents.

Decides what a well-formed tensor on the wire is. Knows no model: names and shapes that a model declares are checked by the
gateway. Called by the servicers and clients; pure functions, any thread.
"""

from collections.abc import Iterable, Mapping, MutableMapping, Sequence

import numpy as np

from protos import inference_pb2 as pb
from protos.errors import TensorError
from protos.tensors import BYTES, Array, datatype_of, decode, encode, numpy_type, quoted, shaped, strings

Parameter = bool | int | float | str
Tensor = pb.ModelInferRequest.InferInputTensor | pb.ModelInferResponse.InferOutputTensor

#: The field of InferTensorContents that carries a datatype's values, as the protocol says.
CONTENTS_FIELD = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    BYTES: "bytes_contents",
}
#: What holds every value of a kind of datatype exactly, before its range is checked.
WIDE_TYPES = {"b": np.bool_, "i": np.int64, "u": np.uint64, "f": np.float64}
#: Datatypes of the protocol that numpy and ONNX Runtime have no arrays for, and what to send instead.
NOT_SERVED = {"BF16": "FP32"}


def infer_request(
    model: str,
    inputs: Mapping[str, Array],
    *,
    outputs: Iterable[str] = (),
    request_id: str = "",
    parameters: Mapping[str, Parameter] | None = None,
) -> pb.ModelInferRequest:
    """Return a request with raw contents. An array of shape [batch, ...] for each input."""
    request = pb.ModelInferRequest(model_name=model, id=request_id)
    for name, array in inputs.items():
        request.inputs.add(name=name, datatype=datatype_of(array), shape=array.shape)
        request.raw_input_contents.append(encode(array))
    for name in outputs:
        request.outputs.add(name=name)
    write_parameters(request.parameters, parameters or {})
    return request


def read_inputs(request: pb.ModelInferRequest) -> dict[str, Array]:
    """Return a request's tensors as read-only arrays, raw ones without a copy.

    Raises:
        TensorError: raw and typed contents mixed, a name sent twice, or contents that don't fit datatype and shape.
    """
    return _read("input", request.inputs, request.raw_input_contents)


def read_outputs(response: pb.ModelInferResponse) -> dict[str, Array]:
    """Return an answer's tensors; raises as `read_inputs`."""
    return _read("output", response.outputs, response.raw_output_contents)


def infer_response(
    model: str,
    version: str,
    outputs: Mapping[str, Array],
    *,
    request_id: str = "",
    parameters: Mapping[str, Parameter] | None = None,
) -> pb.ModelInferResponse:
    """Return an answer with raw contents."""
    response = pb.ModelInferResponse(model_name=model, model_version=version, id=request_id)
    for name, array in outputs.items():
        response.outputs.add(name=name, datatype=datatype_of(array), shape=array.shape)
        response.raw_output_contents.append(encode(array))
    write_parameters(response.parameters, parameters or {})
    return response


def read_parameters(parameters: Mapping[str, pb.InferParameter]) -> dict[str, Parameter]:
    """Return request or answer parameters as plain values; one without a value is left out."""
    plain: dict[str, Parameter] = {}
    for name, parameter in parameters.items():
        choice = parameter.WhichOneof("parameter_choice")
        if choice is not None:
            plain[name] = getattr(parameter, choice)
    return plain


def write_parameters(target: MutableMapping[str, pb.InferParameter], parameters: Mapping[str, Parameter]) -> None:
    """Set plain values as protocol parameters."""
    for name, value in parameters.items():
        if isinstance(value, bool):
            target[name].bool_param = value
        elif isinstance(value, int) and value < 2**63:
            target[name].int64_param = value
        elif isinstance(value, int):
            target[name].uint64_param = value
        elif isinstance(value, float):
            target[name].double_param = value
        else:
            target[name].string_param = value


def _read(what: str, tensors: Sequence[Tensor], raw: Sequence[bytes]) -> dict[str, Array]:
    if raw and len(raw) != len(tensors):
        raise TensorError(
            f"the message has {len(tensors)} {what} tensors but {len(raw)} raw contents",
            fix="Send one raw content for each tensor, or none",
        )
    arrays: dict[str, Array] = {}
    for place, tensor in enumerate(tensors):
        name = tensor.name
        if name in arrays:
            raise TensorError(f"{what} {quoted(name)} is sent twice", fix="Send each tensor once")
        if tensor.datatype in NOT_SERVED:
            raise TensorError(
                f"{what} {quoted(name)} has datatype {tensor.datatype}, which is not served",
                fix=f"Convert it to {NOT_SERVED[tensor.datatype]}",
                reason="wrong_datatype",
            )
        if raw and tensor.HasField("contents") and tensor.contents.ListFields():  # MLServer sends empty ones beside raw
            raise TensorError(
                f"{what} {quoted(name)} has typed contents in a message with raw contents",
                fix="Use one of the two for the whole message",
            )
        if raw:
            arrays[name] = decode(name, tensor.datatype, tensor.shape, raw[place])
            _check_booleans(name, arrays[name])
        else:
            arrays[name] = _from_contents(tensor)
    return arrays


def _check_booleans(name: str, array: Array) -> None:
    """A byte that is neither 0 nor 1 is no boolean: what a model makes of it isn't defined."""
    if array.dtype == np.bool_ and array.size and array.view(np.uint8).max() > 1:
        raise TensorError(
            f"tensor {quoted(name)} of datatype BOOL has a byte that is neither 0 nor 1", fix="Send 0 or 1"
        )


def _from_contents(tensor: Tensor) -> Array:
    """Return a tensor's typed contents as an array of its datatype and shape."""
    name = quoted(tensor.name)
    dtype = numpy_type(tensor.datatype)
    field = CONTENTS_FIELD.get(tensor.datatype)
    if field is None:
        raise TensorError(
            f"tensor {name} of datatype {tensor.datatype} has no typed contents", fix="Send it as raw contents"
        )
    for other, values in tensor.contents.ListFields():
        if other.name != field and values:
            raise TensorError(
                f"tensor {name} of datatype {tensor.datatype} has {other.name}", fix=f"Put its values in {field}"
            )
    values = getattr(tensor.contents, field)
    if tensor.datatype == BYTES:
        return shaped(tensor.name, tensor.datatype, strings(values), tensor.shape)
    wide: Array = np.array(values, dtype=WIDE_TYPES[dtype.kind])
    if dtype.kind in "iu" and wide.size and (wide.min() < np.iinfo(dtype).min or wide.max() > np.iinfo(dtype).max):
        raise TensorError(
            f"tensor {name} has a value outside the range of {tensor.datatype}", fix="Use a wider datatype"
        )
    return shaped(tensor.name, tensor.datatype, wide.astype(dtype), tensor.shape)
