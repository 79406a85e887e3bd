"""Where lines go."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from tests.support.inside import process_kept, settings
from trio_sse.logs import configure
from trio_sse.logs.pipe import Pipe

log = structlog.stdlib.get_logger("trio_sse.test")


@pytest.fixture(autouse=True)
def _kept() -> Iterator[None]:
    with process_kept():
        yield


def test_without_standard_error_nothing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr", None)
    configure(settings())
    log.info("to nobody")


def test_what_an_application_has_put_in_place_of_standard_error_is_used(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    own = io.StringIO()
    monkeypatch.setattr("sys.stderr", own)
    configure(settings())
    log.info("said")
    assert "said" in own.getvalue()


def test_configured_again_the_former_way_out_is_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (tmp_path / "log").open("w") as file:
        monkeypatch.setattr("sys.stderr", file)
        first, second = configure(settings()), configure(settings())
        assert isinstance(first, Pipe)
        assert first not in logging.getLogger("trio_sse").handlers
        assert second in logging.getLogger("trio_sse").handlers
        first.handle(logging.LogRecord("x", logging.ERROR, "", 0, "to nobody", (), None))
        log.info("said")
    assert (tmp_path / "log").read_text().count("\n") == 1


def test_characters_that_the_encoding_of_standard_error_lacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (tmp_path / "log").open("w", encoding="ascii") as file:
        monkeypatch.setattr("sys.stderr", file)
        configure(settings())
        log.info("消息")
    assert "\\u6d88\\u606f" in (tmp_path / "log").read_text()
