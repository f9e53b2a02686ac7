"""One student version as ONNX Runtime runs it: loaded from a verified bundle's path, run on whole batches.

Decides thread counts and what the answer's type is. Refuses to know who asks. Loading from a path keeps other threads of the
process running (from bytes it stalls them). `run` may be called by several threads.
"""

from collections.abc import Mapping

import numpy as np
import onnxruntime as ort

from protos.errors import FormatError
from protos.tensors import Array
from registry.bundle import MODEL, LocalBundle, Manifest


class StudentError(FormatError):
    """A graph that can't be loaded, can't be run, or doesn't answer what its manifest says. `reason` is a slug."""

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


class StudentSession:
    """A loaded version. Use `load`."""

    def __init__(self, session: ort.InferenceSession, bundle: LocalBundle) -> None:
        self._session = session
        self.digest = bundle.digest
        self.version = bundle.version
        self.manifest: Manifest = bundle.manifest
        self._output = bundle.manifest.output.name

    @classmethod
    def load(cls, bundle: LocalBundle, *, threads: int) -> "StudentSession":
        """Load a verified bundle's graph.

        Raises:
            StudentError: ONNX Runtime refuses it, or its inputs and outputs are not the manifest's.
        """
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        try:
            session = ort.InferenceSession(str(bundle.folder / MODEL), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # a supervision point: onnxruntime's errors share no other base class
            reason = str(error).splitlines()[0]
            raise StudentError(
                f"version {bundle.version} can't be loaded by ONNX Runtime: {reason}", "not_loadable"
            ) from None
        declared = {one.name for one in bundle.manifest.inputs}
        actual = {one.name for one in session.get_inputs()}
        if declared != actual or bundle.manifest.output.name not in {one.name for one in session.get_outputs()}:
            raise StudentError(
                f"version {bundle.version}'s graph takes {sorted(actual)}, its manifest says {sorted(declared)}",
                "wrong_graph",
            )
        return cls(session, bundle)

    def run(self, inputs: Mapping[str, Array]) -> Array:
        """Return float32 logits [batch, classes] of inputs [batch, ...].

        Raises:
            StudentError: the graph failed on these inputs.
        """
        try:
            logits: Array = self._session.run([self._output], dict(inputs))[0]
        except Exception as error:  # a supervision point: see load
            raise StudentError(f"version {self.version} failed: {str(error).splitlines()[0]}", "run_failed") from None
        return np.asarray(logits, np.float32)
