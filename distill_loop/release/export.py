"""Export: a torch student as one ONNX file that holds nothing but the graph.

Decides the file's form: weights inside, batch dimension free, every trace of the exporter's machine removed (torch writes source
paths and stack traces into nodes). Exporting takes most of a second; the next versions of the same net reuse the graph and
replace its weights by name, which gives the same file otherwise. One thread.
"""

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import nn

from protos.errors import FormatError
from protos.tensors import BYTES, Array, text_window
from registry.plausible import plausible_rows
from registry.sections import ModelSection, TensorSpec

#: Rows of the example batch, and the size of a dimension that is free; numbers above 1, so that the exporter doesn't take them
#: for constants.
EXAMPLE_ROWS, EXAMPLE_SIZE = 2, 16
PREFIX = "net."


class ExportError(FormatError):
    """A net that can't become a graph as [model] describes it."""


class _Positional(nn.Module):
    """A net with its inputs by position, whatever its forward calls them."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, *inputs: torch.Tensor) -> Any:
        return self.net(*inputs)


class Exporter:
    """Exports versions of one net.

    Args:
        text_bytes: width of the window that a BYTES input is read through.
    """

    def __init__(self, model: ModelSection, *, text_bytes: int) -> None:
        self._inputs = model.inputs
        self._outputs = (
            TensorSpec(name=model.output, datatype="FP32", shape=(-1, model.num_classes)),
            *model.extra_outputs,
        )
        self._text_bytes = text_bytes
        self._template: onnx.ModelProto | None = None

    def export(self, net: nn.Module) -> bytes:
        """Return the net as one ONNX file's bytes.

        Raises:
            ExportError: it can't be exported, or its graph is not what [model] says.
        """
        weights = {PREFIX + name: tensor.detach().cpu().numpy() for name, tensor in net.state_dict().items()}
        if self._template is None or not self._replace_weights(weights):
            self._template = self._trace(net)
            self._replace_weights(weights)
        data: bytes = self._template.SerializeToString()
        return data

    def forget(self) -> None:
        """Trace anew at the next export."""
        self._template = None

    def _replace_weights(self, weights: dict[str, Array]) -> bool:
        """Write weights into the graph by name; False where the graph has folded one away and must be traced again."""
        assert self._template is not None
        initializers = {one.name: one for one in self._template.graph.initializer}
        used = {name: weight for name, weight in weights.items() if not name.endswith("num_batches_tracked")}
        if any(
            name not in initializers or tuple(initializers[name].dims) != weight.shape for name, weight in used.items()
        ):
            return False
        for name, weight in used.items():
            initializers[name].CopyFrom(numpy_helper.from_array(np.ascontiguousarray(weight), name))
        return True

    def _example(self) -> tuple[torch.Tensor, ...]:
        rows = plausible_rows(self._inputs, EXAMPLE_ROWS, EXAMPLE_SIZE)
        return tuple(
            torch.from_numpy(
                text_window(rows[spec.name], self._text_bytes) if spec.datatype == BYTES else rows[spec.name]
            )
            for spec in self._inputs
        )

    def _names(self, specs: tuple[TensorSpec, ...]) -> dict[str, str]:
        """Return the names that the exporter is given, by which a graph's own values are not called, and the real ones."""
        kind = "input" if specs is self._inputs else "output"
        return {f"everstill.{kind}.{place}": spec.name for place, spec in enumerate(specs)}

    def _free_dimensions(self, spec: TensorSpec) -> dict[int, Any]:
        free = [place for place, size in enumerate(spec.shape) if size == -1] if spec.datatype != BYTES else [0]
        return dict.fromkeys(free, torch.export.Dim.AUTO)

    def _trace(self, net: nn.Module) -> onnx.ModelProto:
        net.eval()
        try:
            with _quiet(), torch.inference_mode():
                program = torch.onnx.export(
                    _Positional(net),
                    self._example(),
                    input_names=list(self._names(self._inputs)),
                    output_names=list(self._names(self._outputs)),
                    dynamic_shapes=(tuple(self._free_dimensions(spec) for spec in self._inputs),),
                    dynamo=True,
                    external_data=False,
                    verbose=False,
                )
        except (
            Exception
        ) as error:  # a supervision point: what a module of the user's does to the exporter can't be foreseen
            raise ExportError(
                f"the student can't be exported to ONNX: {_reason(error)}",
                fix="Keep to what torch.export takes: no branches on values, no lists of data",
            ) from error
        assert program is not None
        model: onnx.ModelProto = program.model_proto
        _strip(model)
        _rename_values(model.graph, {**self._names(self._inputs), **self._names(self._outputs)})
        _name_free_dimensions(model)
        onnx.checker.check_model(model)
        self._check(model)
        return model

    def _check(self, model: onnx.ModelProto) -> None:
        names = [one.name for one in model.graph.input]
        if names != [spec.name for spec in self._inputs]:
            raise ExportError(
                f"the exported graph has the inputs {', '.join(names)}, [model] says "
                f"{', '.join(spec.name for spec in self._inputs)}",
                fix="Let the student use every input",
            )
        for one, spec in zip(model.graph.input, self._inputs, strict=True):
            for place in self._free_dimensions(spec):
                dimension = one.type.tensor_type.shape.dim[place]
                if not dimension.dim_param:
                    raise ExportError(
                        f"dimension {place} of the input {spec.name!r} is {dimension.dim_value} in the exported graph, "
                        "[model] says -1, any size",
                        fix="Let the student's forward take any size there, or give [model] the one that it takes",
                    )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's deprecations and pages of advice to itself; what matters is raised."""
    logger, said = logging.getLogger("torch"), io.StringIO()
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _reason(error: BaseException) -> str:
    """Return the innermost reason's first line: the exporter wraps it in pages of advice."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__


def _rename_values(graph: onnx.GraphProto, names: dict[str, str]) -> None:
    """Give inputs and outputs their names; a value inside that has one of them gets another (`embedding` is a likely one)."""
    taken = {output for node in graph.node for output in node.output}
    inside = {name: f"{name}.inside" for name in names.values() if name in taken}
    new = {**inside, **names}
    values: list[Any] = [*graph.input, *graph.output, *graph.initializer]
    for value in values:
        value.name = new.get(value.name, value.name)
    _rename_in_nodes(graph, new)


def _rename_in_nodes(graph: onnx.GraphProto, new: dict[str, str]) -> None:
    for node in graph.node:
        node.input[:] = [new.get(name, name) for name in node.input]
        node.output[:] = [new.get(name, name) for name in node.output]
        for attribute in node.attribute:
            branches: list[onnx.GraphProto] = [attribute.g, *attribute.graphs]
            for inner in branches:
                _rename_in_nodes(inner, new)
                for value in inner.output:
                    value.name = new.get(value.name, value.name)


def _name_free_dimensions(model: onnx.ModelProto) -> None:
    """Call the free dimensions batch, size1, size2, ...: torch's names for them depend on how it came to them."""
    names: dict[str, str] = {}
    for value in [*model.graph.input, *model.graph.output]:
        for dimension in value.type.tensor_type.shape.dim:
            if dimension.dim_param:
                name = names.setdefault(dimension.dim_param, f"size{len(names)}" if names else "batch")
                dimension.dim_param = name


def _strip(model: onnx.ModelProto) -> None:
    """Remove what only the exporter's machine knows: metadata, doc strings, producer."""
    model.doc_string = ""
    model.producer_name, model.producer_version = "everstill", ""
    del model.metadata_props[:]
    graph = model.graph
    graph.doc_string = ""
    graph.name = "student"
    del graph.value_info[:]
    function_nodes = [node for function in model.functions for node in function.node]
    values = [*graph.input, *graph.output, *graph.initializer]
    parts: list[Any] = [graph, *graph.node, *values, *model.functions, *function_nodes]
    for part in parts:
        part.doc_string = ""
        del part.metadata_props[:]
