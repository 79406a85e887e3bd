"""A link that redis-py opened, read in Trio: a message is not passed from loop to loop."""

from __future__ import annotations

import asyncio
import socket
from types import TracebackType
from typing import Any

import trio
from redis._parsers.hiredis import NOT_ENOUGH_DATA, _AsyncHiredisParser
from redis._parsers.socket import SERVER_CLOSED_CONNECTION_ERROR
from redis.exceptions import ConnectionError  # noqa: A004

from trio_sse.broker.link import Link

NOTHING = NOT_ENOUGH_DATA
"""What `parse` returns when a response is not complete yet, or none is there."""

READ_BYTES = 65536

ENOUGH_BYTES = 3000
PATIENCE_SECONDS = 0.001
"""A patient read waits for so much, for so long: a turn of the loop takes as long as six short messages."""


def can_take_over(link: Link) -> bool:
    """Whether the bytes of its socket are those of Redis, and hiredis parses them. With TLS they are
    asyncio's to decrypt."""
    in_the_clear = _writer(link).get_extra_info("sslcontext") is None
    return in_the_clear and isinstance(link._parser, _AsyncHiredisParser)


class Takeover:
    """Reads a link in the place of redis-py, which still writes to it and closes it.

    It goes on with what redis-py has received and not parsed yet. `with` closes what it has of its own: a
    duplicate of the socket, as two tasks of Trio cannot use one number.
    """

    def __init__(self, link: Link) -> None:
        self._host = link._host_error()
        transport = _writer(link).transport
        transport.pause_reading()  # type: ignore[attr-defined]
        self._socket = transport.get_extra_info("socket").dup()
        self._buffer = bytearray(READ_BYTES)
        reader: Any = link._parser._reader  # type: ignore[attr-defined]
        self.parse = reader.gets
        """Returns the next response, or NOTHING. Raises one of link.ERRORS when it is not RESP."""
        self._feed = reader.feed
        received = link._reader._buffer  # type: ignore[union-attr]
        self._feed(bytes(received))
        received.clear()

    def __enter__(self) -> Takeover:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._socket.close()

    async def receive(self, *, patiently: bool = False) -> None:
        """Wait for more bytes, and give them to the parser: as soon as there are any, or `patiently`. Raises
        one of link.ERRORS when the link is lost. Always a checkpoint."""
        if patiently:
            await self._wait_for_enough()
        else:
            await trio.lowlevel.wait_readable(self._socket)
        while True:
            try:
                size = self._socket.recv_into(self._buffer)
            except BlockingIOError:
                await trio.lowlevel.wait_readable(self._socket)
                continue
            except OSError as error:  # the words of redis-py
                raise ConnectionError(f"Error while reading from {self._host} : {error.args}") from error
            if not size:
                raise ConnectionError(SERVER_CLOSED_CONNECTION_ERROR)
            self._feed(self._buffer, 0, size)
            return

    async def _wait_for_enough(self) -> None:
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, ENOUGH_BYTES)
        try:
            with trio.move_on_after(PATIENCE_SECONDS):
                await trio.lowlevel.wait_readable(self._socket)
        finally:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1)


def _writer(link: Link) -> asyncio.StreamWriter:
    assert link._writer is not None, "the link is open"
    return link._writer
