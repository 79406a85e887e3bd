"""One stream on its own socket, from the head of the response until the client leaves."""

from __future__ import annotations

import contextlib
import os
from functools import partial
from typing import NamedTuple

import trio
from hypercorn.config import Config

from trio_sse.access.admission import STREAM_PATH, Accepted
from trio_sse.access.problem import Refused
from trio_sse.delivery.outlet import SocketOutlet
from trio_sse.server.http1 import Head, stream_head, whole_response
from trio_sse.service import Service
from trio_sse.settings import UNIX, Settings

MAX_IGNORED = 65536
"""Bytes a client may send after its request. They are not answered: the connection closes after the
stream."""


class Opening(NamedTuple):
    """What is kept of a request that was admitted. Its header fields, which may contain a token, are not:
    they must not stay in memory as long as the stream."""

    accepted: Accepted
    head: bytes
    """The head of the response."""
    chunked: bool


def is_for_a_stream(head: Head, config: Config, settings: Settings) -> bool:
    """Whether a request asks for a stream, and for nothing that Hypercorn is set up to check."""
    path = head.path.decode("latin-1")
    prefix = path.removesuffix(STREAM_PATH)
    # A proxy may pass the request on with the path prefix of the service.
    known = prefix != path and prefix in ("", settings.root_path, config.root_path)
    return known and head.method == b"GET" and not (config.server_names or head.has(b"upgrade"))


async def admit(service: Service, head: Head, config: Config, stream: trio.SocketStream) -> Opening | None:
    """Decide about a request for a stream. Returns None if it was refused on `stream`, which stays open."""
    answer = await service.admission.admit(head.query, head.fields, partial(_peer, stream))
    if isinstance(answer, Refused):
        response = whole_response(answer, config, http11=head.http11)
        await refuse(response, stream, service.settings.write_timeout_seconds)
        return None
    return Opening(answer, stream_head(answer.headers, config, http11=head.http11), head.http11)


async def refuse(answer: bytes, stream: trio.SocketStream, seconds: float) -> None:
    """Send the answer that refuses a request. Gives up after `seconds`, or when the client has left."""
    with trio.move_on_after(seconds), contextlib.suppress(trio.BrokenResourceError):
        await stream.send_all(answer)


async def serve_stream(service: Service, opening: Opening, stream: trio.SocketStream) -> None:
    """Serve the stream until the client leaves, the hub closes, or a write times out.

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
        # Only after the connection has left the hub: nothing may be offered that needs a task in a closed
        # nursery.
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
