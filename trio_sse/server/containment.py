"""An error of one connection ends that connection, is counted, and is one line in the log."""

from __future__ import annotations

import structlog

from trio_sse.counters import Counters

log = structlog.stdlib.get_logger("trio_sse.server.containment")


class Contained:
    """A scope that stops every error and lets every cancellation pass.

    It is a class, not a generator, since one is held as long as its connection is open.
    """

    __slots__ = ("_counters", "_what")

    def __init__(self, counters: Counters, what: str) -> None:
        self._counters = counters
        self._what = what

    def __enter__(self) -> None:
        pass

    def __exit__(self, _: object, error: BaseException | None, __: object) -> bool:
        if isinstance(error, Exception):
            self._report(error)
            return True
        if isinstance(error, BaseExceptionGroup):
            # Cancelled together with an error: the cancellation goes on, the error ends here.
            errors, others = error.split(Exception)
            if errors is not None:
                self._report(errors)
                if others is None:
                    return True
                raise others from None
        return False

    def _report(self, error: BaseException) -> None:
        report(self._counters, self._what, error)


def report(counters: Counters, what: str, error: BaseException) -> None:
    """Count and log an error that ended a connection or a request."""
    counters.connection_errors += 1
    log.warning(f"{what} ended by an error", error=one_line(error))
    log.debug("the error", exc_info=error)


def innermost(error: BaseException) -> BaseException:
    """The first error inside nested groups. Nurseries wrap a lone error once per level."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def one_line(error: BaseException) -> str:
    """The innermost error as one line of at most 200 characters."""
    error = innermost(error)
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]
