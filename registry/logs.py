"""How every process logs: structlog, one JSON object a line (or coloured text for people) on standard error.

Decides a line's fields and where it goes. Knows nothing of what is logged. Each process's app calls `configure` once, first
thing; loggers are then used from any thread.
"""

import logging
import sys
from typing import Any

import structlog

from registry.sections import LogSection


def configure(process: str, settings: LogSection) -> None:
    """Set up logging of this process; call once, first thing. Every line carries the process's name and UTC time."""
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer() if settings.format == "json" else structlog.dev.ConsoleRenderer()
    )

    def name_process(logger: Any, method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
        # Not a context variable: threads start with none.
        event.setdefault("process", process)
        return event

    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            name_process,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[settings.level.upper()]),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
