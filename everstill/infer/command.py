"""The command `everstill infer`: finds the gateway and the model that are meant, and runs the rows through them."""

import sys
from typing import Annotated

import typer

from everstill.infer.rows import Options
from everstill.infer.run import Infer, Order
from everstill.options import ConfigOption
from everstill.reach import gateway_address, model_meant, settings_meant
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

    A line has its source and line number, the version that answered, the record id (with its row, where a request had several) and the top classes (a softmax, for display). A row that
    fails has "error" and "code" instead, and the others are answered all the same. Progress goes to standard error.
    """
    settings = settings_meant(config, model, address)
    where = address or (gateway_address(settings) if settings else "")
    with InferenceClient(where, timeout_s=timeout_s, retries=retries) as client:
        name = model_meant(client, model, settings, address)
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
