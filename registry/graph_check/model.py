"""Whether an ONNX file may be loaded: told from its bytes alone, before ONNX Runtime sees one of them.

Decides which operators, versions, sizes, nestings, inputs and outputs a student's graph may have. Refuses to know what the graph computes: how long
a run takes and what memory it needs inside isn't told by a file. The walk reads names and numbers and passes weights over, so it takes far less time
than loading, and less than the digests. Called by `registry.bundle` for whoever fetches a version. Pure but for the one file; one thread.
"""

import collections
import dataclasses
import mmap
import pathlib
import types
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

from registry.graph_check.tensors import Tensors
from registry.graph_check.types import Value, Values, check_signature
from registry.graph_check.wire import (
    FIXED32,
    MANY_TEXTS,
    ONE_INT,
    ONE_TEXT,
    VARINT,
    Field,
    GraphError,
    Message,
    Reader,
    Schema,
    Span,
)
from registry.sections import BundlesSection, TensorSpec

#: Bytes of a message that protobuf reads.
MAX_MODEL_BYTES = 2**31 - 1
#: The newest that the ONNX Runtime of pyproject.toml loads.
MAX_IR_VERSION = 14
MAX_OPSETS = {"": 28, "ai.onnx.ml": 5, "com.microsoft": 1}
#: How deep inner graphs, types and calls of functions may lie in one another.
MAX_DEPTH = 16
#: Operators of allowed domains that name files of their own.
FORBIDDEN = frozenset({("com.microsoft", "EPContext")})
#: Operators whose output has the size that a list of integers says, and which input holds that list.
GROWING = {"ConstantOfShape": 0, "Expand": 1}

MODEL: Schema = {
    1: ONE_INT, 2: ONE_TEXT, 3: ONE_TEXT, 4: ONE_TEXT, 5: ONE_INT, 6: ONE_TEXT, 7: ONE_TEXT, 8: MANY_TEXTS, 14: MANY_TEXTS, 20: MANY_TEXTS,
    25: MANY_TEXTS, 26: MANY_TEXTS,
}  # fmt: skip
OPSET: Schema = {1: ONE_TEXT, 2: ONE_INT}
GRAPH: Schema = {
    1: MANY_TEXTS, 2: ONE_TEXT, 5: MANY_TEXTS, 10: ONE_TEXT, 11: MANY_TEXTS, 12: MANY_TEXTS, 13: MANY_TEXTS, 14: MANY_TEXTS, 15: MANY_TEXTS,
    16: MANY_TEXTS,
}  # fmt: skip
NODE: Schema = {
    1: MANY_TEXTS, 2: MANY_TEXTS, 3: ONE_TEXT, 4: ONE_TEXT, 5: MANY_TEXTS, 6: ONE_TEXT, 7: ONE_TEXT, 8: ONE_TEXT, 9: MANY_TEXTS,
    10: MANY_TEXTS,
}  # fmt: skip
ATTRIBUTE: Schema = {
    1: ONE_TEXT, 2: Field(FIXED32), 3: ONE_INT, 4: ONE_TEXT, 5: ONE_TEXT, 6: ONE_TEXT,
    7: Field(FIXED32, many=True, packable=True, run=True), 8: Field(VARINT, many=True, packable=True, run=True),
    9: MANY_TEXTS, 10: MANY_TEXTS, 11: MANY_TEXTS, 13: ONE_TEXT, 14: ONE_TEXT, 15: MANY_TEXTS, 20: ONE_INT, 21: ONE_TEXT, 22: ONE_TEXT,
    23: MANY_TEXTS,
}  # fmt: skip
FUNCTION: Schema = {
    1: ONE_TEXT, 4: MANY_TEXTS, 5: MANY_TEXTS, 6: MANY_TEXTS, 7: MANY_TEXTS, 8: ONE_TEXT, 9: MANY_TEXTS, 10: ONE_TEXT, 11: MANY_TEXTS,
    12: MANY_TEXTS, 13: ONE_TEXT, 14: MANY_TEXTS,
}  # fmt: skip
Operator = tuple[str, str, str]
NO_FILES: Mapping[str, int] = types.MappingProxyType({})


@dataclasses.dataclass
class Body:
    """What a graph or a function does: its own nodes, those of its inner graphs counted, and which operators they call how often."""

    num_nodes: int = 0
    calls: "collections.Counter[Operator]" = dataclasses.field(default_factory=collections.Counter)


def check_model(
    path: pathlib.Path,
    inputs: Sequence[TensorSpec],
    output: TensorSpec,
    limits: BundlesSection,
    files: Mapping[str, int],
) -> None:
    """Check a graph's file; raises as `check_graph`, and OSError where it can't be read.

    Args:
        files: bytes of the other files that its tensors may lie in, by name.
    """
    size = path.stat().st_size
    if not 0 < size <= MAX_MODEL_BYTES:
        what = "it is empty" if not size else f"it has {size:,} bytes, protobuf reads {MAX_MODEL_BYTES:,}"
        raise GraphError(f"can't be parsed: {what}", "bad_protobuf")
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        check_graph(data, inputs, output, limits, files)


def check_graph(
    data: mmap.mmap | bytes,
    inputs: Sequence[TensorSpec],
    output: TensorSpec,
    limits: BundlesSection,
    files: Mapping[str, int] = NO_FILES,
) -> None:
    """Check a graph's bytes.

    Args:
        inputs: what the manifest says that it takes, and `output` what it gives.

    Raises:
        GraphError: it must not be loaded.
    """
    _Model(Reader(data), limits, files).check(Span(0, len(data)), inputs, output)


class _Model:
    """One file's walk."""

    def __init__(self, reader: Reader, limits: BundlesSection, files: Mapping[str, int]) -> None:
        self._reader = reader
        self._tensors = Tensors(reader, max_bytes=limits.max_tensor_bytes, files=files)
        self._values = Values(reader, self._tensors, max_depth=MAX_DEPTH)
        self._max_nodes = limits.max_nodes
        self._allowed = {_domain(name) for name in limits.allowed_domains}
        self._functions: dict[Operator, Body] = {}

    def check(self, span: Span, inputs: Sequence[TensorSpec], output: TensorSpec) -> None:
        """Check all of it; raises GraphError."""
        model = self._reader.message(span, MODEL, "the model")
        graph_at = model.span(7)
        if graph_at is None:
            raise GraphError("is a file without a graph", "bad_graph")
        if not 1 <= model.integer(1) <= MAX_IR_VERSION:
            raise GraphError(f"has the IR version {model.integer(1)}, known are 1 to {MAX_IR_VERSION}", "new_opset")
        if model.spans(20):
            raise GraphError("comes with steps of training", "bad_graph")
        functions = self._declare_functions(model.spans(25))
        self._check_opsets(model.spans(8))
        for operator, function in functions:
            self._check_opsets(function.spans(9))
            self._check_function(function, self._functions[operator])
        body = Body()
        graph = self._reader.message(graph_at, GRAPH, "the graph")
        initializers = self._check_graph(graph, body, 0)
        self._check_expansion(body)
        taken = [value for value in self._named(graph, 11) if value.name not in initializers]
        check_signature(taken, list(self._named(graph, 12)), inputs, output)

    def _declare_functions(self, spans: Sequence[Span]) -> list[tuple[Operator, Message]]:
        found = []
        for span in spans:
            function = self._reader.message(span, FUNCTION, "a function")
            text = self._reader.text
            operator = _domain(text(function.span(10))), text(function.span(1)), text(function.span(13))
            if operator in self._functions:
                raise GraphError(f"has two functions {_name(operator)}", "bad_graph")
            self._functions[operator] = Body()
            found.append((operator, function))
        return found

    def _check_opsets(self, spans: Sequence[Span]) -> None:
        own = {domain for domain, _, _ in self._functions}
        seen: set[str] = set()
        for span in spans:
            opset = self._reader.message(span, OPSET, "an opset")
            domain, version = _domain(self._reader.text(opset.span(1))), opset.integer(2)
            if domain in seen:
                raise GraphError(f"names the opset of {domain or 'ai.onnx'} twice", "bad_graph")
            seen.add(domain)
            if domain not in self._allowed and domain not in own:
                raise GraphError(
                    f"asks for the operators of {domain!r}, which bundles.allowed_domains doesn't name",
                    "forbidden_operator",
                )
            if not 1 <= version <= MAX_OPSETS.get(domain, 2**31):
                raise GraphError(
                    f"has opset {version} of {domain or 'ai.onnx'}, known are 1 to {MAX_OPSETS.get(domain)}",
                    "new_opset",
                )

    def _check_function(self, function: Message, body: Body) -> None:
        for span in function.spans(11):
            self._check_attribute(span, body, 0)
        for span in function.spans(12):
            self._values.check(span)
        self._check_nodes(function.spans(7), body, {}, 0)

    def _check_graph(self, graph: Message, body: Body, depth: int) -> set[str]:
        """Check a graph and those inside it; returns the names of its initializers."""
        if depth > MAX_DEPTH:
            raise GraphError(f"has graphs that lie more than {MAX_DEPTH} deep in one another", "too_deep")
        names: set[str] = set()
        shapes: dict[str, tuple[int, ...]] = {}
        for span in graph.spans(5):
            tensor = self._tensors.check(span)
            names.add(tensor.name)
            if tensor.integers is not None:
                shapes[tensor.name] = tensor.integers
        names |= {self._tensors.check_sparse(span) for span in graph.spans(15)}
        for number in (11, 12, 13):
            for span in graph.spans(number):
                self._values.check(span)
        self._check_nodes(graph.spans(1), body, shapes, depth)
        return names

    def _check_nodes(self, spans: Sequence[Span], body: Body, shapes: dict[str, tuple[int, ...]], depth: int) -> None:
        body.num_nodes += len(spans)
        if body.num_nodes > self._max_nodes:
            raise _too_many(self._max_nodes)
        for span in spans:
            node, text = self._reader.message(span, NODE, "a node"), self._reader.text
            operator = _domain(text(node.span(7))), text(node.span(4)), text(node.span(8))
            if operator in self._functions:
                body.calls[operator] += 1
            elif operator[0] not in self._allowed or operator[:2] in FORBIDDEN:
                raise GraphError(
                    f"uses the operator {_name(operator)}, which students may not (bundles.allowed_domains)",
                    "forbidden_operator",
                )
            for attribute in node.spans(5):
                found = self._check_attribute(attribute, body, depth)
                if found is not None and operator[1] == "Constant" and node.spans(2):
                    shapes[text(node.spans(2)[0])] = found
            self._check_growth(operator[1], node, shapes)

    def _check_growth(self, kind: str, node: Message, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Check what a node makes of a shape that is known; one that is computed can't be told."""
        place = GROWING.get(kind)
        if place is not None and len(node.spans(1)) > place:
            name = self._reader.text(node.spans(1)[place])
            if name in shapes:
                self._tensors.check_size(f"of {kind}, sized by {name}", 1, [max(size, 0) for size in shapes[name]])

    def _check_attribute(self, span: Span, body: Body, depth: int) -> tuple[int, ...] | None:
        """Check an attribute; returns the integers of its tensor, where it is a short list of them."""
        attribute = self._reader.message(span, ATTRIBUTE, "an attribute")
        found = None
        for one in [*attribute.spans(5), *attribute.spans(10)]:
            found = self._tensors.check(one).integers
        for one in [*attribute.spans(22), *attribute.spans(23)]:
            self._tensors.check_sparse(one)
        for one in [*attribute.spans(14), *attribute.spans(15)]:
            self._values.check_type(one)
        for one in [*attribute.spans(6), *attribute.spans(11)]:
            if depth >= MAX_DEPTH:
                raise GraphError(f"has graphs that lie more than {MAX_DEPTH} deep in one another", "too_deep")
            self._check_graph(self._reader.message(one, GRAPH, "an inner graph"), body, depth + 1)
        return found

    def _check_expansion(self, body: Body) -> None:
        """Check how many nodes there are once each call is replaced by its function's: a few functions can stand for billions."""
        known: dict[Operator, tuple[int, int]] = {}

        def expanded(body: Body, depth: int) -> tuple[int, int]:
            """Return a body's nodes and how deep its calls go; depth: of the calls that led here."""
            num_nodes, deepest = body.num_nodes, 0
            for operator, times in body.calls.items():
                if depth >= MAX_DEPTH:
                    raise _calls_too_deep()
                if operator not in known:
                    known[operator] = expanded(self._functions[operator], depth + 1)
                num_nodes += times * known[operator][0]
                deepest = max(deepest, known[operator][1] + 1)
            if num_nodes > self._max_nodes:
                raise _too_many(self._max_nodes)
            if deepest > MAX_DEPTH:
                raise _calls_too_deep()
            return num_nodes, deepest

        for one in (body, *self._functions.values()):
            expanded(one, 0)

    def _named(self, graph: Message, number: Literal[11, 12]) -> Iterator[Value]:
        yield from (self._values.check(span) for span in graph.spans(number))


def _domain(name: str) -> str:
    """Return a domain's one name: ai.onnx has two."""
    return "" if name == "ai.onnx" else name


def _name(operator: Operator) -> str:
    domain, kind, _ = operator
    return f"{domain or 'ai.onnx'}.{kind}"


def _too_many(limit: int) -> GraphError:
    return GraphError(f"has more nodes than the {limit:,} that bundles.max_nodes allows", "too_many_nodes")


def _calls_too_deep() -> GraphError:
    return GraphError(f"has functions that call one another more than {MAX_DEPTH} deep", "too_deep")
