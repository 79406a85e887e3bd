"""The format of log lines. One line per event, to standard error.

Clients and publishers can put text into the log. That text cannot move the cursor, change a colour or the
direction of writing, or begin a line: characters that do not print are written as escape sequences.
"""

from __future__ import annotations

import logging
import re
import sys
import textwrap
from io import StringIO
from typing import Any, TextIO

import structlog

from trio_sse.settings import Settings


def configure(settings: Settings) -> None:
    """Set up the loggers of this package, and only these, by `log_format` and `log_level`."""
    handler: logging.Handler
    if sys.stderr is None:  # it was closed when the process started
        handler = logging.NullHandler()
    else:
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


_SHARED: list[structlog.typing.Processor] = [
    structlog.stdlib.add_log_level,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
]


def escaped(text: str, *, keep: str = "") -> str:
    """The text with characters that do not print escaped as in Python, `\\x1b`, except those in `keep`."""
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() or character in keep else repr(character)[1:-1]
        for character in text
    )


def _formatter(log_format: str, *, colors: bool) -> structlog.stdlib.ProcessorFormatter:
    if log_format == "json":
        last: list[structlog.typing.Processor] = [
            structlog.processors.dict_tracebacks,
            structlog.processors.JSONRenderer(ensure_ascii=False),
            _escape_line,
        ]
    else:
        last = [
            _escape_values,
            structlog.dev.ConsoleRenderer(colors=colors, exception_formatter=_traceback, pad_event_to=0),
        ]
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=_SHARED,
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
    )


def _escape_line(_logger: Any, _method: str, line: Any) -> str:
    return escaped_json(str(line))


def escaped_json(text: str) -> str:
    """A JSON text of printable characters only. Others are in strings, where JSON can escape them; or they
    are white space between tokens."""
    if text.isprintable():
        return text
    return "".join(map(_json_character, _JSON_SPACE.sub(" ", text)))


_JSON_SPACE = re.compile("[\t\r\n]")  # in strings these are always escaped (RFC 8259, 7)


def _json_character(character: str) -> str:
    if character.isprintable():
        return character
    data = character.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{data[at : at + 2].hex()}" for at in range(0, len(data), 2))


def _escape_values(
    _logger: Any, _method: str, event: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    for key, value in event.items():
        if key == "event":
            event[key] = escaped(str(value))
        elif key in ("exception", "stack"):
            event[key] = _block(str(value))
        elif key not in ("level", "timestamp", "exc_info"):
            event[key] = _Value(value)
    return event


_PLAIN = re.compile(r"[^\s=\"']+")


class _Value:
    """A value on the console: a word as it is, anything else quoted."""

    def __init__(self, value: object) -> None:
        self._value = value

    def __repr__(self) -> str:
        value = self._value
        if isinstance(value, str) and value.isprintable() and _PLAIN.fullmatch(value):
            return value
        return escaped(repr(value))


def _traceback(file: TextIO, error: structlog.typing.ExcInfo) -> None:
    text = StringIO()
    structlog.dev.plain_traceback(text, error)
    file.write("\n" + _block(text.getvalue()))


def _block(text: str) -> str:
    """Text of several lines, indented so that none looks like the beginning of a log line."""
    return textwrap.indent(escaped(text.strip("\n"), keep="\n"), "  ", lambda _line: True)
