"""`everstill init`: asks the teacher what it is, says what doesn't fit, writes the folder, and tries the student once.

Decides the order: nothing is written before the teacher fits, nothing that is there is overwritten, and what was written is taken
away again where the student can't be built, or on Ctrl-C. Runs rooms as processes; main thread.
"""

import contextlib
import dataclasses
import importlib.util
import os
import pathlib
import re
import tempfile
from collections.abc import Iterator, Mapping
from typing import Any

from everstill import rooms
from everstill.config import EverstillSettings
from everstill.doctor.parts import student_name
from everstill.project.files import AUTO, Plan, render
from everstill.project.fit import Ask, Fit, Kind, fit
from everstill.stack import Stack
from protos.errors import ConfigurationError, ConflictError, EverstillError, UnavailableError
from protos.tensors import Array
from registry.config import load
from serving.rpc.client import InferenceClient

BUILT_IN = (AUTO, "byte_window", "ngrams", "tabular", "image")
MAGIKA = "magika"
#: Name under which the built-in teacher server serves a file.
OWN_TEACHER = "teacher"
ASK_S = 30.0


@dataclasses.dataclass(frozen=True)
class Wish:
    """What the command line says. Empty is: find out."""

    folder: pathlib.Path
    teacher: str = ""
    teacher_model: str = ""
    student: str = AUTO
    output: str = ""
    kind: Kind | None = None
    name: str = ""
    labels: tuple[str, ...] = ()
    check: bool = True


def create(wish: Wish) -> dict[str, Any]:
    """Write a new service's folder; returns what was found and written.

    Raises:
        ConflictError: a file is there already. ConfigurationError: teacher or student doesn't fit. UnavailableError: it is away.
    """
    name = _name(wish)
    student, first_version = _student(wish)
    module = _module_of(student)
    with_student = bool(module) and not (wish.folder / f"{module}.py").exists()
    _refuse_to_overwrite(wish.folder, module if with_student else "")
    plan = _plan(wish, name, student, first_version)
    files = render(plan, with_student=with_student)
    made = not wish.folder.exists()
    written: list[str] = []
    with contextlib.ExitStack() as undo:  # whatever ends it, Ctrl-C too: what stays would be "there already" next time
        undo.callback(_take_away, wish.folder, written, made)
        _write(wish.folder, files, written)
        load(wish.folder / "everstill.toml", EverstillSettings)
        tried = _try_student(wish)
        undo.pop_all()
    return {
        "folder": str(wish.folder),
        "files": sorted(files),
        "model": name,
        "teacher": {
            "where": plan.teacher,
            "output": plan.fit.output,
            "kind": plan.fit.kind,
            "kind_told_by": plan.fit.why_kind,
            "num_classes": plan.fit.num_classes,
            "labels": len(plan.fit.labels),
            "inputs": [spec.model_dump(include={"name", "datatype", "shape"}) for spec in plan.fit.inputs],
        },
        "student": tried,
        "first_version": first_version or None,
    }


def render_report(body: dict[str, Any]) -> str:
    """Return what `create` did as text, with the next step."""
    teacher, student = body["teacher"], body["student"]
    inputs = ", ".join(f"{one['name']} {one['datatype']} {list(one['shape'])}" for one in teacher["inputs"])
    labels = f", {teacher['labels']} of them with labels" if teacher["labels"] else ""
    tried = (
        f"{student_name(student)}, {student['parameters']:,} parameters, one row in {student['latency_ms']:.2g} ms"
        if "chosen" in student
        else f"{student['student']} (not tried: {student['not_tried']})"
    )
    lines = [
        f"teacher  {teacher['where']}: {inputs} -> {teacher['output']}, {teacher['num_classes']} classes{labels}",
        f"         {teacher['kind']}: {teacher['kind_told_by']}",
        f"student  {tried}",
        *([f"first    {body['first_version']}, released as it is"] if body["first_version"] else []),
        f"wrote    {', '.join(body['files'])} in {body['folder']}",
        "",
        f"Next: cd {body['folder']} && everstill doctor && everstill up (with uv: uv run everstill ...)",
    ]
    return "\n".join(lines)


def _name(wish: Wish) -> str:
    if wish.name:
        return wish.name
    name = re.sub(r"[^A-Za-z0-9_.-]", "-", wish.folder.absolute().name).lstrip("_.-")[:64]
    if not name:
        raise ConfigurationError(f"the folder {wish.folder} gives no model name", fix="Name the model with --name")
    return name


def _student(wish: Wish) -> tuple[str, str]:
    """Return learner.student and release.first_version."""
    if wish.student.endswith(".onnx"):
        path = pathlib.Path(wish.student)
        if not path.is_file():
            raise ConfigurationError(f"--student names {path}, which is not a file")
        return AUTO, _as_written(path, wish.folder)
    module = _module_of(wish.student)
    if wish.student not in BUILT_IN and not module:
        raise ConfigurationError(
            f"--student {wish.student!r} is not a student",
            fix=f"Use {', '.join(BUILT_IN)}, a torch module of yours as module:function, or an ONNX file",
        )
    return wish.student, ""


def _module_of(student: str) -> str:
    module, separator, function = student.partition(":")
    return module if separator and module.isidentifier() and function.isidentifier() else ""


def _refuse_to_overwrite(folder: pathlib.Path, module: str) -> None:
    for name in ("everstill.toml", "README.md", ".gitignore", *([f"{module}.py"] if module else [])):
        if (folder / name).exists():
            raise ConflictError(
                f"{folder / name} is there already, and nothing is overwritten", fix="Name another folder"
            )


def _plan(wish: Wish, name: str, student: str, first_version: str) -> Plan:
    teacher = wish.teacher or MAGIKA
    served = _is_address(teacher)
    if served:
        model = wish.teacher_model or _only_model(teacher)
        described = rooms.describe_served(teacher, model)
        asking = _asking_server(teacher, model)
        where = teacher
    else:
        if teacher != MAGIKA and not pathlib.Path(teacher).is_file():
            raise ConfigurationError(
                f"--teacher {teacher} is neither a file nor host:port",
                fix="Name an ONNX file, or where a server answers",
            )
        model = OWN_TEACHER
        described = rooms.describe_file(teacher)
        asking = _asking_file(teacher)
        where = MAGIKA if teacher == MAGIKA else _as_written(pathlib.Path(teacher), wish.folder)
    with asking as ask:
        found = fit(described, output=wish.output, kind=wish.kind, ask=ask, labels=wish.labels)
    output = _first_output(wish.student, found) if first_version else "logits"
    return Plan(name, where, served, model, found, output, student, first_version)


def _first_output(student: str, teacher: Fit) -> str:
    """Return the output of a student's own ONNX file, after checking that it stands in for the teacher."""
    described = rooms.describe_file(student)
    taken = {one.name: one.datatype for one in described.inputs}
    wanted = {one.name: one.datatype for one in teacher.inputs}
    if taken != wanted:
        raise ConfigurationError(
            f"--student {student} takes {', '.join(map(str, described.inputs))}, the teacher {wanted}",
            fix="Export it with the teacher's inputs, by name and datatype",
        )
    fitting = [one for one in described.outputs if one.datatype == "FP32" and one.shape[1:] == (teacher.num_classes,)]
    if not fitting:
        raise ConfigurationError(
            f"--student {student} has no output FP32 [batch, {teacher.num_classes}]: "
            f"{', '.join(map(str, described.outputs))}",
            fix="Export it with its raw logits, one for each of the teacher's classes",
        )
    return fitting[0].name


def _is_address(teacher: str) -> bool:
    host, separator, port = teacher.rpartition(":")
    return bool(separator and host) and port.isdigit() and not pathlib.Path(teacher).exists()


def _only_model(address: str) -> str:
    """Return the one model that a server has."""
    with InferenceClient(address, timeout_s=5.0) as client:
        try:
            names = sorted({one.name for one in client.index()})
        except EverstillError as error:
            raise UnavailableError(
                f"the teacher's models can't be listed: {error.message}", fix="Name its model with --teacher-model"
            ) from None
    if len(names) != 1:
        raise ConfigurationError(
            f"{address} has {len(names)} models: {', '.join(names)}", fix="Name one with --teacher-model"
        )
    return names[0]


@contextlib.contextmanager
def _asking_server(address: str, model: str) -> Iterator[Ask]:
    with InferenceClient(address, timeout_s=ASK_S) as client:

        def ask(inputs: Mapping[str, Array]) -> Mapping[str, Array]:
            return client.infer(model, inputs).outputs

        yield ask


@contextlib.contextmanager
def _asking_file(onnx: str) -> Iterator[Ask]:
    """Ask an ONNX file through the built-in teacher server, started for this one question."""
    path = onnx if onnx == MAGIKA else str(pathlib.Path(onnx).absolute())
    environment = {"EVERSTILL_TEACHER_SERVER__ONNX": path, "EVERSTILL_TEACHER_SERVER__PORT": "0"}
    with tempfile.TemporaryDirectory(prefix="everstill-init-") as folder, Stack(pathlib.Path(folder)) as stack:

        def ask(inputs: Mapping[str, Array]) -> Mapping[str, Array]:
            process = stack.start("teacher", ["serving.app", "teacher"], environment)
            with InferenceClient(stack.started_event(process)["address"], timeout_s=ASK_S) as client:
                return client.infer(OWN_TEACHER, inputs).outputs

        yield ask


def _try_student(wish: Wish) -> dict[str, Any]:
    if not wish.check:
        return {"student": wish.student, "not_tried": "--no-check"}
    if importlib.util.find_spec("torch") is None:
        return {"student": wish.student, "not_tried": "torch is not installed here, see everstill[loop]"}
    return rooms.check_student(wish.folder / "everstill.toml", None)


def _write(folder: pathlib.Path, files: dict[str, str], written: list[str]) -> None:
    """Write files that aren't there yet, and note in `written` each one that now is."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            with (folder / name).open("x", encoding="utf-8") as file:
                written.append(name)
                file.write(text)
    except OSError as error:
        raise UnavailableError(
            f"cannot write {error.filename or folder}: {error.strerror}", fix="Name another folder"
        ) from None


def _take_away(folder: pathlib.Path, written: list[str], made: bool) -> None:
    for name in written:
        (folder / name).unlink(missing_ok=True)
    if made:
        with contextlib.suppress(OSError):  # a cache of the student's module may lie there
            folder.rmdir()


def _as_written(path: pathlib.Path, folder: pathlib.Path) -> str:
    """Return a path as everstill.toml names it: relative to its folder."""
    return pathlib.Path(os.path.relpath(path.absolute(), folder.absolute())).as_posix()
