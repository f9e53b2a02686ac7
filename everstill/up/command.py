"""The command `everstill up`: checks, starts everything, shows how it goes, and stops everything, whatever ends it."""

import pathlib
import signal
import time
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from everstill import rooms
from everstill.config import EverstillSettings
from everstill.doctor.check import exit_code
from everstill.doctor.command import quick, render
from everstill.options import ConfigOption, config_path, models_of
from everstill.project.files import example_call
from everstill.stack import Stack, last_line
from everstill.topology import work_folder
from everstill.up.display import Display
from everstill.up.lock import only_one
from everstill.up.news import News
from everstill.up.service import Service, refuse_second
from protos.errors import ConfigurationError, UnavailableError

EPILOG = """Example: everstill up

Example: everstill up --config my-service/everstill.toml --until-ready

Example: everstill up --for 600 --json > run.jsonl"""
LOOK_S = 0.5
READY_S = 120.0
_NOT_READY = "Without a version, only gateway.pass_through answers; everstill status says what is there"


def up(
    config: ConfigOption = None,
    until_ready: Annotated[
        bool, typer.Option("--until-ready", help="Stop again once every model would be answered (for a script's test).")
    ] = False,
    for_s: Annotated[float | None, typer.Option("--for", min=0.0, help="Stop after this many seconds.")] = None,
    check: Annotated[bool, typer.Option(help="Check everything before the start.")] = True,
    json_output: Annotated[bool, typer.Option("--json", help="Print one JSON object a line instead of text.")] = False,
) -> None:
    """Run a whole service here: the teacher, where it is an ONNX file, the gateway, and a loop for each model.

    Everything is checked first. Ctrl-C and SIGTERM stop all in order and exit with 0; where a process ends by itself, it is named with
    its exit code and last words, the others are stopped, and the exit code is 4. Logs are in the folder logs beside stream.path, or, where
    the stream is Kafka, beside capture.dir; topics that are missing there are made.
    """
    models = models_of(config)
    signal.signal(signal.SIGTERM, _interrupt)
    folder, setting = work_folder(next(iter(models.values())))
    path, code = config_path(config), 0
    with Display(as_json=json_output, several=len(models) > 1) as display, only_one(folder / "logs", setting):
        refuse_second(models)
        if check:
            _check(models, path, display)
        _make_topics(models, path, display)
        _keep_old_logs(folder / "logs")
        try:
            with Stack(folder) as stack:
                try:
                    code = _run(stack, path, models, display, until_ready, for_s)
                except KeyboardInterrupt:
                    display.event("stopping", "stopping: the gateway first, then what it leans on")
        except KeyboardInterrupt:  # once more, while it was stopping: everything has stopped by now
            pass
        display.event("stopped", "everything is stopped", exit_code=code)
    raise typer.Exit(code)


def _check(models: Mapping[str, EverstillSettings], config: pathlib.Path | None, display: Display) -> None:
    """Raise where something is wrong; show warnings and go on."""
    checks = list(quick(models, config, makes_topics=True))
    bad = [one for one in checks if one.state != "ok"]
    failed = [one for one in bad if one.state == "fail"]
    display.event(
        "checked",
        render(bad) if bad else f"{len(checks)} checks passed",
        failed=len(failed),
        problems=[{"about": one.about, "state": one.state, "found": one.found, "fix": one.fix} for one in bad],
    )
    if failed:
        kind = ConfigurationError if exit_code(failed) == ConfigurationError.exit_code else UnavailableError
        first = failed[0]
        raise kind(f"nothing was started: {first.about}: {first.found}", fix=first.fix)


def _make_topics(models: Mapping[str, EverstillSettings], config: pathlib.Path | None, display: Display) -> None:
    """Make the topics that are missing where the stream is Kafka; raise where one isn't as configured, or no broker answers."""
    kafka = next(iter(models.values())).stream.kafka
    if not kafka.bootstrap:
        return
    answer = rooms.stream_topics(config, create=True)
    if answer["problem"]:
        raise ConfigurationError(f"nothing was started: {answer['problem']}", fix=answer["fix"])
    created = answer["created"]
    text = f"made {len(created)} topics on Kafka at {kafka.bootstrap}: {', '.join(created)}" if created else ""
    display.event("topics", text, bootstrap=kafka.bootstrap, created=created)


def _run(
    stack: Stack,
    config: pathlib.Path | None,
    models: Mapping[str, EverstillSettings],
    display: Display,
    until_ready: bool,
    for_s: float | None,
) -> int:
    """Start everything and show it until it shall end; returns the exit code."""
    news = News(models)
    service = Service(stack, config, models, lambda event, **facts: display.event(event, _step(event, facts), **facts))
    service.start()
    display.event("running", _welcome(service, models), address=service.address, metrics=service.metrics_address)
    begun, told_ready = time.monotonic(), False
    while for_s is None or time.monotonic() - begun < for_s:
        for process, code in stack.ended():
            words = last_line(process.log)
            display.event("ended", process=process.name, exit_code=code, last_line=words, log=str(process.log))
            stack.check()
        service.listen()
        if not told_ready and service.complete and len(service.ready()) == len(models):
            told_ready = True
            display.event("ready", "ready: every model is answered", models=list(models))
            if until_ready:
                return 0
        if until_ready and time.monotonic() - begun > READY_S:
            raise UnavailableError(f"not every model was answered within {READY_S:.0f} s", fix=_NOT_READY)
        states, events = news.look()
        for event in events:
            display.event(**event)
        display.states(states)
        time.sleep(LOOK_S)
    return UnavailableError.exit_code if until_ready else 0


def _step(event: str, facts: Mapping[str, Any]) -> str:
    where = f" on {facts['address']}" if "address" in facts else ""
    pid = f" (pid {facts['pid']})" if "pid" in facts else ""
    return f"{facts['process']} {'runs already' if event == 'found' else 'started'}{where}{pid}"


def _welcome(service: Service, models: Mapping[str, EverstillSettings]) -> str:
    model = next(iter(models.values())).model
    call = example_call(model.name, model.inputs, model.output, service.address)
    return (
        f"\ncallers on {service.address}, metrics on http://{service.metrics_address}/metrics; "
        f"models: {', '.join(models)}. From Python:\n\n{call}\n\nCtrl-C stops everything.\n"
    )


def _keep_old_logs(folder: pathlib.Path) -> None:
    """Move the logs of the run before aside, one generation."""
    for path in folder.glob("*.log"):
        path.replace(path.with_name(f"{path.name}.1"))


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt
