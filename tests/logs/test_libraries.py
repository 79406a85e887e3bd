"""Lines of libraries come out where those of this package do."""

from __future__ import annotations

import json
import logging
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypercorn.logging
import pytest
from hypercorn.config import Config

from tests.support.inside import process_kept, settings
from trio_sse.logs import configure
from trio_sse.logs.libraries import HYPERCORN, adopted
from trio_sse.settings import Settings

NAMES = (None, *HYPERCORN, "py.warnings")


@pytest.fixture(autouse=True)
def _nobody_has_set_up_anything() -> Iterator[None]:
    loggers = [logging.getLogger(name) for name in NAMES]
    before = [(logger.handlers, logger.level, logger.propagate, logger.filters) for logger in loggers]
    hooks = sys.unraisablehook, sys.excepthook
    for logger in loggers:
        logger.handlers, logger.filters = [], []
    with process_kept():
        yield
    logging.captureWarnings(False)
    sys.unraisablehook, sys.excepthook = hooks
    for logger, state in zip(loggers, before, strict=True):
        logger.handlers, logger.level, logger.propagate, logger.filters = state


def set_up(settings: Settings) -> logging.Handler:
    """`configure`, where nobody has set up anything. Pytest has, in each test anew."""
    for name in (None, "trio_sse"):
        logging.getLogger(name).handlers = []
    return configure(settings)


def lines(capsys: pytest.CaptureFixture[str]) -> list[Any]:
    out, err = capsys.readouterr()
    assert out == ""
    return [json.loads(line) for line in err.splitlines()]


def test_warnings_of_any_library(capsys: pytest.CaptureFixture[str]) -> None:
    set_up(settings(log_format="json", log_level="debug"))
    for name in ("asyncio", "trio.serve_listeners", "redis", "quart.serving"):
        logging.getLogger(name).warning("from \x1b[2J a library")
        logging.getLogger(name).info("what it does")
    found = lines(capsys)
    assert [(line["level"], line["event"]) for line in found] == [("warning", "from \x1b[2J a library")] * 4


def test_they_are_not_shown_below_the_level(capsys: pytest.CaptureFixture[str]) -> None:
    set_up(settings(log_format="json", log_level="error"))
    logging.getLogger("asyncio").warning("a warning")
    logging.getLogger("asyncio").error("an error")
    assert [line["event"] for line in lines(capsys)] == ["an error"]


def test_warnings_of_python(capsys: pytest.CaptureFixture[str]) -> None:
    set_up(settings(log_format="json"))
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(False)
        logging.captureWarnings(True)
        warnings.warn("something will change", stacklevel=1)
    (line,) = lines(capsys)
    assert "UserWarning: something will change" in line["event"]
    assert not line["event"].endswith("\n")


def test_errors_that_python_would_write_itself(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "unraisablehook", sys.__unraisablehook__)
    monkeypatch.setattr(sys, "excepthook", sys.__excepthook__)
    set_up(settings(log_format="json"))
    error = ValueError("on purpose")
    sys.excepthook(ValueError, error, None)
    (line,) = lines(capsys)
    assert line["exception"][0]["exc_value"] == "on purpose"

    class Leaving:
        def __del__(self) -> None:
            raise error

    Leaving()
    (line,) = lines(capsys)
    assert line["exception"][0]["exc_value"] == "on purpose"


def test_who_has_set_up_the_root_logger_keeps_it() -> None:
    root = logging.getLogger()
    own = logging.NullHandler()
    root.handlers = [own]
    its = logging.StreamHandler()
    logging.getLogger("hypercorn.error").handlers = [its]
    configure(settings())
    assert root.handlers == [own]
    assert logging.getLogger("hypercorn.error").handlers == [its]


def hypercorn_says(**options: str) -> hypercorn.logging.Logger:
    config = Config()
    for name, value in options.items():
        setattr(config, name, value)
    return config.log


@pytest.mark.parametrize("before", [True, False], ids=["set-up-before", "set-up-later"])
async def test_hypercorn_says_everything_once_in_the_same_format(
    capsys: pytest.CaptureFixture[str], *, before: bool
) -> None:
    log = hypercorn_says(accesslog="-") if before else None
    handler = set_up(settings(log_format="json"))
    with adopted(handler, logging.INFO):
        log = log or hypercorn_says(accesslog="-")
        await log.info("Running on http://x")
        await log.debug("details")
        await log.access(scope(b"access_token=abc&x=1"), response(), 0.0)  # type: ignore[arg-type]
    running, access = [line["event"] for line in lines(capsys)]
    assert running == "Running on http://x"
    assert "GET /\x1b[2J 1.1" in access
    assert "tok=abc" not in access


def scope(query: bytes) -> dict[str, Any]:
    headers = [(b"cookie", b"tok=abc"), (b"authorization", b"abcdefgh"), (b"user-agent", b"\x1b[31mred")]
    return {
        "type": "http",
        "http_version": "1.1",
        "scheme": "http",
        "method": "GET",
        "path": "/\x1b[2J",
        "query_string": query,
        "headers": headers,
        "client": ("127.0.0.1", 1),
    }


def response() -> dict[str, Any]:
    return {"status": 200, "headers": [(b"set-cookie", b"tok=abc")]}


async def test_fields_that_an_access_log_may_be_asked_for_are_hidden(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REDIS_PASSWORD", "abcdefgh")
    monkeypatch.setenv("OTHER_TOKEN", "abcdefgh")
    handler = set_up(settings(log_format="json"))
    asked = "%({cookie}i)s %({authorization}i)s %({set-cookie}o)s %({redis_password}e)s %({other_token}e)s"
    with adopted(handler, logging.INFO):
        log = hypercorn_says(accesslog="-", access_log_format=f"{asked} %({{user-agent}}i)s %({{none}}i)s")
        await log.access(scope(b""), response(), 0.0)  # type: ignore[arg-type]
    assert lines(capsys)[0]["event"] == "*** *** *** *** *** \x1b[31mred -"


async def test_a_file_stays_where_it_is_and_gets_the_format(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "access"
    handler = set_up(settings(log_format="json"))
    with adopted(handler, logging.INFO):
        log = hypercorn_says(accesslog=str(file), access_log_format="%(R)s %({cookie}i)s")
        await log.access(scope(b"access_token=abc&x=1"), response(), 0.0)  # type: ignore[arg-type]
    assert log.access_logger is not None
    log.access_logger.handlers[0].close()
    assert capsys.readouterr().err == ""
    assert json.loads(file.read_text())["event"] == "GET /\x1b[2J?access_token=***&x=1 1.1 ***"
