"""Lines of libraries: they come out where those of this package do, and look like them.

What the operator has set up is left to the operator: handlers of the root logger, those of Hypercorn's
`--log-config`, and files, which only get the format. Hypercorn says what it does; other libraries only warn.
"""

from __future__ import annotations

import contextlib
import logging
import re
import sys
from collections.abc import Iterator
from types import TracebackType
from typing import Any

import hypercorn.logging

from trio_sse.logs.secrecy import HIDDEN
from trio_sse.patches import standing_in

log = logging.getLogger("trio_sse.logs.libraries")

OURS = "trio_sse"
"""Name of a handler that `configure` made."""

HYPERCORN = ("hypercorn.error", "hypercorn.access")


def adopt(handler: logging.Handler, level: int) -> None:
    """Let lines of libraries go to `handler` from now on: those of asyncio, Trio, redis-py and so on,
    Python's warnings, and errors that Python itself would write to standard error. Does nothing if the
    operator has set up the root logger."""
    if not _may_adopt():
        return
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(max(level, logging.WARNING))
    for name in HYPERCORN:
        _take_over(logging.getLogger(name), handler, level)
    logging.captureWarnings(True)
    if sys.unraisablehook is sys.__unraisablehook__:
        sys.unraisablehook = _unraisable
    if sys.excepthook is sys.__excepthook__:
        sys.excepthook = _uncaught


@contextlib.contextmanager
def adopted(handler: logging.Handler, level: int) -> Iterator[None]:
    """The same for what Hypercorn sets up while the scope is open: it waits until it has something to say."""
    create = getattr(hypercorn.logging, "_create_logger", None)

    def create_and_take_over(name: str, target: Any, *others: Any, **more: Any) -> logging.Logger | None:
        assert create is not None  # standing_in() checked it
        logger: logging.Logger | None = create(name, target, *others, **more)
        if logger is not None and name in HYPERCORN and _may_adopt():
            _take_over(logger, handler, level)
        return logger

    ours = {hypercorn.logging: {"_create_logger": create_and_take_over}}
    with standing_in(ours, "lines of Hypercorn look as Hypercorn writes them"):
        yield


def _may_adopt() -> bool:
    return all(map(_is_ours, logging.getLogger().handlers))


def _take_over(logger: logging.Logger, handler: logging.Handler, level: int) -> None:
    """Let a logger that writes to standard output or error write to `handler`. One that writes to a file gets
    its format."""
    others = [its for its in logger.handlers if not _is_ours(its)]
    files = [its for its in others if isinstance(its, logging.FileHandler)]
    consoles = [its for its in others if isinstance(its, logging.StreamHandler) and its not in files]
    for file in files:
        file.setFormatter(handler.formatter)
    if len(others) < len(logger.handlers) or consoles:
        logger.handlers = [handler, *(its for its in others if its not in consoles)]
    if logger.handlers:
        if _hide_fields not in logger.filters:
            logger.addFilter(_hide_fields)
        logger.setLevel(max(level, logger.level))
        logger.propagate = False  # else the root logger says it again


def _hide_fields(record: logging.LogRecord) -> bool:
    """Take out of a line of an access log the header fields and variables that a format may ask for, and
    that must not be read: `%({cookie}i)s`, `%({redis_password}e)s`."""
    if isinstance(record.args, dict):
        for name in filter(_SECRET_FIELD.match, map(str, record.args)):
            record.args[name] = HIDDEN
    return True


_SECRET_FIELD = re.compile(
    r"\{(?:(?:proxy-)?authorization|(?:set-)?cookie|x-(?:api-key|auth-token)|"
    r"[^}]*(?:password|passwd|secret|token|redis_url)[^}]*)\}"
)


def _is_ours(handler: logging.Handler) -> bool:
    return handler.name == OURS


def _unraisable(error: sys.UnraisableHookArgs) -> None:
    _say("an error where nothing could take it", error.exc_type, error.exc_value, error.exc_traceback)


def _uncaught(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, traceback)
        return
    _say("the process ends by an error", kind, error, traceback)


def _say(
    what: str, kind: type[BaseException], error: BaseException | None, traceback: TracebackType | None
) -> None:
    log.critical(what, exc_info=(kind, error or kind(), traceback))
