"""How log lines look. One line per event, to standard error."""

from __future__ import annotations

import logging
import sys

import structlog

from trio_sse.settings import Settings


def configure(settings: Settings) -> None:
    """Set up the loggers of this package, and only these, by `log_format` and `log_level`."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_formatter(settings.log_format, colors=sys.stderr.isatty()))
    logger = logging.getLogger("trio_sse")
    logger.handlers = [handler]
    logger.propagate = False
    logger.setLevel(settings.log_level.upper())
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *_SHARED,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )


def adopt(logger: logging.Logger) -> None:
    """Let another library's logger write the same lines to the same place."""
    logger.handlers = logging.getLogger("trio_sse").handlers
    logger.propagate = False


_SHARED: list[structlog.typing.Processor] = [
    structlog.stdlib.add_log_level,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
]


def _formatter(log_format: str, *, colors: bool) -> structlog.stdlib.ProcessorFormatter:
    if log_format == "json":
        last: list[structlog.typing.Processor] = [
            structlog.processors.dict_tracebacks,
            structlog.processors.JSONRenderer(ensure_ascii=False),
        ]
    else:
        last = [
            structlog.dev.ConsoleRenderer(
                colors=colors, exception_formatter=structlog.dev.plain_traceback, pad_event_to=0
            )
        ]
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=_SHARED,
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
    )
