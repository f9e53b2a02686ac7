"""Export: a torch student as one ONNX file that holds nothing but the graph.

Decides the file's form: weights inside, batch dimension free, every trace of the exporter's machine removed (torch writes source
paths and stack traces into nodes). Exporting takes most of a second; the next versions of the same net reuse the graph and
replace its weights by name, which gives the same file otherwise. One thread.
"""

import logging
import warnings
from typing import Any

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import nn

from protos.errors import FormatError
from protos.tensors import numpy_type
from registry.config import TensorSpec

#: Rows of the example batch; any number above 1, so that the exporter doesn't take it for a constant.
EXAMPLE_ROWS = 2


class Exporter:
    """Exports versions of one net."""

    def __init__(self, inputs: tuple[TensorSpec, ...], output: str) -> None:
        self._inputs = inputs
        self._output = output
        self._template: onnx.ModelProto | None = None

    def export(self, net: nn.Module) -> bytes:
        """Return the net as one ONNX file's bytes."""
        weights = {name: tensor.detach().cpu().numpy() for name, tensor in net.state_dict().items()}
        if self._template is None or not self._replace_weights(weights):
            self._template = self._trace(net)
            self._replace_weights(weights)
        data: bytes = self._template.SerializeToString()
        return data

    def _replace_weights(self, weights: dict[str, "np.ndarray[tuple[int, ...], np.dtype[np.float32]]"]) -> bool:
        """Write weights into the graph by name; False where the graph has folded one away and must be traced again."""
        assert self._template is not None
        initializers = {one.name: one for one in self._template.graph.initializer}
        if any(
            name not in initializers or tuple(initializers[name].dims) != weight.shape
            for name, weight in weights.items()
        ):
            return False
        for name, weight in weights.items():
            initializers[name].CopyFrom(numpy_helper.from_array(np.ascontiguousarray(weight), name))
        return True

    def _trace(self, net: nn.Module) -> onnx.ModelProto:
        example = tuple(
            torch.from_numpy(np.zeros((EXAMPLE_ROWS, *spec.shape[1:]), numpy_type(spec.datatype)))
            for spec in self._inputs
        )
        batch = torch.export.Dim("batch", min=1, max=2**20)
        net.eval()
        with warnings.catch_warnings(), torch.inference_mode():
            warnings.simplefilter("ignore")  # the exporter's own deprecations
            logging.getLogger("torch.onnx").setLevel(logging.ERROR)
            program = torch.onnx.export(
                net,
                example,
                input_names=[spec.name for spec in self._inputs],
                output_names=[self._output],
                dynamic_shapes=tuple({0: batch} for _ in self._inputs),
                dynamo=True,
                external_data=False,
                verbose=False,
            )
        assert program is not None
        model: onnx.ModelProto = program.model_proto
        _strip(model)
        onnx.checker.check_model(model)
        if len(model.graph.input) != len(self._inputs):
            raise FormatError(
                f"the exported graph has {len(model.graph.input)} inputs, [model] says {len(self._inputs)}"
            )
        return model


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
