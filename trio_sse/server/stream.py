"""One stream on its own socket: from the head of the response to the client's leaving."""

from __future__ import annotations

import contextlib
import os
from functools import partial
from typing import NamedTuple

import trio

from trio_sse.access.handshake import Accepted, Refused
from trio_sse.delivery.outlet import SocketOutlet
from trio_sse.server.http1 import StreamRequest
from trio_sse.service import Service
from trio_sse.settings import UNIX

MAX_IGNORED = 65536
"""Bytes a client may send after its request. A stream closes the connection, so nobody answers them."""


class Opening(NamedTuple):
    """What is left of a request that was let in. Its header fields, a token among them, are not: nothing of
    them is to stay in memory for as long as the stream."""

    accepted: Accepted
    head: bytes
    """The head of the response."""
    chunked: bool


async def let_in(service: Service, request: StreamRequest, stream: trio.SocketStream) -> Opening | None:
    """Decide about `request`. None: it was refused, and told so on `stream`, which stays open."""
    answer: Accepted | Refused
    if isinstance(request.asked, Refused):
        answer = request.asked
    else:
        answer = await service.gate.let_in(request.asked, partial(_peer, stream))
    if isinstance(answer, Refused):
        await refuse(request.refusal(answer), stream, service.settings.write_timeout_seconds)
        return None
    return Opening(answer, request.head(answer.headers), request.chunked)


async def refuse(answer: bytes, stream: trio.SocketStream, seconds: float) -> None:
    """Say why there is no stream, if whoever asked takes it within so long."""
    with trio.move_on_after(seconds), contextlib.suppress(trio.BrokenResourceError):
        await stream.send_all(answer)


async def serve_stream(service: Service, opening: Opening, stream: trio.SocketStream) -> None:
    """Carry the stream until the client leaves, the hub closes, or a write times out.

    The connection is in the hub exactly as long as this runs, however it ends. The socket stays open.
    """
    fd = stream.socket.fileno()
    async with trio.open_nursery() as nursery:
        with service.open(opening.accepted) as connection:
            outlet = SocketOutlet(
                fd,
                connection,
                nursery,
                service.replay_turns,
                chunked=opening.chunked,
                timeout=service.settings.write_timeout_seconds,
            )
            outlet.begin(opening.head, connection.take_waiting())
            connection.attach(outlet)
            await _until_client_leaves(fd)
        # Only now, out of the hub: nobody may offer what would need a task in a nursery that closes.
        nursery.cancel_scope.cancel()


def _peer(stream: trio.SocketStream) -> str:
    if stream.socket.family == trio.socket.AF_UNIX:
        return UNIX
    try:
        return str(stream.socket.getpeername()[0])
    except OSError:  # gone already
        return ""


async def _until_client_leaves(fd: int) -> None:
    ignored = 0
    while ignored <= MAX_IGNORED:
        await trio.lowlevel.wait_readable(fd)
        try:
            received = len(os.read(fd, 4096))
        except BlockingIOError:
            continue
        except OSError:
            return
        if not received:
            return
        ignored += received
