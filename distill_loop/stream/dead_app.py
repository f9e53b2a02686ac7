"""`everstill stream dead list|show|replay`: dead letters, looked at and sent again from a command line.

Decides the words. What is replayed goes to the topic and partition it came from, as it was, with the header `replay`: the loop then takes it in, though
it remembers that it was dead. Nothing is removed from the dead topic: retention does that. Part of `distill_loop.stream.app`. Imports no torch. One
thread.
"""

import argparse
import collections
import contextlib
import dataclasses
import json
import pathlib
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from distill_loop.stream.dead_letter import REASONS, Letter
from distill_loop.stream.streams import letters_of, open_writer
from distill_loop.stream.writer import Outgoing
from protos.errors import ConfigurationError, FormatError
from protos.records import REPLAY_HEADER
from registry.sections import StreamSection

#: Letters that `list` shows unless asked for more, and bytes that `show` prints.
SHOWN, SHOWN_BYTES = 50, 256
#: Letters that are sent again in one go.
REPLAYED_AT_ONCE, REPLAYED_BYTES_AT_ONCE = 500, 16 * 2**20
_REPLAY_HELP = (
    "Send dead letters again. That helps once what they died of was mended: a setting, the teacher, the version of a gateway or a loop. "
    "A letter stays in the list; one that dies again is there once more, marked as sent again."
)


def add_commands(commands: Any, shared: argparse.ArgumentParser) -> None:
    """Add `dead` and what it can do to a parser's subcommands; each sets `run`, to be called with the arguments, [stream] and the models.

    Args:
        shared: the arguments that every command has: --config, --model, --json.
    """
    dead = commands.add_parser("dead", help="look at dead letters, or send them again")
    actions = dead.add_subparsers(required=True, metavar="ACTION", parser_class=type(shared))
    about_list = "List the newest dead letters. A letter stays in the list after a replay, until retention removes it."
    listing = actions.add_parser("list", parents=[shared], help="list the newest dead letters", description=about_list)
    listing.add_argument(
        "--limit", type=_at_least_one, default=SHOWN, help=f"how many of the newest; {SHOWN} where absent"
    )
    listing.add_argument("--reason", help="only those of one reason")
    listing.set_defaults(run=_list)
    show = actions.add_parser("show", parents=[shared], help="show one dead letter")
    show.add_argument("number", type=int, help="its number, as `list` tells it")
    show.add_argument("--output", type=pathlib.Path, help="write its bytes to this file")
    show.set_defaults(run=_show)
    replay = actions.add_parser(
        "replay",
        parents=[shared],
        help="send dead letters again, once what they died of was mended",
        description=_REPLAY_HELP,
    )
    replay.add_argument("numbers", type=int, nargs="*", help="their numbers, as `list` tells them")
    replay.add_argument("--reason", help="all of one reason")
    replay.add_argument("--all", action="store_true", help="all of them")
    replay.set_defaults(run=_replay)


def replay(settings: StreamSection, model: str, letters: Iterable[Letter]) -> int:
    """Send letters again, in their order, some at a time; returns how many. One that was too long to be kept whole is left out.

    Raises:
        UnavailableError: the stream didn't take them all.
    """
    lot: list[Outgoing] = []
    num_bytes = num_sent = 0
    with contextlib.closing(open_writer(settings, model)) as writer:
        for letter in letters:
            source = letter.source
            if not letter.whole:
                continue
            headers = {**source.headers, REPLAY_HEADER: "1"}
            lot.append(Outgoing(source.kind, source.partition, headers, source.value))
            num_bytes += len(source.value)
            if len(lot) >= REPLAYED_AT_ONCE or num_bytes >= REPLAYED_BYTES_AT_ONCE:
                writer.write(lot)
                num_sent += len(lot)
                lot, num_bytes = [], 0
        if lot:
            writer.write(lot)
    return num_sent + len(lot)


def _list(parsed: argparse.Namespace, settings: StreamSection, models: Sequence[str]) -> int:
    _check_reason(parsed.reason, settings, models)
    told = {model: _looked_through(settings, model, parsed) for model in models}
    if parsed.json:
        bodies = {
            model: {
                "total": reasons.total(),
                "reasons": dict(reasons.most_common()),
                "letters": [_body(*one) for one in shown],
            }
            for model, (reasons, shown) in told.items()
        }
        print(json.dumps({"models": bodies}))
        return 0
    for model, (counts, shown) in told.items():
        reasons = ", ".join(f"{_plain(reason)} {num}" for reason, num in counts.most_common())
        print(f"{model}: {_letters(counts.total())}" + (f" ({reasons})" if reasons else ""))
        for letter, _ in shown:
            source = letter.source
            print(
                f"{letter.number:>8}  {_time(source.time_unix_ns)}  {_plain(source.kind)}/{source.partition}@{source.offset}  "
                f"{_plain(letter.reason)}: {_plain(letter.detail)}{' (sent again)' * _sent_again(letter)}"
            )
    return 0


def _looked_through(
    settings: StreamSection, model: str, parsed: argparse.Namespace
) -> tuple[collections.Counter[str], collections.deque[tuple[Letter, int]]]:
    """Return how many letters there are by reason, and the newest that are asked for, without their values but with those's sizes."""
    reasons: collections.Counter[str] = collections.Counter()
    newest: collections.deque[tuple[Letter, int]] = collections.deque(maxlen=parsed.limit)
    for letter in letters_of(settings, model, newest=None):
        reasons[letter.reason] += 1
        if parsed.reason in (None, letter.reason):
            light = dataclasses.replace(letter, source=dataclasses.replace(letter.source, value=b""))
            newest.append((light, len(letter.source.value)))
    return reasons, newest


def _show(parsed: argparse.Namespace, settings: StreamSection, models: Sequence[str]) -> int:
    model = _one_model(models)
    with contextlib.closing(letters_of(settings, model, newest=None)) as letters:
        letter = next((one for one in letters if one.number == parsed.number), None)
    if letter is None:
        raise _unknown(parsed.number, model)
    value = letter.source.value
    if parsed.output is not None:
        parsed.output.write_bytes(value)
    body = {
        **_body(letter, len(value)),
        "headers": letter.source.headers,
        "beginning_hex": value[:SHOWN_BYTES].hex(),
    }
    if parsed.json:
        print(json.dumps(body))
        return 0
    for name, text in body.items():
        if name != "beginning_hex":
            print(f"{name:<14}{_plain(str(text))}")
    for start in range(0, min(len(value), SHOWN_BYTES), 16):
        row = value[start : start + 16]
        print(f"{start:>8x}  {row.hex(' '):<48} {''.join(chr(one) if 32 <= one < 127 else '.' for one in row)}")
    return 0


def _replay(parsed: argparse.Namespace, settings: StreamSection, models: Sequence[str]) -> int:
    if sum((bool(parsed.numbers), parsed.reason is not None, parsed.all)) != 1:
        raise ConfigurationError("replay takes numbers, --reason or --all", fix="See `everstill stream dead list`")
    _check_reason(parsed.reason, settings, models)
    if parsed.numbers:
        there = {one.number for one in letters_of(settings, _one_model(models), newest=None)}
        for number in parsed.numbers:
            if number not in there:
                raise _unknown(number, models[0])
    sent: dict[str, int] = {}
    cut: dict[str, int] = {}
    for model in models:
        asked = _Asked(letters_of(settings, model, newest=None), parsed)
        sent[model] = replay(settings, model, asked)
        cut[model] = asked.num_cut
    if parsed.json:
        print(json.dumps({"replayed": sent, "not_whole": cut}))
        return 0
    for model, num in sent.items():
        were = "was" if cut[model] == 1 else "were"
        left = f"; {cut[model]} {were} too long to be kept whole, and can't be" if cut[model] else ""
        print(f"{model}: {_letters(num)} sent again{left}")
    if any(sent.values()):
        print("`everstill stream dead list` shows those that die again")
    return 0


class _Asked:
    """The letters that `replay` is asked for; counts those that aren't whole."""

    def __init__(self, letters: Iterable[Letter], parsed: argparse.Namespace) -> None:
        self._letters = letters
        self._parsed = parsed
        self.num_cut = 0

    def __iter__(self) -> Iterator[Letter]:
        for letter in self._letters:
            if self._parsed.numbers and letter.number not in self._parsed.numbers:
                continue
            if self._parsed.reason in (None, letter.reason):
                self.num_cut += not letter.whole
                yield letter


def _at_least_one(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of at least 1")
    return int(text)


def _check_reason(reason: str | None, settings: StreamSection, models: Sequence[str]) -> None:
    """Raise ConfigurationError where no letter can have this reason: we give no such one, and no other version gave it."""
    if reason is None or reason in REASONS:
        return
    if not any(one.reason == reason for model in models for one in letters_of(settings, model, newest=None)):
        raise ConfigurationError(
            f"no dead letter has the reason {reason!r}", fix=f"Known reasons are: {', '.join(REASONS)}"
        )


def _letters(num: int) -> str:
    return f"{num} dead letter{'' if num == 1 else 's'}"


def _sent_again(letter: Letter) -> bool:
    """Whether it is a replay that died once more."""
    return REPLAY_HEADER in letter.source.headers


def _one_model(models: Sequence[str]) -> str:
    if len(models) != 1:
        raise ConfigurationError(
            f"the configuration describes {len(models)} models, each with dead letters of its own",
            fix=f"Name one with --model: {', '.join(models)}",
        )
    return models[0]


def _unknown(number: int, model: str) -> FormatError:
    return FormatError(f"model {model} has no dead letter {number}", fix="See `everstill stream dead list`")


def _plain(text: str) -> str:
    """Return what others wrote so that a terminal shows it, and does nothing else with it."""
    return text if text.isprintable() else text.encode("unicode_escape").decode()


def _body(letter: Letter, num_bytes: int) -> dict[str, Any]:
    source, sent_again = dataclasses.asdict(letter.source), _sent_again(letter)
    del source["value"], source["headers"]
    return {
        "number": letter.number,
        **source,
        "reason": letter.reason,
        "detail": letter.detail,
        "num_bytes": letter.cut_from or num_bytes,
        "whole": letter.whole,
        "sent_again": sent_again,
        "cut_headers": letter.cut_headers,
    }


def _time(time_unix_ns: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(time_unix_ns / 1e9))
