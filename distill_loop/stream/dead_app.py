"""`everstill stream dead list|show|replay`: dead letters, looked at and sent again from a command line.

Decides the words. What is replayed goes to the topic and partition it came from, as it was, with the header `replay`: the loop then takes it in, though
it remembers that it was dead. Nothing is removed from the dead topic: retention does that. Part of `distill_loop.stream.app`. Imports no torch. One
thread.
"""

import argparse
import collections
import dataclasses
import json
import pathlib
import time
from collections.abc import Sequence
from typing import Any

from distill_loop.stream.dead_letter import Letter
from distill_loop.stream.streams import letters_of, open_writer
from distill_loop.stream.writer import Outgoing
from protos.errors import ConfigurationError, FormatError
from protos.records import REPLAY_HEADER
from registry.sections import StreamSection

#: Letters that `list` shows unless asked for more, and bytes that `show` prints.
SHOWN, SHOWN_BYTES = 50, 256
#: Letters that are sent again in one go.
REPLAYED_AT_ONCE = 500


def add_commands(commands: Any, shared: argparse.ArgumentParser) -> None:
    """Add `dead` and what it can do to a parser's subcommands; each sets `run`, to be called with the arguments, [stream] and the models.

    Args:
        shared: the arguments that every command has: --config, --model, --json.
    """
    dead = commands.add_parser("dead", help="look at dead letters, or send them again")
    actions = dead.add_subparsers(required=True, metavar="ACTION", parser_class=type(shared))
    listing = actions.add_parser("list", parents=[shared], help="list the newest dead letters")
    listing.add_argument("--limit", type=int, default=SHOWN, help=f"how many of the newest; {SHOWN} where absent")
    listing.add_argument("--reason", help="only those of one reason")
    listing.set_defaults(run=_list)
    show = actions.add_parser("show", parents=[shared], help="show one dead letter")
    show.add_argument("number", type=int, help="its number, as `list` tells it")
    show.add_argument("--output", type=pathlib.Path, help="write its bytes to this file")
    show.set_defaults(run=_show)
    replay = actions.add_parser("replay", parents=[shared], help="send dead letters again")
    replay.add_argument("numbers", type=int, nargs="*", help="their numbers, as `list` tells them")
    replay.add_argument("--reason", help="all of one reason")
    replay.add_argument("--all", action="store_true", help="all of them")
    replay.set_defaults(run=_replay)


def replay(settings: StreamSection, model: str, letters: Sequence[Letter]) -> int:
    """Send letters again, oldest first; returns how many. One that was too long to be kept whole is left out.

    Raises:
        UnavailableError: the stream didn't take them all.
    """
    outgoing = []
    for letter in letters:
        source = letter.source
        if letter.whole:
            headers = {**source.headers, REPLAY_HEADER: "1"}
            outgoing.append(Outgoing(source.kind, source.partition, headers, source.value))
    writer = open_writer(settings, model)
    try:
        for start in range(0, len(outgoing), REPLAYED_AT_ONCE):
            writer.write(outgoing[start : start + REPLAYED_AT_ONCE])
    finally:
        writer.close()
    return len(outgoing)


def _list(parsed: argparse.Namespace, settings: StreamSection, models: Sequence[str]) -> int:
    told = {model: letters_of(settings, model, newest=None) for model in models}
    if parsed.json:
        bodies = {
            model: {
                "total": len(letters),
                "reasons": _reasons(letters),
                "letters": [_body(one) for one in _chosen(letters, parsed)],
            }
            for model, letters in told.items()
        }
        print(json.dumps({"models": bodies}))
        return 0
    for model, letters in told.items():
        reasons = ", ".join(f"{reason} {num}" for reason, num in _reasons(letters).items())
        print(f"{model}: {len(letters)} dead letters" + (f" ({reasons})" if reasons else ""))
        for letter in _chosen(letters, parsed):
            source = letter.source
            print(
                f"{letter.number:>8}  {_time(source.time_unix_ns)}  {source.kind}/{source.partition}@{source.offset}  "
                f"{letter.reason}: {letter.detail}"
            )
    return 0


def _show(parsed: argparse.Namespace, settings: StreamSection, models: Sequence[str]) -> int:
    model = _one_model(models)
    letter = _find(letters_of(settings, model, newest=None), [parsed.number], model)[0]
    value = letter.source.value
    if parsed.output is not None:
        parsed.output.write_bytes(value)
    body = {**_body(letter), "headers": letter.source.headers, "beginning_hex": value[:SHOWN_BYTES].hex()}
    if parsed.json:
        print(json.dumps(body))
        return 0
    for name, text in body.items():
        if name != "beginning_hex":
            print(f"{name:<14}{text}")
    for start in range(0, min(len(value), SHOWN_BYTES), 16):
        row = value[start : start + 16]
        print(f"{start:>8x}  {row.hex(' '):<48} {''.join(chr(one) if 32 <= one < 127 else '.' for one in row)}")
    return 0


def _replay(parsed: argparse.Namespace, settings: StreamSection, models: Sequence[str]) -> int:
    if sum((bool(parsed.numbers), parsed.reason is not None, parsed.all)) != 1:
        raise ConfigurationError("replay takes numbers, --reason or --all", fix="See `everstill stream dead list`")
    if parsed.numbers:
        _one_model(models)
    sent: dict[str, int] = {}
    cut: dict[str, int] = {}
    for model in models:
        letters = letters_of(settings, model, newest=None)
        if parsed.numbers:
            letters = _find(letters, parsed.numbers, model)
        elif parsed.reason is not None:
            letters = [one for one in letters if one.reason == parsed.reason]
        cut[model] = sum(not one.whole for one in letters)
        sent[model] = replay(settings, model, letters)
    if parsed.json:
        print(json.dumps({"replayed": sent, "not_whole": cut}))
        return 0
    for model, num in sent.items():
        left = f"; {cut[model]} were too long to be kept whole, and can't be" if cut[model] else ""
        print(f"{model}: {num} dead letters sent again{left}")
    return 0


def _one_model(models: Sequence[str]) -> str:
    if len(models) != 1:
        raise ConfigurationError(
            f"the configuration describes {len(models)} models, each with dead letters of its own",
            fix=f"Name one with --model: {', '.join(models)}",
        )
    return models[0]


def _find(letters: Sequence[Letter], numbers: Sequence[int], model: str) -> list[Letter]:
    by_number = {letter.number: letter for letter in letters}
    for number in numbers:
        if number not in by_number:
            raise FormatError(f"model {model} has no dead letter {number}", fix="See `everstill stream dead list`")
    return [by_number[number] for number in numbers]


def _chosen(letters: Sequence[Letter], parsed: argparse.Namespace) -> list[Letter]:
    chosen = [one for one in letters if parsed.reason in (None, one.reason)]
    return chosen[-parsed.limit :] if parsed.limit > 0 else []


def _reasons(letters: Sequence[Letter]) -> dict[str, int]:
    return dict(collections.Counter(letter.reason for letter in letters).most_common())


def _body(letter: Letter) -> dict[str, Any]:
    source = dataclasses.asdict(letter.source)
    del source["value"], source["headers"]
    return {
        "number": letter.number,
        **source,
        "reason": letter.reason,
        "detail": letter.detail,
        "num_bytes": letter.cut_from or len(letter.source.value),
        "whole": letter.whole,
    }


def _time(time_unix_ns: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(time_unix_ns / 1e9))
