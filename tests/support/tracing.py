"""An exporter that traces each net once a session: for tests that make the same loop again and again.

A trace takes more than a second and depends on the net's structure alone; weights are written into it at each export, and the
pre-check compares every graph with its net, so a wrong memory is found. What tracing itself gives: tests/unit/test_release_export.py.
"""

import onnx
from torch import nn

from distill_loop.release.export import Exporter

_traces: dict[str, bytes] = {}


class TracedOnce(Exporter):
    """An exporter that remembers the traces of all of its kind."""

    def _trace(self, net: nn.Module) -> onnx.ModelProto:
        shapes = {name: tuple(tensor.shape) for name, tensor in net.state_dict().items()}
        key = f"{net} {shapes} {self._inputs} {self._outputs} {self._text_bytes}"
        if key not in _traces:
            _traces[key] = super()._trace(net).SerializeToString()
        return onnx.ModelProto.FromString(_traces[key])
