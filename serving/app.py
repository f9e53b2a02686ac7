"""`python -m serving.app {gateway,worker,mirror,teacher} --config F`: the door of every serving process.

Decides which composition root runs and how an error that ends a process is told: one line and an exit code, no traceback.
"""

import argparse
import importlib
import os
import pathlib
import sys

from protos.errors import EverstillError
from registry.config import load
from serving.config import ServingSettings

#: Each imports only what its process needs: a mirror no gRPC server, a teacher no ring.
ROOTS = {
    "gateway": "serving.supervisor",
    "worker": "serving.worker_app",
    "mirror": "serving.mirror_app",
    "teacher": "serving.teacher_app",
}


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
    parsed = parser.parse_args(arguments)
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # its errors reach us as exceptions
    try:
        settings = load(parsed.config, ServingSettings)
        root = importlib.import_module(ROOTS[parsed.process])
        return int(root.main(settings, parsed.config) if parsed.process == "gateway" else root.main(settings))
    except EverstillError as error:
        print(f"everstill {parsed.process}: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:  # before the process has taken over the signal
        return 130


if __name__ == "__main__":
    raise SystemExit(main())
