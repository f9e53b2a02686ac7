"""One ONNX file as the teacher's side runs it: what it takes and gives, the names of its classes, and its answers.

Decides that whatever ONNX Runtime loads is served, but for outputs that are no tensors (skl2onnx's zipmap). Knows no
protocol. Used by the teacher server and by `describe`; thread-safe.
"""

import dataclasses
import hashlib
import mmap
import pathlib
from collections.abc import Mapping, Sequence

import onnxruntime as ort

from protos.errors import ConfigurationError, TensorError
from protos.tensors import BYTES, Array, datatype_of, quoted
from serving.graph_tensors import DATATYPE_OF, as_answer, as_text, shape_of
from serving.teacher.labels import class_labels


@dataclasses.dataclass(frozen=True)
class GraphTensor:
    """An input or output. What the protocol has no datatype for keeps ONNX Runtime's name of it, and has no shape."""

    name: str
    datatype: str
    shape: list[int]

    @property
    def served(self) -> bool:
        """Whether it can travel."""
        return self.datatype in DATATYPE_OF.values()


class OnnxGraph:
    """A loaded file.

    Raises:
        ConfigurationError: ONNX Runtime can't load it, or an input is no tensor that can be sent.
    """

    def __init__(self, path: pathlib.Path, *, threads: int = 1) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 4  # a caller's values can fail a run: that is an answer, not a line in the log
        try:
            self._session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # a supervision point: onnxruntime's errors share no other base class
            raise ConfigurationError(f"{path} can't be loaded by ONNX Runtime: {str(error).splitlines()[0]}") from None
        self.inputs = [_tensor(node) for node in self._session.get_inputs()]
        self.outputs = [_tensor(node) for node in self._session.get_outputs()]
        for tensor in self.inputs:
            if not tensor.served:
                raise ConfigurationError(
                    f"{path} takes {tensor.datatype} as {tensor.name!r}, which no caller can send",
                    fix=f"Export it with one of {', '.join(DATATYPE_OF.values())}",
                )
        with path.open("rb") as file:
            self.sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content, memoryview(content) as view:
                self.labels = class_labels(view)

    def check(self, inputs: Mapping[str, Array]) -> None:
        """Refuse inputs that are not what the graph takes.

        Raises:
            TensorError: a sentence that names the input.
        """
        known = {tensor.name: tensor for tensor in self.inputs}
        if missing := known.keys() - inputs.keys():
            raise TensorError(f"input {min(missing)!r} is missing")
        for name, array in inputs.items():
            if name not in known:
                raise TensorError(f"unknown input {quoted(name)}", fix=f"Known are {', '.join(sorted(known))}")
            want = known[name]
            if datatype_of(array) != want.datatype:
                raise TensorError(f"input {name!r} is {datatype_of(array)}, the model takes {want.datatype}")
            if len(array.shape) != len(want.shape) or any(
                size not in (-1, have) for size, have in zip(want.shape, array.shape, strict=True)
            ):
                raise TensorError(f"input {name!r} has shape {list(array.shape)}, the model takes {want.shape}")

    def wanted(self, names: Sequence[str]) -> list[str]:
        """Return the outputs to answer with: those asked for, or all that can travel.

        Raises:
            TensorError: there is no such output, or it can't travel.
        """
        served = [tensor.name for tensor in self.outputs if tensor.served]
        for name in names:
            if name not in served:
                raise TensorError(f"unknown output {quoted(name)}", fix=f"Known are {', '.join(sorted(served))}")
        return list(names) or served

    def run(self, names: Sequence[str], inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Return outputs by name, as callers get them.

        Raises:
            TensorError: the graph can't answer these values.
        """
        feed = {name: as_text(name, array) if datatype_of(array) == BYTES else array for name, array in inputs.items()}
        try:
            outputs = self._session.run(list(names), feed)
        except Exception as error:  # a supervision point: see __init__; a bad row must not end a server
            raise TensorError(f"the model refused these inputs: {failure(str(error))}") from None
        return {name: as_answer(array) for name, array in zip(names, outputs, strict=True)}


def failure(said: str) -> str:
    """Return what ONNX Runtime says of a failed run in one line, without the place in its sources."""
    words = said.strip().splitlines()[0].rpartition("Status Message: ")[2].split()
    return " ".join(word for word in words if "/" not in word and "\\" not in word)


def _tensor(node: ort.NodeArg) -> GraphTensor:
    if node.type not in DATATYPE_OF:
        return GraphTensor(node.name, node.type, [])
    return GraphTensor(node.name, DATATYPE_OF[node.type], shape_of(node.shape))
