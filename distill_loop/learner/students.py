"""The table of students: which one a configuration means, and which one suits a model's inputs where it says `auto`.

Decides by the declared inputs alone. One module for each built-in student; `own.py` brings in a torch module of the user's. Called when
a learner is made. One thread.
"""

from collections.abc import Callable

from distill_loop.config import LearnerSection
from distill_loop.learner import byte_window, image, ngrams, own, tabular
from distill_loop.learner.student import Student
from protos.errors import ConfigurationError
from registry.sections import ModelSection

AUTO = "auto"
BUILT_IN: dict[str, Callable[[LearnerSection, ModelSection], Student]] = {
    "byte_window": byte_window.build,
    "ngrams": ngrams.build,
    "tabular": tabular.build,
    "image": image.build,
}
FLOATS = ("FP16", "FP32", "FP64")


def build(settings: LearnerSection, model: ModelSection) -> Student:
    """Return the student that `learner.student` names.

    Raises:
        ConfigurationError: there is no such student, or it doesn't suit the model; the sentence says what to change.
    """
    name = choose(model) if settings.student == AUTO else settings.student
    if ":" in name:
        return own.build(settings, model)
    if name not in BUILT_IN:
        fix = f"Use {AUTO}, {', '.join(BUILT_IN)}, or a torch module of yours as module:function"
        if name.endswith(".onnx"):
            fix = "An ONNX file can't learn: give it as release.first_version, and let learner.student be a built-in or own one"
        raise ConfigurationError(f"learner.student {name!r} is not a student", fix=fix)
    if settings.arguments:
        raise ConfigurationError(
            f"learner.arguments are given, but learner.student {name} takes none",
            fix="Leave them out, or name a module:function",
        )
    if model.extra_outputs:
        raise ConfigurationError(
            f"learner.student {name} has one output, [model] declares {model.extra_outputs[0].name!r} besides",
            fix="Take it out of model.extra_outputs, or name a torch module of yours that returns it",
        )
    return BUILT_IN[name](settings, model)


def choose(model: ModelSection) -> str:
    """Return the built-in student that suits a model's inputs.

    Text and token ids (rows of any length, or with a mask, or INT64) are ngrams, a long row of other integers is a window of bytes, rows
    of numbers are tables, more dimensions are images.

    Raises:
        ConfigurationError: none does.
    """
    first = model.inputs[0]
    if first.datatype == "BYTES" and ngrams.reads(model):
        return "ngrams"
    if len(first.shape) > 2 and image.reads(model):
        return "image"
    integers = all(spec.datatype not in FLOATS for spec in model.inputs)
    if integers and ngrams.reads(model):
        free = any(size == -1 for spec in model.inputs for size in spec.shape[1:])
        masked = len(model.inputs) == 2 and any("mask" in spec.name.lower() for spec in model.inputs)
        if free or masked or (first.datatype == "INT64" and first.shape[1] >= byte_window.LEAST_WINDOW):
            return "ngrams"
        if byte_window.reads(model):
            return "byte_window"
    if tabular.reads(model):
        return "tabular"
    inputs = ", ".join(f"{spec.name} {spec.datatype} {list(spec.shape)}" for spec in model.inputs)
    raise ConfigurationError(
        f"no built-in student reads the inputs of model {model.name!r}: {inputs}",
        fix="Set learner.student to a torch module of yours, as module:function",
    )
