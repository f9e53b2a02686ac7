"""`python -m distill_loop.stream.app COMMAND --config F`, which `everstill stream` becomes: topics and brokers, asked from a command line;
dead letters are `dead_app.py`.

Decides the words and the exit code: 0 as it shall be, 2 something differs from the configuration, 4 no broker answers. `keep` is for
a run that shall leave nothing behind: it makes topics under a prefix of their own, and deletes them when it is told to stop,
whatever ended its parent. Imports no torch. One thread.
"""

import argparse
import dataclasses
import json
import logging
import pathlib
import signal
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from distill_loop.config import LoopSettings
from distill_loop.stream import dead_app
from distill_loop.stream.topics import Brokers, Topic, Wanted, complaint, remedy, wanted_topics
from protos.errors import ConfigurationError, ConflictError, EverstillError, UnavailableError
from registry.config import load_models
from registry.kafka_options import CREATE_FIX
from registry.sections import StreamSection
from registry.stopping import Stopping

PROGRAM = "everstill stream"
DEFAULT_CONFIG = pathlib.Path("everstill.toml")


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, without the usage."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}\n")


def main(arguments: list[str] | None = None) -> int:
    """Do what the command says; returns the exit code."""
    parsed = _parser().parse_args(arguments)
    logging.getLogger("kafka").addHandler(logging.NullHandler())  # its warnings reach us as errors
    try:
        path = parsed.config or (DEFAULT_CONFIG if DEFAULT_CONFIG.exists() else None)
        models = load_models(path, LoopSettings)
        settings = next(iter(models.values())).stream
        if parsed.model not in (None, *models):
            raise ConfigurationError(
                f"the configuration describes no model {parsed.model!r}; it has {', '.join(models)}"
            )
        names = [parsed.model] if parsed.model else list(models)
        return int(parsed.run(parsed, settings, names))
    except EverstillError as error:
        print(f"{PROGRAM}: {error}", file=sys.stderr)
        return error.exit_code


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog=PROGRAM,
        description="Look at the stream between gateways and loops.",
        epilog="Example: everstill stream topics --create",
    )
    shared = _Parser(add_help=False)
    shared.add_argument("--config", type=pathlib.Path, help="configuration file; ./everstill.toml where it exists")
    shared.add_argument("--model", help="one of the configuration's models; all where absent")
    shared.add_argument("--json", action="store_true", help="print one JSON object")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=_Parser)
    topics = commands.add_parser(
        "topics", parents=[shared], help="check Kafka's topics, or make those that are missing"
    )
    topics.add_argument("--create", action="store_true", help="make the topics that are missing; none is ever changed")
    topics.set_defaults(run=_topics)
    brokers = commands.add_parser("brokers", parents=[shared], help="say which brokers answer")
    brokers.set_defaults(run=_brokers)
    dead_app.add_commands(commands, shared)
    keep = commands.add_parser("keep", parents=[shared])  # no help: for a demo, not for people
    keep.add_argument("--prefix", required=True, help="stream.kafka.topic_prefix, said once more")
    keep.set_defaults(run=_keep)
    return parser


def _open(settings: StreamSection) -> Brokers:
    """Return a connection to the brokers; raises ConfigurationError where the stream isn't Kafka."""
    if not settings.kafka.bootstrap:
        raise ConfigurationError(
            f"stream.kafka.bootstrap is not set: the stream is the file {settings.path}, which needs no topics made",
            fix="Set it to Kafka's host:port",
        )
    return Brokers(settings.kafka)


def _topics(parsed: argparse.Namespace, settings: StreamSection, models: Sequence[str]) -> int:
    """Check the topics; with --create make those that are missing, and check again."""
    try:
        found, created = _looked_at(settings, models, create=parsed.create)
    except UnavailableError as error:
        if parsed.json:
            print(_answer(settings, error.message, error.fix))
        raise
    names = [one.name for one in created]
    wrong = complaint(found)
    fix = remedy(found) if any(one.state == "differs" for one in found) else CREATE_FIX
    if parsed.json:
        print(_answer(settings, wrong, fix if wrong else "", names, found))
    else:
        width = max(len(one.wanted.name) for one in found)
        print("\n".join(_line(one, width, created=one.wanted.name in names) for one in found))
    if wrong:
        raise ConfigurationError(wrong, fix=fix)
    return 0


def _looked_at(
    settings: StreamSection, models: Sequence[str], *, create: bool
) -> tuple[Sequence[Topic], Sequence[Wanted]]:
    """Return the topics as they are, and those of them that were made now."""
    wanted = wanted_topics(settings, models)
    created: list[Wanted] = []
    with _open(settings) as brokers:
        found = brokers.look(wanted)
        if create and (created := [one.wanted for one in found if one.state == "missing"]):
            brokers.create(created)
            found = brokers.look(wanted)
    return found, created


def _answer(
    settings: StreamSection, problem: str, fix: str, created: Sequence[str] = (), topics: Sequence[Topic] = ()
) -> str:
    """Return how the topics stand, as --json prints it."""
    body = {
        "bootstrap": settings.kafka.bootstrap,
        "prefix": settings.prefix,
        "problem": problem,
        "fix": fix,
        "created": list(created),
        "topics": [_body(one) for one in topics],
    }
    return json.dumps(body)


def _brokers(parsed: argparse.Namespace, settings: StreamSection, models: Sequence[str]) -> int:
    with _open(settings) as brokers:
        body = {"bootstrap": settings.kafka.bootstrap, **brokers.describe()}
    print(json.dumps(body) if parsed.json else f"cluster {body['cluster']}: {', '.join(body['brokers'])}")
    return 0


def _keep(parsed: argparse.Namespace, settings: StreamSection, models: Sequence[str]) -> int:
    """Make topics, say so in one JSON line, and delete them once told to stop."""
    if parsed.prefix != settings.prefix:
        raise ConfigurationError(
            f"stream.kafka.topic_prefix is {settings.prefix!r}, not {parsed.prefix!r}: nothing under it is made or deleted",
            fix="Unset EVERSTILL_STREAM__KAFKA__TOPIC_PREFIX",
        )
    stopping = Stopping(signal.SIGTERM, signal.SIGINT)
    wanted = wanted_topics(settings, models)
    names = [one.name for one in wanted]
    with _open(settings) as brokers:
        if there := [one.wanted.name for one in brokers.look(wanted) if one.state != "missing"]:
            raise ConflictError(f"topic {there[0]} is there already, and isn't ours", fix="Take another prefix")
        try:
            brokers.create(wanted)
        except EverstillError:
            brokers.delete(names)
            raise
    print(json.dumps({"event": "started", "bootstrap": settings.kafka.bootstrap, "topics": names}), flush=True)
    stopping.wait()
    try:
        with _open(settings) as brokers:
            brokers.delete(names)
    except EverstillError as error:
        left = f"the topics {settings.prefix}.* are left on Kafka: {error.message}"
        raise type(error)(left, fix="Delete them by Kafka's own tools") from None
    return 0


def _body(topic: Topic) -> dict[str, Any]:
    wanted = topic.wanted
    return {
        "topic": wanted.name,
        "model": wanted.model,
        "kind": wanted.kind,
        "state": topic.state,
        "partitions": wanted.partitions,
        "replication": wanted.replication,
        "differences": [dataclasses.asdict(one) for one in topic.differences],
        "settings_unread": topic.unread,
    }


def _line(topic: Topic, width: int, *, created: bool) -> str:
    wanted = topic.wanted
    about = f"partitions {wanted.partitions}, replicas {wanted.replication}"
    if topic.differences:
        about = ", ".join(map(str, topic.differences))
    if topic.unread:
        about += "; its settings can't be read by us, and weren't compared"
    state = "created" if created and topic.state == "ok" else topic.state
    return f"{state:<9}{wanted.name:<{width}}  {about}"


if __name__ == "__main__":
    raise SystemExit(main())
