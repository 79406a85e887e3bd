"""Sets up all loggers of the process by the settings."""

from __future__ import annotations

import logging
import sys
from typing import TextIO

import structlog

from trio_sse.logs import libraries
from trio_sse.logs.lines import SHARED, formatter
from trio_sse.logs.pipe import Pipe
from trio_sse.logs.secrecy import hiding
from trio_sse.settings import Settings


def configure(settings: Settings) -> logging.Handler:
    """Set up the loggers of this package, and those of libraries that nobody else has set up, by `log_format`
    and `log_level`. Returns where all lines go."""
    handler = _handler(sys.stderr)
    colors = sys.stderr is not None and sys.stderr.isatty()
    handler.setFormatter(formatter(settings.log_format, hiding(settings), colors=colors))
    level = settings.log_level.upper()
    logger = logging.getLogger("trio_sse")
    for before in logger.handlers:
        if before.name == libraries.OURS:
            before.close()
    handler.set_name(libraries.OURS)
    logger.handlers = [handler]
    logger.propagate = False
    logger.setLevel(level)
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *SHARED,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    libraries.adopt(handler, logging.getLevelNamesMapping()[level])
    return handler


def _handler(stream: TextIO | None) -> logging.Handler:
    if stream is None:  # it was closed when the process started
        return logging.NullHandler()
    try:
        return Pipe(stream)
    except (OSError, ValueError):  # it is no file: an application has put something else in its place
        return logging.StreamHandler(stream)
