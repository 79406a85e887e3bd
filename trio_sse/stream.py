"""One stream on its own socket: from the head of the response to the client's leaving."""

from __future__ import annotations

import os

import trio

from trio_sse.outlet import SocketOutlet
from trio_sse.request import StreamRequest
from trio_sse.service import Service

MAX_IGNORED = 65536
"""Bytes a client may send after its request. A stream closes the connection, so nobody answers them."""


async def serve_stream(service: Service, request: StreamRequest, stream: trio.SocketStream) -> None:
    """Answer `request` on `stream` until the client leaves, the hub closes, or a write times out.

    The connection is in the hub exactly as long as this runs, however it ends. The socket stays open.
    """
    fd = stream.socket.fileno()
    async with trio.open_nursery() as nursery:
        connection = service.open_connection(request.answer.user_id, request.answer.last_event_id)
        try:
            outlet = SocketOutlet(
                fd,
                connection,
                nursery,
                service.replay_turns,
                chunked=request.chunked,
                timeout=service.settings.write_timeout_seconds,
            )
            outlet.begin(request.head, connection.take_waiting())
            connection.attach(outlet)
            await _until_client_leaves(fd)
        finally:
            # In this order, and before the nursery closes: nobody may offer what would need a task in it.
            service.hub.leave(connection)
            nursery.cancel_scope.cancel()


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
