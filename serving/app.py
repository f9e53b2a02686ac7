"""`python -m serving.app {gateway,worker,mirror,teacher} --config F`: the door of every serving process.

Decides which composition root runs and how an error that ends a process is told: one line and an exit code, no traceback.
"""

import argparse
import importlib
import json
import os
import pathlib
import sys

from protos.errors import EverstillError
from registry.config import load, load_models
from serving.config import ServingSettings

#: Each imports only what its process needs: a mirror no gRPC server, a teacher no ring.
ROOTS = {
    "gateway": "serving.supervisor",
    "worker": "serving.worker_app",
    "mirror": "serving.mirror_app",
    "teacher": "serving.teacher_app",
}
#: Their standard output is the parent's: what ends them is told there.
CHILDREN = ("worker", "mirror")


def main(arguments: list[str] | None = None) -> int:
    """Run one process until it is told to stop; returns its exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments[:1] == ["describe"]:
        return int(importlib.import_module("serving.describe_app").main(arguments[1:]))
    parser = argparse.ArgumentParser(prog="serving.app", description=__doc__)
    parser.add_argument("process", choices=sorted(ROOTS))
    parser.add_argument(
        "--config", type=pathlib.Path, default=None, help="everstill.toml; defaults and environment where absent"
    )
    parser.add_argument("--model", help="whose teacher is served, where the file has several models")
    parser.add_argument("--worker", type=int, default=0, help="a worker's number, from 0")
    parser.add_argument(
        "--listen", action="append", default=[], help="host:port that a worker opens, where not gateway.port"
    )
    parsed = parser.parse_args(arguments)
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # its errors reach us as exceptions
    try:
        root = importlib.import_module(ROOTS[parsed.process])
        if parsed.process == "teacher":
            return int(root.main(load(parsed.config, ServingSettings, parsed.model)))
        models = load_models(parsed.config, ServingSettings)
        if parsed.process == "gateway":
            return int(root.main(models, parsed.config))
        return int(root.main(models, parsed.worker, parsed.listen) if parsed.process == "worker" else root.main(models))
    except EverstillError as error:
        if parsed.process in CHILDREN:  # the parent tells it, last, once everything else has ended
            print(json.dumps({"event": "failed", "reason": error.message, "fix": error.fix}), flush=True)
        else:
            print(f"everstill {parsed.process}: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:  # before the process has taken over the signal
        return 130


if __name__ == "__main__":
    raise SystemExit(main())
