"""The command `everstill infer`: finds the gateway and the model that are meant, and runs the rows through them."""

import pathlib
import sys
from typing import Annotated

import typer

from everstill.config import EverstillSettings
from everstill.infer.rows import Options
from everstill.infer.run import Infer, Order
from everstill.options import ConfigOption, config_path, models_of
from protos.errors import ConfigurationError, EverstillError, UnavailableError
from registry.status import read_statuses
from registry.store import open_store
from serving.rpc.client import InferenceClient

EPILOG = """Example: everstill infer requests.jsonl --top 3

Example: echo '{"input": [1.5, 2]}' | everstill infer

Example: echo "what is my balance" | everstill infer --text

Example: everstill infer rows.npz --batch 32 --raw > answers.jsonl

Example: everstill infer *.png --resize --scale 0.0627"""


def infer(
    files: Annotated[
        list[str] | None,
        typer.Argument(
            help="JSON lines, npz, images, or .txt (a text a line); - or none is standard input, JSON lines."
        ),
    ] = None,
    config: ConfigOption = None,
    model: Annotated[str | None, typer.Option(help="Model to ask; needed where there are several.")] = None,
    address: Annotated[
        str | None, typer.Option(help="host:port of the gateway; the configuration's where absent.")
    ] = None,
    text: Annotated[bool, typer.Option("--text", help="Each line is a text for the model's BYTES input.")] = False,
    resize: Annotated[bool, typer.Option("--resize", help="Resize images to what the model takes.")] = False,
    scale: Annotated[float, typer.Option(help="What an image's values, 0 to 255, are multiplied by.")] = 1.0,
    output: Annotated[str, typer.Option(help="Output to rank; the first where absent.")] = "",
    top: Annotated[int, typer.Option(min=1, help="Classes that a line names.")] = 1,
    raw: Annotated[bool, typer.Option("--raw", help="Print outputs as they are instead of classes.")] = False,
    batch: Annotated[int, typer.Option(min=1, help="Rows of one request, of equal shape.")] = 1,
    in_flight: Annotated[int, typer.Option(min=1, max=256, help="Requests on their way at once.")] = 16,
    stream: Annotated[bool, typer.Option("--stream", help="Use one stream instead of calls side by side.")] = False,
    timeout_s: Annotated[
        float,
        typer.Option(
            "--timeout", min=0.001, help="Deadline of a request, in seconds; of a stream, its longest silence."
        ),
    ] = 10.0,
    retries: Annotated[int, typer.Option(min=0, help="Tries after the first, where the gateway is away or busy.")] = 2,
) -> None:
    """Answer inputs from files or standard input: one JSON line for each, in order; exit code 1 where any failed.

    A line has its source and line number, the version that answered, the record id and the top classes (a softmax, for display). A row that
    fails has "error" and "code" instead, and the others are answered all the same. Progress goes to standard error.
    """
    settings = _settings(config, model, address)
    where = address or _address(settings)
    with InferenceClient(where, timeout_s=timeout_s, retries=retries) as client:
        name = model or (settings.model.name if settings and not address else _only_model(client))
        order = Order(
            name,
            tuple(files or ()),
            Options(text, resize, scale),
            output=output,
            labels=settings.model.labels if settings and settings.model.name == name else (),
            top=top,
            raw=raw,
            batch=batch,
            in_flight=in_flight,
            stream=stream,
        )
        code = Infer(client, order, sys.stdout, lambda line: print(line, file=sys.stderr)).run(sys.stdin.buffer)
    sys.stdout.flush()
    raise typer.Exit(code)


def _settings(config: pathlib.Path | None, model: str | None, address: str | None) -> EverstillSettings | None:
    """Return the settings of the model, or None where an address is given and no file says more about the model."""
    if address and config_path(config) is None:
        return None
    models = models_of(config)
    if model is not None and model in models:
        return models[model]
    if len(models) == 1:
        (settings,) = models.values()
        return settings
    if address:
        return None
    raise ConfigurationError(
        f"the configuration has {len(models)} models: {', '.join(models)}", fix="Name one with --model"
    )


def _address(settings: EverstillSettings | None) -> str:
    """Return where the configured gateway listens: its port, or, where any will do, what it says of itself."""
    assert settings is not None
    if settings.gateway.port:
        host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(settings.gateway.host, settings.gateway.host)
        return f"{host}:{settings.gateway.port}"
    try:
        status = read_statuses(open_store(settings.registry.url), settings.model.name).get(settings.gateway.id, {})
    except EverstillError:
        status = {}
    if not status.get("address") or status.get("stopped"):
        raise UnavailableError("no gateway runs here", fix="Start one with everstill up, or give --address")
    return str(status["address"])


def _only_model(client: InferenceClient) -> str:
    """Return the one model that a server has."""
    names = sorted({one.name for one in client.index()})
    if len(names) != 1:
        raise ConfigurationError(
            f"{client.address} has {len(names)} models: {', '.join(names)}", fix="Name one with --model"
        )
    return names[0]
