"""The command `everstill init`: reads its options, creates the folder and says what to do next."""

import json
import pathlib
from typing import Annotated, Literal

import typer

from everstill.options import JsonOption
from everstill.project.create import Wish, create, render_report
from everstill.project.files import AUTO
from protos.errors import ConfigurationError

EPILOG = """Example: everstill init my-service

Example: everstill init my-service --teacher model.onnx --student student:build

Example: everstill init my-service --teacher 10.0.0.7:8001 --teacher-model bert --output logits"""


def init(
    folder: Annotated[pathlib.Path, typer.Argument(help="Folder to write; its name becomes the model's.")],
    teacher: Annotated[
        str,
        typer.Option(
            help="An ONNX file, or host:port of an Open Inference Protocol server. Magika's file types where absent."
        ),
    ] = "",
    teacher_model: Annotated[str, typer.Option(help="Model name on that server, where it has several.")] = "",
    student: Annotated[
        str,
        typer.Option(
            help="auto, byte_window, ngrams, tabular or image; a torch module of yours as module:function (written where it "
            "isn't there); or an ONNX file that serves as the first version."
        ),
    ] = AUTO,
    output: Annotated[str, typer.Option(help="The teacher's output to distill, where it has several.")] = "",
    kind: Annotated[
        Literal["logits", "probabilities"] | None,
        typer.Option(help="What that output is; told by asking the teacher where absent."),
    ] = None,
    name: Annotated[str, typer.Option(help="Name of the model, where it isn't the folder's.")] = "",
    labels: Annotated[
        pathlib.Path | None, typer.Option(help="File with a class name a line, where the teacher names none.")
    ] = None,
    check: Annotated[bool, typer.Option(help="Build and export the student once (needs torch).")] = True,
    json_output: JsonOption = False,
) -> None:
    """Write the folder of a new service: everstill.toml, and where asked a student, with names and shapes read from the teacher.

    What doesn't fit is said, with what to write instead, before anything is written. Files that are there are never overwritten.
    """
    wish = Wish(folder, teacher, teacher_model, student, output, kind, name, _labels(labels), check)
    body = create(wish)
    print(json.dumps(body) if json_output else render_report(body))


def _labels(path: pathlib.Path | None) -> tuple[str, ...]:
    if path is None:
        return ()
    try:
        return tuple(line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip())
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"cannot read labels from {path}: {error}") from None
