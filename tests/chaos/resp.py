"""A connection to Redis that says exactly which commands were answered before it broke."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import hiredis
import trio

Command = tuple[Any, ...]


class BrokenLinkError(Exception):
    """The connection is lost or was never had. `replies` came before; of the rest nothing is known, except
    that Redis will not carry out any of it from now on."""

    def __init__(self, reason: str, replies: Sequence[Any] = ()) -> None:
        super().__init__(reason)
        self.replies = list(replies)


class Link:
    """One connection. It waits for an answer as long as it takes: giving up would leave a command that may
    still be carried out."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._reader = hiredis.Reader()

    @classmethod
    async def open(cls, port: int, *, password: str | None = None, database: int = 1) -> Link:
        """Connect, log in, select. Raises BrokenLinkError."""
        try:
            link = cls(await trio.open_tcp_stream("127.0.0.1", port))
        except OSError as error:
            raise BrokenLinkError(str(error)) from None
        commands: list[Command] = []
        if password:
            commands.append(("AUTH", password))
        if database:
            commands.append(("SELECT", database))
        try:
            replies = await link.pipeline(commands)
        except BaseException:
            link.close()
            raise
        for reply in replies:
            if isinstance(reply, hiredis.HiredisError):
                link.close()
                raise BrokenLinkError(str(reply))
        return link

    async def pipeline(self, commands: Sequence[Command]) -> list[Any]:
        """Send all, read all replies. Errors of Redis are among the replies, as hiredis.HiredisError."""
        replies: list[Any] = []
        try:
            await self._stream.send_all(b"".join(hiredis.pack_command(command) for command in commands))
            while len(replies) < len(commands):
                while (reply := self._reader.gets()) is not False:
                    replies.append(reply)
                if len(replies) < len(commands):
                    data = await self._stream.receive_some(65536)
                    if not data:
                        raise BrokenLinkError("closed by Redis", replies)
                    self._reader.feed(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise BrokenLinkError(str(error), replies) from None
        return replies

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._stream.socket.close()


async def ask(port: int, *command: str | bytes | int, password: str | None = None, database: int = 0) -> Any:
    """One command on a connection of its own. Raises BrokenLinkError, and what Redis answers as an error."""
    link = await Link.open(port, password=password, database=database)
    try:
        (reply,) = await link.pipeline([command])
    finally:
        link.close()
    if isinstance(reply, hiredis.HiredisError):
        raise reply
    return reply
