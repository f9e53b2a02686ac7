"""One student version as ONNX Runtime runs it: loaded from a verified bundle's path, run on whole batches.

Decides thread counts, what the answer's type is, how a declared input becomes the graph's (strings become text or windows of
bytes, as the graph takes them), and whose fault a failed run is. Refuses to know who asks. Loading from a path keeps other
threads of the process running (from bytes it stalls them). `run` may be called by several threads.
"""

import re
from collections.abc import Mapping, Sequence

import numpy as np
import onnxruntime as ort

from protos.errors import FormatError
from protos.tensors import BYTES, Array, text_window
from registry.bundle import MODEL, Manifest
from registry.fetching import LocalBundle
from registry.sections import TensorSpec
from serving.graph_tensors import DATATYPE_OF, as_answer, as_text, shape_of

#: What ONNX Runtime says of a failed run, without what is of use to its developers only.
_FAILED_NODE = re.compile(r"running (\w+) node\.")
_STATUS = re.compile(r"Status Message: (?![/\\])([^\n]*)")
_NO_MEMORY = re.compile(r"Failed to allocate memory[^\n/\\]*|bad_alloc")


class StudentError(FormatError):
    """A graph that can't be loaded, can't be run, or doesn't answer what its manifest says. `reason` is a slug."""

    def __init__(self, message: str, reason: str, *, fix: str = "") -> None:
        super().__init__(message, fix=fix)
        self.reason = reason


class InputRefused(StudentError):
    """The graph gave its golden answers when it was loaded, and can't answer these values: it is they that don't fit."""


class OutOfMemory(StudentError):
    """A run that takes more memory than there is; fewer rows take less."""


class StudentSession:
    """A loaded version. Use `load`."""

    def __init__(self, session: ort.InferenceSession, bundle: LocalBundle) -> None:
        self._session = session
        self.digest = bundle.digest
        self.version = bundle.version
        self.signed_by = bundle.signed_by
        self.manifest: Manifest = bundle.manifest
        self._output = bundle.manifest.output.name
        nodes = {one.name: one for one in session.get_inputs()}
        strings = [spec.name for spec in bundle.manifest.inputs if spec.datatype == BYTES]
        self._texts = [name for name in strings if nodes[name].type == "tensor(string)"]
        self._windows = {name: nodes[name].shape[1] for name in strings if name not in self._texts}

    @classmethod
    def load(cls, bundle: LocalBundle, *, threads: int, extra_outputs: Sequence[TensorSpec] = ()) -> "StudentSession":
        """Load a verified bundle's graph.

        Args:
            extra_outputs: outputs beside the distilled one that callers may ask for.

        Raises:
            StudentError: ONNX Runtime refuses it, or its inputs and outputs are not the declared ones.
        """
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 4  # a caller's values can fail a run: that is an answer, not a line in the log
        try:
            session = ort.InferenceSession(str(bundle.folder / MODEL), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # a supervision point: onnxruntime's errors share no other base class
            reason = str(error).splitlines()[0]
            raise StudentError(
                f"version {bundle.version} can't be loaded by ONNX Runtime: {reason}", "not_loadable"
            ) from None
        mistake = _inputs_mistake(session, bundle.manifest.inputs) or _outputs_mistake(
            session, (bundle.manifest.output, *extra_outputs)
        )
        if mistake:
            raise StudentError(f"version {bundle.version}'s graph {mistake}", "wrong_graph")
        return cls(session, bundle)

    def run(self, inputs: Mapping[str, Array]) -> Array:
        """Return float32 logits [batch, classes] of inputs [batch, ...]; raises as `run_with`."""
        return self.run_with(inputs, ())[0]

    def run_with(self, inputs: Mapping[str, Array], extra: Sequence[str]) -> tuple[Array, dict[str, Array]]:
        """Return float32 logits [batch, classes], and further outputs [batch, ...] by name.

        Raises:
            TensorError: a string that the graph takes as text is not UTF-8.
            InputRefused: the graph can't answer these values.
            StudentError: it gave another number of rows than it was given. OutOfMemory: too many rows.
        """
        feed = dict(inputs)
        for name in self._texts:
            feed[name] = as_text(name, feed[name])
        for name, length in self._windows.items():
            feed[name] = text_window(feed[name], length)
        try:
            logits, *further = self._session.run([self._output, *extra], feed)
        except Exception as error:  # a supervision point: see load
            raise self._failed(str(error)) from None
        num_rows = len(next(iter(inputs.values())))
        outputs = {name: as_answer(array) for name, array in zip(extra, further, strict=True)}
        for name, array in {self._output: logits, **outputs}.items():
            if array.shape[:1] != (num_rows,):
                raise StudentError(
                    f"version {self.version} gave an output {name!r} of shape {list(array.shape)} for {num_rows} rows",
                    "wrong_rows",
                )
        return np.asarray(logits, np.float32), outputs

    def _failed(self, said: str) -> StudentError:
        if found := _NO_MEMORY.search(said):
            message = f"version {self.version} has no memory for so many rows at once: {found.group()}"
            return OutOfMemory(message, "out_of_memory", fix="Send fewer rows in a request")
        node, status = _FAILED_NODE.search(said), _STATUS.search(said)
        message = f"version {self.version} can't answer these values"
        if node:
            message += f", its {node.group(1)} refuses them"
        if status:
            message += f": {status.group(1).strip().rstrip('.')}"
        return InputRefused(message, "run_failed", fix="Send values that the model was made for")


def _inputs_mistake(session: ort.InferenceSession, declared: Sequence[TensorSpec]) -> str:
    """Return what is wrong with a graph's inputs, or nothing."""
    actual = {one.name: one for one in session.get_inputs()}
    names = {spec.name for spec in declared}
    if names != set(actual):
        return f"takes {sorted(actual)}, its manifest says {sorted(names)}"
    for spec in declared:
        node = actual[spec.name]
        datatype, shape = DATATYPE_OF.get(node.type, node.type), shape_of(node.shape)
        if spec.datatype == BYTES and datatype == "INT32" and len(shape) == 2 and shape[1] > 0:
            continue  # it takes windows of bytes
        if datatype != spec.datatype:
            return f"takes {datatype} as {spec.name!r}, its manifest says {spec.datatype}"
    return ""


def _outputs_mistake(session: ort.InferenceSession, declared: Sequence[TensorSpec]) -> str:
    """Return what is wrong with a graph's outputs, or nothing."""
    actual = {one.name: one for one in session.get_outputs()}
    for place, spec in enumerate(declared):
        if spec.name not in actual:
            return f"gives {sorted(actual)}, and no {spec.name!r}"
        node = actual[spec.name]
        if place and DATATYPE_OF.get(node.type) != spec.datatype:  # the distilled output is converted to FP32
            return f"gives {DATATYPE_OF.get(node.type, node.type)} as {spec.name!r}, declared is {spec.datatype}"
        shape = shape_of(node.shape)
        if place and (len(shape) != len(spec.shape) or shape[0] != -1):
            return f"gives {spec.name!r} of shape {shape}, declared is {list(spec.shape)}: it must begin with the batch"
    return ""
