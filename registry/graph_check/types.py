"""Declared values of a graph: their types and sizes, and whether its inputs and outputs are those of its manifest.

Decides what fits. The runtime's own view is looked at again where a version is loaded (`serving.student.session`). Pure; one thread.
"""

import dataclasses
from collections.abc import Sequence

from protos.tensors import BYTES
from registry.graph_check.tensors import STRING, Tensors
from registry.graph_check.wire import MANY_TEXTS, ONE_INT, ONE_TEXT, GraphError, Reader, Schema, Span
from registry.sections import TensorSpec

VALUE: Schema = {1: ONE_TEXT, 2: ONE_TEXT, 3: ONE_TEXT, 4: MANY_TEXTS}
TYPE: Schema = dict.fromkeys((1, 4, 5, 6, 7, 8, 9), ONE_TEXT)
#: The fields of a type of which it has one.
KINDS = (1, 4, 5, 7, 8, 9)
TENSOR_TYPE: Schema = {1: ONE_INT, 2: ONE_TEXT}
MAP_TYPE: Schema = {1: ONE_INT, 2: ONE_TEXT}
SEQUENCE_TYPE: Schema = {1: ONE_TEXT}
SHAPE: Schema = {1: MANY_TEXTS}
DIMENSION: Schema = {1: ONE_INT, 2: ONE_TEXT, 3: ONE_TEXT}
#: TensorProto.DataType by the protocol's names.
DATATYPES = {
    "FP32": 1, "UINT8": 2, "INT8": 3, "UINT16": 4, "INT16": 5, "INT32": 6, "INT64": 7, BYTES: STRING, "BOOL": 9, "FP16": 10, "FP64": 11,
    "UINT32": 12, "UINT64": 13, "BF16": 16,
}  # fmt: skip
INT32 = DATATYPES["INT32"]
ANY_SIZE = -1


@dataclasses.dataclass(frozen=True)
class Value:
    """A named value. datatype: 0 where it is no tensor or isn't said; dims: -1 is any size, None where nothing is said."""

    name: str
    datatype: int = 0
    dims: tuple[int, ...] | None = None


class Values:
    """Checks the declared values of one file."""

    def __init__(self, reader: Reader, tensors: Tensors, *, max_depth: int) -> None:
        self._reader = reader
        self._tensors = tensors
        self._max_depth = max_depth

    def check(self, span: Span) -> Value:
        """Check a declared value and return it; raises GraphError."""
        message = self._reader.message(span, VALUE, "a value")
        name, type_at = self._reader.text(message.span(1)), message.span(2)
        datatype, dims = (0, None) if type_at is None else self.check_type(type_at, name)
        return Value(name, datatype, dims)

    def check_type(self, span: Span, name: str = "", depth: int = 0) -> tuple[int, tuple[int, ...] | None]:
        """Check a type, and those that it is made of; returns a tensor's type and dimensions."""
        if depth > self._max_depth:
            raise GraphError(f"has a type that is more than {self._max_depth} deep", "too_deep")
        message = self._reader.message(span, TYPE, "a type")
        if sum(len(message.spans(number)) for number in KINDS) > 1:
            raise GraphError(f"has a value {name!r} of two types", "bad_protobuf")
        for number, schema, inner in ((4, SEQUENCE_TYPE, 1), (9, SEQUENCE_TYPE, 1), (5, MAP_TYPE, 2)):
            for one in message.spans(number):
                for type_at in self._reader.message(one, schema, "a type").spans(inner):
                    self.check_type(type_at, name, depth + 1)
        found: tuple[int, tuple[int, ...] | None] = (0, None)
        for one in [*message.spans(8), *message.spans(1)]:
            tensor = self._reader.message(one, TENSOR_TYPE, "a tensor's type")
            shape_at = tensor.span(2)
            dims = None if shape_at is None else self._dims(shape_at)
            if tensor.integer(1):
                self._tensors.check_size(
                    name, tensor.integer(1), [1 if size == ANY_SIZE else size for size in dims or ()]
                )
            found = tensor.integer(1), dims
        return found

    def _dims(self, span: Span) -> tuple[int, ...]:
        dims = []
        for one in self._reader.message(span, SHAPE, "a shape").spans(1):
            size = self._reader.message(one, DIMENSION, "a dimension").ints(1)
            dims.append(size[0] if size else ANY_SIZE)
        return tuple(dims)


def check_signature(
    taken: Sequence[Value], given: Sequence[Value], inputs: Sequence[TensorSpec], output: TensorSpec
) -> None:
    """Check a graph's inputs and outputs against its manifest's; raises GraphError."""
    known = {value.name: value for value in taken}
    names = {spec.name for spec in inputs}
    if set(known) != names or len(known) != len(taken):
        raise _wrong(f"takes {sorted(value.name for value in taken)}, its manifest says {sorted(names)}")
    for spec in inputs:
        _check_input(known[spec.name], spec)
    logits = next((value for value in given if value.name == output.name), None)
    if logits is None:
        raise _wrong(f"gives {sorted(value.name for value in given)}, and no {output.name!r}")
    # Exporters often declare one row as the output's batch; the runtime looks at the inputs'.
    if logits.dims is not None and not _fits((ANY_SIZE, *logits.dims[1:]), output.shape):
        raise _wrong(f"gives {output.name!r} as {list(logits.dims)}, its manifest says {list(output.shape)}")


def _check_input(value: Value, spec: TensorSpec) -> None:
    dims = value.dims
    if spec.datatype == BYTES and value.datatype == INT32 and dims is not None and len(dims) == 2 and dims[1] > 0:
        return  # it takes windows of bytes
    if value.datatype != DATATYPES.get(spec.datatype):
        raise _wrong(f"takes type {value.datatype} as {spec.name!r}, its manifest says {spec.datatype}")
    if dims is not None and not _fits(dims, spec.shape):
        raise _wrong(f"takes {spec.name!r} as {list(dims)}, its manifest says {list(spec.shape)}")


def _fits(dims: Sequence[int], declared: Sequence[int]) -> bool:
    """Whether a graph's dimensions allow what is declared: a free size there has to be free here."""
    return len(dims) == len(declared) and all(
        have in (ANY_SIZE, want) for have, want in zip(dims, declared, strict=True)
    )


def _wrong(what: str) -> GraphError:
    return GraphError(what, "wrong_graph")
