"""The command line. Each command reads the whole configuration first; what runs for long runs as the room's own process.

Exit codes: 0 done, 1 an error without a class of its own, 2 configuration or usage, 3 damaged data, 4 something is away (a port,
a folder, disk space, a service), 5 somebody else was first, 130 interrupted.
"""

import importlib.util
import json
import os
import pathlib
import sys
from typing import Annotated, Literal

import typer

from everstill import feedback, inspect, operate, recipes, signing_keys
from everstill.become import become, replace
from everstill.config import EverstillSettings
from everstill.doctor import command as doctor_command
from everstill.infer import command as infer_command
from everstill.ledger import command as ledger_command
from everstill.options import ConfigOption, JsonOption, ModelOption, models_of, print_each
from everstill.project import command as init_command
from everstill.up import command as up_command
from protos.errors import EverstillError, UnavailableError

INTERRUPTED = 130
#: Packages of the demo, its gateway and its loop that the core does without.
DEMO_NEEDS = ("matplotlib", "onnxruntime", "onnxscript", "prometheus_client", "torch")

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="Streaming online distillation: a small student serves the traffic and stays faithful to its teacher.",
)
RecipeName = Literal["filetypes", "clinc150", "nsl_kdd", "digits"]


def main() -> None:
    """Run the command line: an error becomes one line and an exit code, never a traceback."""
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # its errors reach us as exceptions
    try:
        app(standalone_mode=True)
    except EverstillError as error:
        print(f"everstill: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from None
    except OSError as error:
        print(f"everstill: {error.filename or 'the system'}: {error.strerror}", file=sys.stderr)
        raise SystemExit(4) from None
    except KeyboardInterrupt:
        print("everstill: interrupted; every process was stopped", file=sys.stderr)
        raise SystemExit(INTERRUPTED) from None


@app.command(epilog="Example: everstill demo --recipe digits --json > report.json")
def demo(
    json_output: JsonOption = False,
    recipe: Annotated[
        RecipeName, typer.Option(help="The stream: files, sentences, connections or pictures; see docs/recipes.md.")
    ] = "filetypes",
    folder: Annotated[
        pathlib.Path, typer.Option(help="Folder for the run; emptied of an earlier demo.")
    ] = pathlib.Path("everstill-demo"),
    requests: Annotated[
        int | None,
        typer.Option(
            min=200,
            show_default="the recipe's: 4800, 10000, 20000 or 6000",
            help="Requests to send, each a different input. The gate needs about 1,000 to 2,000 for its first swap.",
        ),
    ] = None,
    requests_per_s: Annotated[
        float | None,
        typer.Option(min=0.1, show_default="the recipe's", help="Pace of the client, in requests a second."),
    ] = None,
    drift_share: Annotated[
        float | None,
        typer.Option(min=0.1, max=0.9, show_default="the recipe's", help="Share of the requests before the drift."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the inputs' choice and order.")] = 0,
    kafka: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT",
            envvar="EVERSTILL_STREAM__KAFKA__BOOTSTRAP",
            help="Go through this Kafka, in topics of its own that are deleted at the end; else through a file.",
        ),
    ] = None,
) -> None:
    """Show the whole loop on this machine: real teacher, real inputs, a drift, gated swaps. Takes under five minutes."""
    missing = [name for name in DEMO_NEEDS if importlib.util.find_spec(name) is None]
    if missing:
        raise UnavailableError(f"the demo needs {', '.join(missing)}", fix="Install everstill[serving,loop,demo]")
    from everstill.demo import story  # its plot needs matplotlib, which only this command has
    from everstill.demo.topics import Stream

    plan = story.Plan(
        recipes.find(recipe), folder.absolute(), requests, requests_per_s, drift_share, seed, Stream.of(kafka)
    )
    report = story.run(plan)
    if json_output:
        print(json.dumps(report))


app.command(epilog=init_command.EPILOG)(init_command.init)
app.command(epilog=up_command.EPILOG)(up_command.up)
app.command(epilog=doctor_command.EPILOG)(doctor_command.doctor)
app.command(epilog=infer_command.EPILOG)(infer_command.infer)
app.command(epilog=feedback.EPILOG)(feedback.feedback)
for order, example in operate.COMMANDS.items():
    app.command(epilog=example)(order)
app.add_typer(ledger_command.app, name="ledger")
app.add_typer(signing_keys.app, name="signing-keys")


@app.command(epilog="Example: everstill gateway --config everstill.toml")
def gateway(config: ConfigOption = None) -> None:
    """Serve a student's answers over gRPC and mirror samples to the teacher."""
    become("serving.app", "gateway", config=config)


@app.command(epilog="Example: everstill teacher --config everstill.toml")
def teacher(config: ConfigOption = None, model: ModelOption = None) -> None:
    """Serve one ONNX file as a teacher over the Open Inference Protocol.

    Prints one JSON line once it answers, for whoever started it: {"event": "started", "address": "host:port"}. Logs go to standard error,
    as JSON lines; log.format = "console" writes them for people.
    """
    become("serving.app", "teacher", config=config, model=model)


@app.command(epilog="Example: everstill loop --config everstill.toml --model intents")
def loop(config: ConfigOption = None, model: ModelOption = None) -> None:
    """Learn from the stream, put candidates on trial, and promote those that pass the gate.

    One loop learns one model: where the configuration has several, name one, and start a loop for each.
    """
    become("distill_loop.app", config=config, model=model)


@app.command(epilog="Example: everstill status --json")
def status(config: ConfigOption = None, model: ModelOption = None, json_output: JsonOption = False) -> None:
    """Show what serves, what the loop does and how the student agrees with its teacher."""
    print_each(config, model, inspect.status, inspect.render_status, json_output)


@app.command(epilog="Example: everstill versions --json")
def versions(config: ConfigOption = None, model: ModelOption = None, json_output: JsonOption = False) -> None:
    """List every decision in the ledger, after checking its chain."""
    print_each(config, model, inspect.versions, inspect.render_versions, json_output)


@app.command(epilog="Example: everstill show 3fa2b1c4d5e6")
def show(
    version: Annotated[str, typer.Argument(help="Version, or the first characters of one; also that on trial.")],
    config: ConfigOption = None,
    model: ModelOption = None,
    json_output: JsonOption = False,
) -> None:
    """Say in words why a version serves or doesn't: which trial and evidence, who decided, from which data, what came after."""
    models, unknown = models_of(config, model), list[EverstillError]()
    for settings in models.values():
        try:
            body = inspect.show(settings, version)
        except EverstillError as error:
            unknown.append(error)
            continue
        print(json.dumps(body) if json_output else inspect.render_show(body))
        return
    raise unknown[0]


@app.command(
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": []},
    epilog="Example: everstill gate --wins 60 --losses 30 --total 3000 --json",
)
def gate(context: typer.Context) -> None:
    """Say what the gate makes of a trial's counters (--wins W --losses L --total N [--margin D] [--alpha A] [--json])."""
    replace([sys.executable, "-m", "distill_loop.gates.app", *context.args])


@app.command(
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": []},
    epilog="Example: everstill stream topics --create",
)
def stream(context: typer.Context) -> None:
    """Look at the stream: its topics and brokers on Kafka (topics [--create], brokers), and what couldn't be learned (dead)."""
    replace([sys.executable, "-m", "distill_loop.stream.app", *context.args])


@app.command("config", epilog="Example: everstill config --schema > everstill.schema.json")
def show_config(
    config: ConfigOption = None,
    model: ModelOption = None,
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON Schema of everstill.toml instead.")] = False,
) -> None:
    """Print the configuration in force as JSON, secrets masked; errors name the key and suggest the nearest."""
    if schema:
        print(json.dumps(EverstillSettings.model_json_schema(), indent=1))
        return
    bodies = {name: settings.model_dump(mode="json") for name, settings in models_of(config, model).items()}
    print(json.dumps(next(iter(bodies.values())) if len(bodies) == 1 else {"models": bodies}, indent=1))
