"""A student of the user's: a torch module that `learner.student = "module:function"` names, found in the folder of everstill.toml or installed.

Decides nothing about it, but says in one sentence what is wrong with it, before anything starts: it can't be imported or made, fails on
plausible inputs, answers in another shape, type or number than [model] declares. The function (or class) is called with
`learner.arguments` as keywords. Its code is the user's and runs with the loop's rights. One thread.
"""

import importlib
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from distill_loop.config import LearnerSection
from distill_loop.learner import batch
from distill_loop.learner.student import Student
from protos.errors import ConfigurationError
from protos.tensors import datatype_of
from registry.plausible import plausible_rows
from registry.sections import ModelSection, TensorSpec

#: Rows and free sizes that a module is tried with: two of each, so that one that takes a number for a constant is found.
TRIES = ((2, 16), (3, 24))


class OwnNet(nn.Module):
    """A user's module, whose answer becomes a tuple: the logits, then the model's extra outputs in their order."""

    def __init__(self, module: nn.Module, outputs: tuple[str, ...]) -> None:
        super().__init__()
        self.module = module
        self.outputs = outputs

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Return the outputs.

        Raises:
            ConfigurationError: there are fewer than declared, or one is missing.
        """
        answer = self.module(*inputs)
        if isinstance(answer, Tensor):
            answer = (answer,)
        if isinstance(answer, Mapping):
            if missing := [name for name in self.outputs if name not in answer]:
                raise ConfigurationError(f"its forward returns {', '.join(map(str, answer))}, not {missing[0]!r}")
            return tuple(answer[name] for name in self.outputs)
        if not isinstance(answer, tuple | list):
            raise ConfigurationError(f"its forward returns a {type(answer).__name__}, not a tensor, a tuple or a dict")
        if len(answer) < len(self.outputs):
            raise ConfigurationError(
                f"its forward returns {len(answer)} outputs, [model] declares {len(self.outputs)}: {', '.join(self.outputs)}"
            )
        return tuple(answer[: len(self.outputs)])


def build(settings: LearnerSection, model: ModelSection) -> Student:
    """Return the student.

    Raises:
        ConfigurationError: what is wrong with it, in one sentence.
    """
    name = settings.student
    make = _find(name)
    try:
        module = make(**settings.arguments)
    except Exception as error:  # a supervision point: the user's code may raise anything
        _refuse(name, f"raises {_said(error)} when it is called with {_arguments(settings.arguments)}", error)
    if not isinstance(module, nn.Module):
        _refuse(name, f"returns a {type(module).__name__}, not a torch.nn.Module")
    if not any(parameter.requires_grad for parameter in module.parameters()):
        _refuse(name, "returns a module without a parameter that can be trained")
    net = OwnNet(module, (model.output, *(spec.name for spec in model.extra_outputs)))
    specs = (TensorSpec(name=model.output, datatype="FP32", shape=(-1, model.num_classes)), *model.extra_outputs)
    for num_rows, free_size in TRIES:
        _try(name, net, specs, model, num_rows=num_rows, free_size=free_size, text_bytes=settings.text_bytes)
    facts = {key: value for key, value in settings.arguments.items() if isinstance(value, int | float | str)}
    return Student(name, net, facts, may_raise=True)


def _find(name: str) -> Callable[..., Any]:
    module_name, _, attribute = name.partition(":")
    if not module_name or not attribute.isidentifier():
        raise ConfigurationError(
            f"learner.student {name!r} is not of the form module:function", fix='Write e.g. student = "student:build"'
        )
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is not None and (module_name == error.name or module_name.startswith(f"{error.name}.")):
            raise ConfigurationError(
                f"learner.student {name}: there is no module {error.name!r} in the folder of everstill.toml, nor is one installed",
                fix="Put it there or install it",
            ) from None
        _refuse(name, f"can't be imported: {_said(error)}", error)
    except (Exception, SystemExit) as error:  # a supervision point: the user's code may raise anything
        _refuse(name, f"can't be imported: {_said(error)}", error)
    made = getattr(module, attribute, None)
    if not callable(made):
        where = getattr(module, "__file__", None) or module_name
        raise ConfigurationError(
            f"learner.student {name}: {where} has no function or class {attribute!r}",
            fix="Name one that is there; a module of yours must not have the name of an installed one",
        )
    found: Callable[..., Any] = made
    return found


def _try(
    name: str,
    net: OwnNet,
    specs: tuple[TensorSpec, ...],
    model: ModelSection,
    *,
    num_rows: int,
    free_size: int,
    text_bytes: int,
) -> None:
    """Have it answer plausible inputs, and look at what it says."""
    inputs = batch.as_tensors(model.inputs, plausible_rows(model.inputs, num_rows, free_size), text_bytes)
    taken = ", ".join(f"{spec.name} {list(one.shape)}" for spec, one in zip(model.inputs, inputs, strict=True))
    net.eval()
    try:
        with torch.inference_mode():
            answers = net(*inputs)
    except ConfigurationError as error:
        _refuse(name, error.message)
    except Exception as error:  # a supervision point: the user's code may raise anything
        _refuse(name, f"raises {_said(error)} on {taken}", error)
    for spec, answer in zip(specs, answers, strict=True):
        if not isinstance(answer, Tensor):
            _refuse(name, f"returns a {type(answer).__name__} for the output {spec.name!r}, not a tensor")
        array = answer.detach().cpu().numpy()
        wanted = [num_rows if place == 0 else size for place, size in enumerate(spec.shape)]
        if len(wanted) != array.ndim or any(
            want not in (-1, have) for want, have in zip(wanted, array.shape, strict=True)
        ):
            _refuse(name, f"returns {list(array.shape)} for the output {spec.name!r} on {taken}, [model] says {wanted}")
        if datatype_of(array) != spec.datatype:
            _refuse(name, f"returns {datatype_of(array)} for the output {spec.name!r}, [model] says {spec.datatype}")
        if array.dtype.kind == "f" and not torch.isfinite(answer).all():
            _refuse(name, f"returns NaN or infinity for the output {spec.name!r} on {taken}")


def _refuse(name: str, what: str, cause: BaseException | None = None) -> NoReturn:
    raise ConfigurationError(
        f"learner.student {name} {what}",
        fix="See `forward` and `learner.arguments`: docs/formats.md says what is expected",
    ) from cause


def _said(error: BaseException) -> str:
    first = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return f"{type(error).__name__}: {first[:300]}" if first else type(error).__name__


def _arguments(arguments: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}={value!r}" for key, value in arguments.items()) if arguments else "no arguments"
