"""The format of log lines. One line per event.

Clients and publishers can put text into the log. That text cannot move the cursor, change a colour or the
direction of writing, or begin a line: characters that do not print are written as escape sequences.
"""

from __future__ import annotations

import logging
import re
import textwrap
from io import StringIO
from typing import Any, TextIO

import structlog

from trio_sse.logs.secrecy import Hide, hidden_in

SHARED: list[structlog.typing.Processor] = [
    structlog.stdlib.add_log_level,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
]
"""What every line goes through, whoever says it."""


def escaped(text: str, *, keep: str = "") -> str:
    """The text with characters that do not print escaped as in Python, `\\x1b`, except those in `keep`."""
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() or character in keep else repr(character)[1:-1]
        for character in text
    )


def formatter(log_format: str, hide: Hide, *, colors: bool) -> logging.Formatter:
    """The format of lines, of this package and of libraries. `hide` takes secrets out of their text."""
    if log_format == "json":
        last: list[structlog.typing.Processor] = [
            _tracebacks,
            lambda _logger, _method, event: hidden_in(event, hide),
            structlog.processors.JSONRenderer(ensure_ascii=False),
            _escape_line,
        ]
    else:
        last = [
            lambda _logger, _method, event: _for_console(event, hide),
            structlog.dev.ConsoleRenderer(
                colors=colors,
                exception_formatter=lambda file, error: _traceback(file, error, hide),
                pad_event_to=0,
            ),
        ]
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[*SHARED, _stripped],
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
    )


_tracebacks = structlog.processors.ExceptionRenderer(
    structlog.tracebacks.ExceptionDictTransformer(show_locals=False)  # they have tokens and messages
)


def _stripped(_logger: Any, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """A warning of Python ends with a line end."""
    event["event"] = str(event["event"]).strip()
    return event


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


def _for_console(event: structlog.typing.EventDict, hide: Hide) -> structlog.typing.EventDict:
    for key, value in event.items():
        if key == "event":
            event[key] = escaped(hide(str(value)))
        elif key in ("exception", "stack"):
            event[key] = _block(hide(str(value)))
        elif key not in ("level", "timestamp", "exc_info"):
            event[key] = _Value(value, hide)
    return event


_PLAIN = re.compile(r"[^\s=\"']+")


class _Value:
    """A value on the console: a word as it is, anything else quoted."""

    def __init__(self, value: object, hide: Hide) -> None:
        self._value = value
        self._hide = hide

    def __repr__(self) -> str:
        value = self._value
        if isinstance(value, str) and value.isprintable() and _PLAIN.fullmatch(value):
            return self._hide(value)
        return self._hide(escaped(repr(value)))


def _traceback(file: TextIO, error: structlog.typing.ExcInfo, hide: Hide) -> None:
    text = StringIO()
    structlog.dev.plain_traceback(text, error)
    file.write("\n" + _block(hide(text.getvalue())))


def _block(text: str) -> str:
    """Text of several lines, indented so that none looks like the beginning of a log line."""
    return textwrap.indent(escaped(text.strip("\n"), keep="\n"), "  ", lambda _line: True)
