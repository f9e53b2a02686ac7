"""Does a teacher fit? Which of its outputs is distilled, what that output is, and whether its inputs can be served.

Decides by what the model describes and, where it can be asked, by what it answers to plausible rows. Each misfit is one error that
says what to write or do instead. Called by `everstill init`; pure but for the callable that asks.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Literal

import numpy as np

from everstill.rooms import Description, Tensor, as_specs
from protos.errors import ConfigurationError, EverstillError
from protos.tensors import KNOWN_DATATYPES, Array
from registry.plausible import plausible_rows
from registry.sections import TensorSpec

Kind = Literal["logits", "probabilities"]
Ask = Callable[[Mapping[str, Array]], Mapping[str, Array]]
FLOATS = ("FP32", "FP64", "FP16")
PROBABILITY_WORDS = ("prob", "softmax", "score", "target_label")
LOGIT_WORDS = ("logit",)
#: Rows and free sizes of the question that tells probabilities and logits apart.
ROWS, FREE_SIZE = 4, 16
#: Rows of probabilities sum to 1 within this: they may be computed in half precision.
SUM_TOLERANCE = 5e-3


@dataclasses.dataclass(frozen=True)
class Fit:
    """What of a teacher goes into the configuration. `why_kind` says how its kind was told."""

    inputs: tuple[TensorSpec, ...]
    output: str
    kind: Kind
    why_kind: str
    num_classes: int
    labels: tuple[str, ...]


def fit(
    teacher: Description, *, output: str = "", kind: Kind | None = None, ask: Ask, labels: tuple[str, ...] = ()
) -> Fit:
    """Return what a configuration says of this teacher.

    Args:
        output: the output to distill; empty where there is only one that can be.
        kind: what it is; None asks.
        ask: answers inputs with all outputs; may raise EverstillError, and then names must do.
        labels: names of the classes, where the model has none.

    Raises:
        ConfigurationError: something doesn't fit.
    """
    inputs = _inputs(teacher)
    chosen = _output(teacher, output)
    answer, refused = _try(ask, inputs)
    rows = answer.get(chosen.name) if answer is not None else None
    if rows is not None and (rows.ndim != 2 or len(rows) != ROWS):
        raise ConfigurationError(
            f"the teacher's output {chosen.name!r} answers {ROWS} rows with shape {list(rows.shape)}, not [{ROWS}, classes]",
            fix=_other_outputs(teacher, chosen),
        )
    num_classes = chosen.shape[1] if chosen.shape[1] > 0 else (rows.shape[1] if rows is not None else -1)
    if num_classes < 2:
        raise ConfigurationError(
            f"the teacher's output {chosen.name!r} doesn't say how many classes it has"
            if num_classes < 0
            else f"the teacher's output {chosen.name!r} has {num_classes} class; distilling needs at least 2",
            fix="Export it with a fixed last dimension" if num_classes < 0 else _other_outputs(teacher, chosen),
        )
    told, why = (kind, "as you say") if kind else _kind(chosen.name, rows, refused)
    names = labels or teacher.labels
    if labels and len(labels) != num_classes:
        raise ConfigurationError(f"{len(labels)} labels are given, the teacher has {num_classes} classes")
    return Fit(inputs, chosen.name, told, why, num_classes, names if len(names) == num_classes else ())


def _inputs(teacher: Description) -> tuple[TensorSpec, ...]:
    if not teacher.inputs or not teacher.outputs:
        raise ConfigurationError(
            f"the teacher doesn't say which {'inputs' if not teacher.inputs else 'outputs'} it has",
            fix="Run everstill init without --teacher, then write into its everstill.toml by hand: inputs, num_classes and labels of "
            "[model], address, model, output and kind of [teacher]",
        )
    for one in teacher.inputs:
        if one.datatype not in KNOWN_DATATYPES:
            raise ConfigurationError(
                f"the teacher's input {one.name!r} is {one.datatype}, which isn't served",
                fix=f"Export it with one of {', '.join(KNOWN_DATATYPES)}",
            )
        if not one.shape or one.shape[0] != -1:
            raise ConfigurationError(
                f"the teacher's input {one.name!r} has the fixed batch {list(one.shape)}",
                fix="Export it with a free first dimension (torch: dynamic_shapes; skl2onnx: [None, features])",
            )
    return as_specs(teacher.inputs)


def _output(teacher: Description, wanted: str) -> Tensor:
    """Return the output to distill: the one that is wanted, the only one that can be, or the one whose name says so."""
    named = {one.name: one for one in teacher.outputs}
    if wanted:
        if wanted not in named:
            raise ConfigurationError(
                f"the teacher has no output {wanted!r}", fix=f"It has {', '.join(map(str, teacher.outputs))}"
            )
        if reason := _misfit(named[wanted]):
            raise ConfigurationError(
                f"the teacher's output {wanted!r} {reason}", fix=_other_outputs(teacher, named[wanted])
            )
        return named[wanted]
    fitting = [one for one in teacher.outputs if not _misfit(one)]
    if not fitting:
        reasons = "; ".join(f"{one.name!r} {_misfit(one)}" for one in teacher.outputs)
        maps = any(one.datatype.startswith("seq(") for one in teacher.outputs)
        raise ConfigurationError(
            f"none of the teacher's outputs is [batch, classes]: {reasons}",
            fix="Convert it again with options={'zipmap': False} (skl2onnx) or zipmap=False (onnxmltools)"
            if maps
            else "Export the model with its logits or probabilities as an output",
        )
    likely = [one for one in fitting if _sounds_like(one.name, (*PROBABILITY_WORDS, *LOGIT_WORDS))]
    if len(fitting) > 1 and len(likely) != 1:
        raise ConfigurationError(
            f"the teacher has {len(fitting)} outputs that could be distilled: {', '.join(map(str, fitting))}",
            fix="Name one with --output",
        )
    return likely[0] if len(fitting) > 1 else fitting[0]


def _misfit(one: Tensor) -> str:
    """Return why an output can't be distilled; empty where it can."""
    if one.datatype.startswith("seq("):
        return "is a sequence of maps, not a tensor"
    if one.datatype not in FLOATS:
        return f"is {one.datatype}: an answer, not a distribution"
    if len(one.shape) != 2:
        return f"has shape {list(one.shape)}, not [batch, classes]"
    return ""


def _other_outputs(teacher: Description, but: Tensor) -> str:
    others = [one.name for one in teacher.outputs if one != but and not _misfit(one)]
    return (
        f"Name another with --output: {', '.join(others)}" if others else "Export it with its logits or probabilities"
    )


def _try(ask: Ask, inputs: tuple[TensorSpec, ...]) -> tuple[Mapping[str, Array] | None, str]:
    try:
        return ask(plausible_rows(inputs, ROWS, FREE_SIZE)), ""
    except EverstillError as error:
        return None, error.message


def _kind(name: str, rows_BC: Array | None, refused: str) -> tuple[Kind, str]:
    """Return what an output is: what it answers says it, else its name does."""
    if rows_BC is not None and np.isfinite(rows_BC).all():
        wide_BC = rows_BC.astype(np.float64)
        in_range = (wide_BC >= -SUM_TOLERANCE).all() and (wide_BC <= 1 + SUM_TOLERANCE).all()
        if in_range and np.allclose(wide_BC.sum(axis=1), 1.0, atol=SUM_TOLERANCE):
            return "probabilities", "its rows sum to 1"
        if in_range and _sounds_like(name, PROBABILITY_WORDS):
            raise ConfigurationError(
                f"the teacher's output {name!r} is between 0 and 1, but its rows don't sum to 1: that is no distribution over classes",
                fix="Name another output with --output, or say --kind logits where it is meant as such",
            )
        return "logits", "its rows don't sum to 1"
    if _sounds_like(name, PROBABILITY_WORDS):
        return "probabilities", "by its name"
    if _sounds_like(name, LOGIT_WORDS):
        return "logits", "by its name"
    raise ConfigurationError(
        f"whether the teacher's output {name!r} is logits or probabilities can't be told: {refused or 'it answers NaN'}",
        fix="Say it with --kind logits or --kind probabilities",
    )


def _sounds_like(name: str, words: tuple[str, ...]) -> bool:
    return any(word in name.lower() for word in words)
