"""One question to a room, asked as a process: `everstill` imports no model runtime, so whatever needs one is asked for its JSON line.

Decides how the answer and an error are read: the last JSON line of standard output, the last line of standard error, the exit
code. Called by init, doctor, up and the demo; waits for the process, any thread.
"""

import dataclasses
import json
import os
import pathlib
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from protos.errors import ConfigurationError, ConflictError, EverstillError, FormatError, UnavailableError
from registry.sections import TensorSpec

#: A cold import of torch on a busy machine takes most of it.
TIMEOUT_S = 120.0
#: How the stream's room says that something isn't as configured; what, is in its answer.
DIFFERS = 2
ERRORS: dict[int, type[EverstillError]] = {
    kind.exit_code: kind for kind in (ConfigurationError, FormatError, UnavailableError, ConflictError)
}


@dataclasses.dataclass(frozen=True)
class Tensor:
    """One tensor as a model describes it. `shape` has -1 for any size; a datatype that isn't served stands as the model says it."""

    name: str
    datatype: str
    shape: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.name} {self.datatype} {list(self.shape)}"


@dataclasses.dataclass(frozen=True)
class Description:
    """What a model says of itself. `sha256` is an ONNX file's, empty for a server's model."""

    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    labels: tuple[str, ...] = ()
    sha256: str = ""


def describe_file(onnx: str) -> Description:
    """Return what an ONNX file says of itself; raises EverstillError where it can't be read."""
    return _description(ask("serving.app", "describe", "--onnx", onnx))


def describe_served(address: str, model: str) -> Description:
    """Return what a server says of its model; raises EverstillError where it is away or has no such model."""
    return _description(ask("serving.app", "describe", "--address", address, "--model", model))


def check_student(config: pathlib.Path, model: str | None) -> dict[str, Any]:
    """Build, try and export the student of a configuration; returns what the loop's room says of it.

    Raises:
        EverstillError: it can't be built or exported, or the room's packages are missing.
    """
    which = ["--model", model] if model else []
    return ask("distill_loop.app", "--check", "--config", str(config), *which)


def stream_topics(config: pathlib.Path | None, *, create: bool = False) -> dict[str, Any]:
    """Return how Kafka's topics stand beside the configuration, having made those that are missing where asked to.

    Raises:
        UnavailableError: no broker answers. EverstillError: a topic can't be made.
    """
    more = ["--create"] if create else []
    return ask("distill_loop.stream.app", "topics", "--json", *more, *config_of(config), answers_with=(0, DIFFERS))


def stream_brokers(config: pathlib.Path | None) -> dict[str, Any]:
    """Return which of Kafka's brokers answer; raises UnavailableError where none does."""
    return ask("distill_loop.stream.app", "brokers", "--json", *config_of(config))


def config_of(config: pathlib.Path | None) -> list[str]:
    """Return a configuration file as a room's arguments."""
    return ["--config", str(config)] if config else []


def ask(module: str, *arguments: str, answers_with: Sequence[int] = (0,)) -> dict[str, Any]:
    """Run `python -m MODULE ...` and return the last JSON object that it printed.

    Args:
        answers_with: exit codes that an answer may come with.

    Raises:
        EverstillError: it failed (with the sentence that it gave), took too long, or printed no JSON.
    """
    command = [sys.executable, "-m", module, *arguments]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=TIMEOUT_S, stdin=subprocess.DEVNULL, env=os.environ
        )
    except subprocess.TimeoutExpired:
        raise UnavailableError(f"{module} gave no answer within {TIMEOUT_S:.0f} s") from None
    answers = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode and not (answers and done.returncode in answers_with):
        raise ERRORS.get(done.returncode, EverstillError)(_reason(done.stderr, done.returncode))
    if not answers:
        raise EverstillError(f"{module} printed no answer", fix="Run it by hand: " + " ".join(command[1:]))
    answer: dict[str, Any] = json.loads(answers[-1])
    return answer


def as_specs(tensors: tuple[Tensor, ...]) -> tuple[TensorSpec, ...]:
    """Return inputs as [model] declares them; raises pydantic's error where one can't be declared."""
    return tuple(TensorSpec(name=one.name, datatype=one.datatype, shape=one.shape) for one in tensors)


def _description(body: dict[str, Any]) -> Description:
    def tensors(key: str) -> tuple[Tensor, ...]:
        return tuple(Tensor(one["name"], one["datatype"], tuple(one["shape"])) for one in body[key])

    return Description(
        tensors("inputs"), tensors("outputs"), tuple(body.get("labels") or ()), str(body.get("sha256") or "")
    )


def _reason(said: str, code: int) -> str:
    """Return the sentence of a process that failed: its last line, without its name and without a traceback's rest."""
    lines = [line.strip() for line in said.splitlines() if line.strip() and not line.startswith("{")]
    last = lines[-1] if lines else f"it ended with {code} and said nothing"
    name, _, sentence = last.partition(": ")
    return sentence.rstrip(".") if name.startswith("everstill ") and sentence else last.rstrip(".")
