"""The teacher server's process: `python -m serving.app teacher`. Opens the port, says so on standard output, stops on SIGTERM."""

import json
import os
import signal

import structlog

from registry import logs
from registry.stopping import Stopping
from serving.config import ServingSettings
from serving.teacher.server import start

#: Calls in flight get this long when the process is told to stop.
GRACE_S = 5.0


def main(settings: ServingSettings) -> int:
    """Serve until SIGTERM or SIGINT; returns the exit code."""
    logs.configure("teacher", settings.log)
    os.nice(settings.teacher_server.nice)
    stopping = Stopping(signal.SIGTERM, signal.SIGINT)
    teacher = start(settings.teacher_server)
    structlog.get_logger().info("teacher started", address=teacher.address, onnx=str(settings.teacher_server.onnx))
    print(json.dumps({"event": "started", "address": teacher.address}), flush=True)
    stopping.wait()
    teacher.stop(GRACE_S)
    structlog.get_logger().info("teacher stopped")
    return 0
