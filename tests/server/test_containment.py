"""Whatever one connection or request raises ends it, is counted and told, and ends nothing else."""

from __future__ import annotations

import pytest
import trio
from structlog.testing import capture_logs

from trio_sse.counters import Counters
from trio_sse.server.containment import Contained, innermost, one_line


@pytest.mark.parametrize(
    "error",
    [ZeroDivisionError("oops"), ExceptionGroup("", [ExceptionGroup("", [ZeroDivisionError("oops")])])],
)
def test_an_error_ends_here_counted_and_told_in_one_line(error: Exception) -> None:
    counters = Counters()
    with capture_logs() as lines, Contained(counters, "a request"):
        raise error
    assert counters.connection_errors == 1
    (warning,) = [line for line in lines if line["log_level"] == "warning"]
    assert "a request" in warning["event"]
    assert warning["error"] == "ZeroDivisionError: oops"


def test_without_an_error_nothing_is_counted_or_told() -> None:
    counters = Counters()
    with capture_logs() as lines, Contained(counters, "a request"):
        pass
    assert (counters.connection_errors, lines) == (0, [])


@pytest.mark.parametrize("end", [KeyboardInterrupt, SystemExit])
def test_what_ends_the_process_goes_on(end: type[BaseException]) -> None:
    counters = Counters()
    with pytest.raises(end), Contained(counters, "a request"):
        raise end
    assert counters.connection_errors == 0


async def test_a_cancellation_goes_on() -> None:
    counters = Counters()
    with trio.move_on_after(0) as scope, Contained(counters, "a request"):
        await trio.sleep_forever()
    assert scope.cancelled_caught
    assert counters.connection_errors == 0


async def test_a_cancellation_beside_an_error_goes_on_and_the_error_is_counted() -> None:
    counters = Counters()

    async def broken_when_cancelled() -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise ZeroDivisionError

    with trio.move_on_after(0) as scope, Contained(counters, "a request"):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            nursery.start_soon(broken_when_cancelled)
    assert scope.cancelled_caught
    assert counters.connection_errors == 1


def test_the_innermost_error_is_told_in_one_line() -> None:
    error = ExceptionGroup("a", [ExceptionGroup("b", [ValueError("two\nlines " + "x" * 300)])])
    assert isinstance(innermost(error), ValueError)
    assert one_line(error).startswith("ValueError: two lines xxx")
    assert len(one_line(error)) == 200
