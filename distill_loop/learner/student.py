"""A student as the learner holds it: a net, what is learned beside its weights, and what is said of it. Decides nothing.

A net's forward takes the model's inputs in their declared order, as tensors (BYTES as `protos.tensors.text_window`), and returns raw
logits float32 [B, C], or a tuple that begins with them and goes on with the model's extra outputs in their order.
"""

import dataclasses
from collections.abc import Mapping

from torch import nn

from distill_loop.learner.scaling import Scaling
from protos.errors import ConfigurationError
from registry.sections import ModelSection

Fact = int | float | str


@dataclasses.dataclass(frozen=True)
class Student:
    """name: `byte_window`, `module:function`, ...; facts: for logs and manifests; scaling: follows the stream, where there is one.

    may_raise: whether some rows may be too much for it, as for a vocabulary of the user's; such a pair is a dead letter.
    """

    name: str
    net: nn.Module
    facts: Mapping[str, Fact]
    scaling: Scaling | None = None
    may_raise: bool = False

    @property
    def num_parameters(self) -> int:
        """Trained numbers."""
        return sum(parameter.numel() for parameter in self.net.parameters())


def cannot_read(student: str, model: ModelSection, wanted: str) -> ConfigurationError:
    """Return the error that says which inputs a built-in student reads."""
    inputs = ", ".join(f"{spec.name} {spec.datatype} {list(spec.shape)}" for spec in model.inputs)
    return ConfigurationError(
        f"learner.student {student} can't read the inputs of model {model.name!r} ({inputs}): it reads {wanted}",
        fix="Set learner.student to another one, or to a torch module of yours as module:function",
    )
