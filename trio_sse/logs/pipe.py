"""The way out of log lines: standard error, without waiting for whoever reads it.

A pipe that nobody reads, a terminal stopped with Ctrl-S, or a full disk must not stop the service. What
is not taken at once waits, MOST_BYTES at most. Further lines are dropped and counted, and a line says how
many are missing where they are missing.
"""

from __future__ import annotations

import logging
import os
import select
import socket
import stat
import time
from collections import deque
from typing import NamedTuple, Protocol, TextIO

import structlog
import trio

log = structlog.stdlib.get_logger("trio_sse.logs.pipe")

MOST_BYTES = 256 * 1024
"""Bytes that wait for a reader, beside what the kernel keeps."""

LOOK_SECONDS = 1.0
"""Seconds between two looks whether what waits is taken by now, while nothing new is said."""

LAST_SECONDS = 1.0
"""Seconds that a reader has at the end of the process."""


class _Line(NamedTuple):
    data: memoryview
    stands_for: int
    """How many lines are missing if this one is."""


class Pipe(logging.Handler):
    """Writes to the descriptor of `stream`, which must have one. Never waits, but for LAST_SECONDS at the end
    of the process."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self.dropped = 0
        """Lines that are missing and that no line has told of yet."""
        self._encoding = stream.encoding or "utf-8"
        self._outlet = outlet_of(stream.fileno())
        self._waiting: deque[_Line] = deque()
        self._bytes = 0
        self._stands_for = 1

    @property
    def behind(self) -> bool:
        """Whether lines wait."""
        return bool(self._waiting)

    def emit(self, record: logging.LogRecord) -> None:
        try:
            text = self.format(record)
        except Exception as error:  # noqa: BLE001  whatever a library said: logging must not fail for it
            text = f"a log line could not be formatted: {type(error).__name__}, of {record.name!a}"
        self._take(f"{text}\n".encode(self._encoding, "backslashreplace"))

    def push(self) -> bool:
        """Write what is taken now. Returns whether nothing waits any more."""
        assert self.lock is not None
        with self.lock:
            written = False
            while self._waiting:
                line = self._waiting[0]
                try:
                    sent = self._outlet.write(line.data)
                except BlockingIOError:
                    return False
                except OSError:  # nobody can ever read it: no reader, no room on the disk
                    sent = len(line.data)
                    self.dropped += line.stands_for
                else:
                    written = True
                self._bytes -= sent
                if sent < len(line.data):
                    self._waiting[0] = _Line(line.data[sent:], line.stands_for)
                else:
                    self._waiting.popleft()
            if written and self.dropped:
                self._tell()
            return not self._waiting

    async def keep_up(self) -> None:
        """Push what waits, until cancelled."""
        while True:
            await trio.sleep(LOOK_SECONDS)
            if self._waiting:
                self.push()

    def flush(self) -> None:
        """Give a reader LAST_SECONDS. `logging` calls this at the end of the process."""
        end = time.monotonic() + LAST_SECONDS
        while not self.push() and (left := end - time.monotonic()) > 0:
            self._outlet.wait(left)

    def close(self) -> None:
        self.push()
        self._outlet.close()
        super().close()

    def _take(self, data: bytes) -> None:
        self.push()
        if self.dropped and self._bytes < MOST_BYTES // 2:
            self._tell()
        if self.dropped or (self._waiting and self._bytes + len(data) > MOST_BYTES):
            self.dropped += self._stands_for
            return
        self._waiting.append(_Line(memoryview(data), self._stands_for))
        self._bytes += len(data)
        self.push()

    def _tell(self) -> None:
        self._stands_for, self.dropped = self.dropped, 0
        try:
            log.error("log lines are missing here: nobody read them", lines=self._stands_for)
        finally:
            self._stands_for = 1


class Outlet(Protocol):
    """Writes to a descriptor without waiting."""

    def write(self, data: memoryview) -> int:
        """Write some of it. Returns how many bytes. Raises BlockingIOError if there is no room now, and
        OSError if there never will be."""
        ...

    def wait(self, seconds: float) -> None:
        """Wait until there may be room, `seconds` at most."""
        ...

    def close(self) -> None:
        """Give back what was opened. The descriptor itself stays open."""
        ...


def outlet_of(fd: int) -> Outlet:
    """What suits the kind of the descriptor.

    O_NONBLOCK belongs to what a descriptor refers to (open(2)), which other processes share: a shell, other
    workers, whoever else writes to the same pipe. So it is not set there. A pipe or a terminal is opened
    anew, and has a mode of its own. Where that is forbidden, since another user made it, each write is at
    most what a pipe with room takes. A file or a device such as /dev/null has no reader to wait for.
    """
    mode = os.fstat(fd).st_mode
    if stat.S_ISSOCK(mode):
        return _Socket(fd)
    if stat.S_ISFIFO(mode) or os.isatty(fd):
        try:
            own = os.open(f"/proc/self/fd/{fd}", os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY)
        except OSError:
            return _Polled(fd)
        return _Descriptor(own, own=True)
    return _Descriptor(fd, own=False)


class _Descriptor:
    def __init__(self, fd: int, *, own: bool) -> None:
        self._fd = fd
        self._own = own

    def write(self, data: memoryview) -> int:
        return os.write(self._fd, data)

    def wait(self, seconds: float) -> None:
        poll = select.poll()
        poll.register(self._fd, select.POLLOUT)
        poll.poll(seconds * 1000)

    def close(self) -> None:
        fd, self._fd = self._fd, -1  # the number may soon be that of a socket
        if self._own and fd >= 0:
            os.close(fd)


class _Polled(_Descriptor):
    """A pipe is ready for writing while it has room for PIPE_BUF bytes."""

    def __init__(self, fd: int) -> None:
        super().__init__(fd, own=False)
        self._poll = select.poll()
        self._poll.register(fd, select.POLLOUT)

    def write(self, data: memoryview) -> int:
        if not self._poll.poll(0):
            raise BlockingIOError
        return super().write(data[: select.PIPE_BUF])


class _Socket(_Descriptor):
    """Such as the one that systemd's journal reads."""

    def __init__(self, fd: int) -> None:
        self._socket = socket.socket(fileno=os.dup(fd))
        super().__init__(self._socket.fileno(), own=False)

    def write(self, data: memoryview) -> int:
        return self._socket.send(data, socket.MSG_DONTWAIT)

    def close(self) -> None:
        self._socket.close()
