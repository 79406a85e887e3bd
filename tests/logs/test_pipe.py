"""Lines leave without waiting for their reader, and what is missing is counted."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import pty
import socket
import termios
import threading
import tty
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

import pytest
import structlog
import trio
from trio.testing import MockClock

from tests.support.inside import process_kept, settings
from trio_sse.logs import configure
from trio_sse.logs import pipe as pipe_module
from trio_sse.logs.pipe import MOST_BYTES, Pipe, outlet_of

log = structlog.stdlib.get_logger("trio_sse.test")

LINE = "x" * 900
MANY = 3 * MOST_BYTES // len(LINE)


@pytest.fixture(autouse=True)
def _kept() -> Iterator[None]:
    with process_kept():
        yield


class Reader:
    """Whoever reads the log, and the pipe that leads there."""

    def __init__(self, reading: int, writing: int, monkeypatch: pytest.MonkeyPatch) -> None:
        self.reading = reading
        os.set_blocking(reading, False)
        self.stream: TextIO = open(writing, "w", encoding="utf-8")  # noqa: SIM115
        monkeypatch.setattr("sys.stderr", self.stream)
        pipe = configure(settings(log_format="json", log_level="info"))
        assert isinstance(pipe, Pipe)
        self.pipe = pipe
        self._begun = b""

    def read(self) -> list[Any]:
        """The whole lines that are there by now."""
        data = self._begun
        while True:
            try:
                received = os.read(self.reading, 1 << 16)
            except BlockingIOError:
                break
            if not received:
                break
            data += received
        *lines, self._begun = data.replace(b"\r\n", b"\n").split(b"\n")
        return [json.loads(line) for line in lines]

    def read_all(self) -> list[Any]:
        """All lines, while the pipe pushes them."""
        found = self.read()
        while self.pipe.behind:
            self.pipe.push()
            found += self.read()
        return found + self.read()

    def close(self) -> None:
        self.pipe.close()
        self.stream.close()
        os.close(self.reading)


def ends(kind: str) -> tuple[int, int]:
    """The reader's and the writer's end."""
    if kind == "socket":
        ours, theirs = socket.socketpair()
        return ours.detach(), theirs.detach()
    if kind == "terminal":
        master, slave = pty.openpty()
        tty.setraw(slave, termios.TCSANOW)
        return master, slave
    return os.pipe()


KINDS = ("pipe", "pipe of another user", "socket", "terminal")


@pytest.fixture(params=KINDS)
def reader(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Reader]:
    if request.param == "pipe of another user":

        def forbidden(*_: object) -> int:
            raise PermissionError

        with monkeypatch.context() as patched:
            patched.setattr(os, "open", forbidden)
            reader = Reader(*ends(request.param), monkeypatch)
    else:
        reader = Reader(*ends(request.param), monkeypatch)
    yield reader
    reader.close()


@pytest.fixture
def piped(monkeypatch: pytest.MonkeyPatch) -> Iterator[Reader]:
    reader = Reader(*ends("pipe"), monkeypatch)
    yield reader
    reader.close()


def numbered(lines: list[Any]) -> list[int]:
    return [line["n"] for line in lines if "n" in line]


def test_a_line_is_there_at_once(reader: Reader) -> None:
    log.info("said", n=1)
    assert numbered(reader.read()) == [1]


def test_nobody_waits_for_a_reader_and_missing_lines_are_counted_where_they_are_missing(
    reader: Reader,
) -> None:
    for n in range(MANY):
        log.info(LINE, n=n)  # returns, though nobody reads
    assert reader.pipe.dropped > 0
    found: list[Any] = []
    count = MANY
    while reader.pipe.behind:
        reader.pipe.push()
        found += reader.read()
        log.info(LINE, n=count)
        count += 1
    found += reader.read_all()
    (told,) = [place for place, line in enumerate(found) if "missing" in line["event"]]
    assert found[told]["level"] == "error"
    before, after = numbered(found[:told]), numbered(found[told:])
    assert before == list(range(len(before)))
    assert after[0] == len(before) + found[told]["lines"]
    assert after == list(range(after[0], count))
    log.info("and now", n=count)
    assert numbered(reader.read()) == [count]


def test_whoever_else_writes_there_still_waits(reader: Reader) -> None:
    """O_NONBLOCK belongs to what a descriptor refers to, and a shell or other workers share that."""
    log.info("said")
    assert not fcntl.fcntl(reader.stream.fileno(), fcntl.F_GETFL) & os.O_NONBLOCK


def test_a_line_longer_than_the_pipe_comes_whole(piped: Reader) -> None:
    text = "".join(map(str, range(40_000)))
    log.info(text, n=1)
    log.info("short", n=2)
    found = piped.read_all()
    assert [line["event"] for line in found] == [text, "short"]


async def test_what_waits_comes_without_a_further_line(
    piped: Reader, autojump_clock: MockClock, nursery: Any
) -> None:
    nursery.start_soon(piped.pipe.keep_up)
    for n in range(MANY):
        log.info(LINE, n=n)
    found: list[Any] = []
    while not any("missing" in line["event"] for line in found):
        found += piped.read()
        await trio.sleep(pipe_module.LOOK_SECONDS)
    assert len(numbered(found)) + found[-1]["lines"] == MANY


def test_the_end_of_the_process_waits_for_a_reader_that_reads(piped: Reader) -> None:
    for n in range(MANY // 3):
        log.info(LINE, n=n)
    assert piped.pipe.behind
    os.set_blocking(piped.reading, True)
    found = bytearray()
    reading = threading.Thread(target=lambda: found.extend(iter_until(piped.reading, MANY // 3)))
    reading.start()
    piped.pipe.flush()
    reading.join(10)
    assert found.count(b"\n") == MANY // 3


def iter_until(fd: int, lines: int) -> bytes:
    data = b""
    while data.count(b"\n") < lines:
        data += os.read(fd, 1 << 16)
    return data


def test_the_end_of_the_process_does_not_wait_for_one_that_does_not(
    piped: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipe_module, "LAST_SECONDS", 0.05)
    for n in range(MANY):
        log.info(LINE, n=n)
    piped.pipe.flush()
    assert piped.pipe.behind


def test_a_reader_that_has_gone_is_no_error(piped: Reader) -> None:
    os.close(piped.reading)
    for n in range(3):
        log.info("to nobody", n=n)
    assert piped.pipe.dropped == 3
    assert not piped.pipe.behind
    piped.reading = os.open(os.devnull, os.O_RDONLY)


def test_a_full_disk_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with open("/dev/full", "w", encoding="utf-8") as full:
        monkeypatch.setattr("sys.stderr", full)
        pipe = configure(settings())
        assert isinstance(pipe, Pipe)
        log.info("said")
        assert pipe.dropped == 1
        pipe.close()


def test_a_file_is_appended_to_where_others_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (tmp_path / "log").open("w") as file:
        print("before", file=file, flush=True)
        monkeypatch.setattr("sys.stderr", file)
        configure(settings(log_format="json"))
        log.info("said")
        print("after", file=file, flush=True)
    before, said, after = (tmp_path / "log").read_text().splitlines()
    assert (before, json.loads(said)["event"], after) == ("before", "said", "after")


def test_a_line_that_cannot_be_formatted_says_so(piped: Reader) -> None:
    piped.pipe.handle(logging.LogRecord("a\x1blibrary", logging.ERROR, "", 0, "%d", ("no number",), None))
    os.set_blocking(piped.reading, True)
    assert os.read(piped.reading, 1000) == (
        b"a log line could not be formatted: TypeError, of 'a\\x1blibrary'\n"
    )


def test_after_its_end_nothing_is_written_to_what_has_its_number_by_now(piped: Reader) -> None:
    outlet = outlet_of(piped.stream.fileno())
    outlet.close()
    outlet.close()
    with pytest.raises(OSError):
        outlet.write(memoryview(b"x"))
