"""One line per event, to standard error, from this package only."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from tests.support.inside import process_kept, settings
from trio_sse.logs import configure

log = structlog.stdlib.get_logger("trio_sse.test")


@pytest.fixture(autouse=True)
def _kept() -> Iterator[None]:
    with process_kept():
        yield


def test_a_console_line_has_level_event_and_fields(capsys: pytest.CaptureFixture[str]) -> None:
    configure(settings())
    log.warning("message skipped", reason="not JSON")
    out, err = capsys.readouterr()
    assert out == ""
    assert len(err.splitlines()) == 1
    for part in ("warning", "message skipped", "reason='not JSON'"):
        assert part in err


def test_a_json_line_is_an_object_with_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    configure(settings(log_format="json"))
    log.warning("übersprungen", reason="not JSON")
    (line,) = capsys.readouterr().err.splitlines()
    said = json.loads(line)
    assert said.pop("timestamp").endswith("Z")
    assert said == {"level": "warning", "event": "übersprungen", "reason": "not JSON"}
    assert "übersprungen" in line


@pytest.mark.parametrize("log_format", ["console", "json"])
def test_an_error_is_shown_with_its_place(log_format: str, capsys: pytest.CaptureFixture[str]) -> None:
    configure(settings(log_format=log_format))
    try:
        1 / 0  # noqa: B018
    except ZeroDivisionError:
        log.critical("failed", exc_info=True)
    err = capsys.readouterr().err
    assert "ZeroDivisionError" in err
    assert "test_lines.py" in err


@pytest.mark.parametrize(("level", "shown"), [("debug", 4), ("info", 3), ("warning", 2), ("error", 1)])
def test_lines_below_the_level_are_not_shown(
    level: str, shown: int, capsys: pytest.CaptureFixture[str]
) -> None:
    configure(settings(log_level=level))
    for say in (log.debug, log.info, log.warning, log.error):
        say("line")
    assert len(capsys.readouterr().err.splitlines()) == shown


def test_configuring_twice_says_everything_once(capsys: pytest.CaptureFixture[str]) -> None:
    configure(settings())
    configure(settings())
    log.info("line")
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_nothing_is_said_again_by_the_root_logger(caplog: pytest.LogCaptureFixture) -> None:
    configure(settings())
    log.warning("line")
    assert caplog.records == []


def test_loggers_of_others_are_left_alone() -> None:
    root = logging.getLogger()
    before = (list(root.handlers), root.level)
    configure(settings(log_level="debug"))
    assert (list(root.handlers), root.level) == before


HOSTILE = (
    "\x1b[2J\x1b[31mFAKE\x07\x08\x7f\x85\x9b2J\u2028\u2029\u202e\u2066\u200f\ufeff"
    "\r\n2026 [info] \U000e0041\udcff"
)


def _unseen(text: str) -> list[str]:
    return [character for character in text if character not in "\n " and not character.isprintable()]


class _Rude:
    def __repr__(self) -> str:
        return HOSTILE


@pytest.mark.parametrize("log_format", ["console", "json"])
def test_control_characters_of_clients_and_publishers_never_reach_the_terminal(
    log_format: str, capsys: pytest.CaptureFixture[str]
) -> None:
    configure(settings(log_format=log_format))
    log.warning("skipped", payload=HOSTILE, word="\x1b[2J", several=[HOSTILE, {HOSTILE: 1}], rude=_Rude())
    log.warning(HOSTILE)
    logging.getLogger("trio_sse.foreign").warning("from a library: %s", HOSTILE)
    log.warning("bytes", payload=HOSTILE.encode("utf-8", "replace"), error=ValueError(HOSTILE))
    err = capsys.readouterr().err
    assert len(err.splitlines()) == 4  # str.splitlines knows U+0085 and U+2028 too
    assert _unseen(err) == []
    assert "FAKE" in err


@pytest.mark.parametrize("log_format", ["console", "json"])
def test_neither_do_those_in_errors(log_format: str, capsys: pytest.CaptureFixture[str]) -> None:
    configure(settings(log_format=log_format))
    single = ValueError(HOSTILE)
    single.add_note(HOSTILE)
    for error in (single, ExceptionGroup(HOSTILE, [single])):
        log.warning("failed", exc_info=error)
        logging.getLogger("trio_sse.foreign").error("failed", exc_info=error)
    err = capsys.readouterr().err
    assert "FAKE" in err
    assert _unseen(err) == []
    assert not any(line.startswith("2026 [info]") for line in err.splitlines())


def test_a_json_line_still_says_what_was_there(capsys: pytest.CaptureFixture[str]) -> None:
    configure(settings(log_format="json"))
    log.warning("skipped", payload=HOSTILE)
    assert json.loads(capsys.readouterr().err)["payload"] == HOSTILE


def test_a_console_line_quotes_no_word_and_keeps_other_scripts(capsys: pytest.CaptureFixture[str]) -> None:
    configure(settings())
    log.warning("übersprungen", reason="消息", count=1, text="not JSON", path="a\\b")
    err = capsys.readouterr().err
    assert err.rstrip().endswith("übersprungen count=1 path=a\\b reason=消息 text='not JSON'")
