"""What `everstill doctor` asks of the models: is the teacher there and does it fit, do versions load, can the student be built.

Decides what fits: names, datatypes and shapes of [model] against what a model describes. Runs rooms as processes.
"""

import importlib.util
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

from everstill import rooms
from everstill.config import EverstillSettings
from everstill.doctor.check import Check, attempt, fail, warn
from everstill.rooms import Description, Tensor
from everstill.topology import reachable, teacher_is_ours
from protos.errors import ConfigurationError, EverstillError
from registry.bundle import MODEL
from registry.fetching import Policy, fetch_bundle
from registry.pointers import Pointers
from registry.sections import TensorSpec
from registry.store import open_store
from serving.rpc.client import InferenceClient


def teacher(settings: EverstillSettings) -> Iterator[Check]:
    """Check that the teacher answers, or its file is there, and that its tensors fit [model]."""
    about = f"teacher of {settings.model.name}"

    def look() -> Check | str:
        described, where = _describe(settings)
        if misfits := teacher_misfits(settings, described):
            return fail(
                about,
                f"{where}: {'; '.join(misfits)}",
                "Mend [model] or [teacher], or name another teacher",
                ConfigurationError,
            )
        return f"{where}: {settings.teacher.output}, {settings.teacher.kind}, fits [model]"

    yield from attempt(about, look)


def versions(settings: EverstillSettings) -> Iterator[Check]:
    """Check that the version that is live, and a first one that is given, are whole and load."""
    name, url = settings.model.name, settings.registry.url
    first = getattr(settings.release, "first_version", None)
    if first is not None:
        yield from attempt(f"first version of {name}", lambda: _first(settings, pathlib.Path(first)))
    if "://" not in url and not pathlib.Path(url).is_dir():
        return

    def look() -> Check | str | None:
        store = open_store(url)
        live = Pointers(store, name).live()
        if live is None:
            return None
        bundle = fetch_bundle(
            store, live.digest, settings.registry.cache, Policy.of(settings.signing, settings.bundles)
        )
        described = rooms.describe_file(str(bundle.folder / MODEL))
        if misfits := student_misfits(settings, described):
            return fail(
                f"live version of {name}",
                "; ".join(misfits),
                "Let [model] say what it was trained for",
                ConfigurationError,
            )
        whose = f"signed by {bundle.signed_by}" if bundle.signed_by else "signed by no pinned key"
        return f"{live.digest[:12]} is whole and loads, {whose}"

    yield from attempt(f"live version of {name}", look)


def student(settings: EverstillSettings, config: pathlib.Path | None, *, several: bool) -> Iterator[Check]:
    """Check that the student builds and exports; takes some seconds, since torch is imported."""
    about = f"student of {settings.model.name}"
    if config is None:
        yield warn(about, "not tried: there is no everstill.toml", "Write one with everstill init")
        return
    if importlib.util.find_spec("torch") is None:
        yield warn(about, "not tried: torch isn't installed", "Install everstill[loop] where the loop shall run")
        return

    def look() -> str:
        body = rooms.check_student(config, settings.model.name if several else None)
        return (
            f"{student_name(body)}: {body['parameters']:,} parameters, {body['bytes'] / 2**20:.1f} MiB, one row in "
            f"{body['latency_ms']:.2g} ms"
        )

    yield from attempt(about, look)


def student_name(body: dict[str, Any]) -> str:
    """Return which student was built, and whether the inputs chose it."""
    return f"{body['student']}, chosen by its inputs" if body["chosen"] == "auto" else str(body["student"])


def teacher_misfits(settings: EverstillSettings, described: Description) -> list[str]:
    """Return what of the teacher doesn't fit [model] and [teacher], as sentences."""
    renamed = settings.teacher.inputs
    asked = [
        spec.model_copy(update={"name": renamed.get(spec.name, spec.name)})
        for spec in settings.model.inputs
        if renamed.get(spec.name) != ""
    ]
    found = list(input_misfits(asked, described.inputs, "the teacher"))
    output = {one.name: one for one in described.outputs}.get(settings.teacher.output)
    if output is None:
        names = ", ".join(one.name for one in described.outputs)
        return [*found, f"it has no output {settings.teacher.output!r}, but {names}"]
    if len(output.shape) != 2 or output.shape[1] not in (-1, settings.model.num_classes):
        found.append(f"its output {output} isn't [batch, {settings.model.num_classes}]")
    return found


def student_misfits(settings: EverstillSettings, described: Description) -> list[str]:
    """Return what of a student's graph doesn't fit [model]; a text input may be a window of bytes inside."""
    numbers = [spec for spec in settings.model.inputs if spec.datatype != "BYTES"]
    found = list(
        input_misfits(numbers, described.inputs, "the student", surplus=len(numbers) == len(settings.model.inputs))
    )
    output = {one.name: one for one in described.outputs}.get(settings.model.output)
    if output is None:
        return [
            *found,
            f"it has no output {settings.model.output!r}, but {', '.join(one.name for one in described.outputs)}",
        ]
    if output.datatype != "FP32" or output.shape[1:] != (settings.model.num_classes,):
        found.append(f"its output {output} isn't FP32 [batch, {settings.model.num_classes}]")
    return found


def input_misfits(
    declared: Sequence[TensorSpec], taken: Sequence[Tensor], who: str, *, surplus: bool = True
) -> Iterator[str]:
    """Yield how declared inputs differ from those that a model takes.

    Args:
        surplus: whether an input that isn't declared is a misfit.
    """
    known = {one.name: one for one in taken}
    for spec in declared:
        have = known.pop(spec.name, None)
        if have is None:
            yield f"{who} takes no input {spec.name!r}"
            continue
        if have.datatype != spec.datatype:
            yield f"input {spec.name!r} is {have.datatype} there and {spec.datatype} in [model]"
        sizes = zip(have.shape[1:], spec.shape[1:], strict=False)
        if len(have.shape) != len(spec.shape) or any(there not in (-1, here) and here != -1 for there, here in sizes):
            yield f"input {spec.name!r} is {list(have.shape)} there and {list(spec.shape)} in [model]"
    if surplus:
        yield from (f"{who} takes an input {name!r} besides" for name in known)


def _describe(settings: EverstillSettings) -> tuple[Description, str]:
    server, asked = settings.teacher_server, settings.teacher
    if not teacher_is_ours(settings):
        return rooms.describe_served(asked.address, asked.model), f"{asked.model} on {asked.address}"
    if server.port:
        address = reachable(server.host, server.port)
        with InferenceClient(address, timeout_s=1.0) as client:
            if client.ready(asked.model):
                return rooms.describe_served(address, asked.model), f"{asked.model} on {address}"
    return rooms.describe_file(str(server.onnx)), f"{server.onnx}, not started yet"


def _first(settings: EverstillSettings, path: pathlib.Path) -> Check | str:
    if not path.is_file():
        raise ConfigurationError(f"release.first_version names {path}, which is not a file", fix="Name an ONNX file")
    described = rooms.describe_file(str(path))
    if misfits := student_misfits(settings, described):
        raise EverstillError(f"{path}: {'; '.join(misfits)}", fix="Export it again, or mend [model]")
    return f"{path.name} loads and fits [model]"
