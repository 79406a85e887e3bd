"""One stream on its own socket: from the head of the response to the client's leaving."""

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
"""Bytes a client may send after its request. A stream closes the connection, so nobody answers them."""


class Opening(NamedTuple):
    """What is left of a request that was admitted. Its header fields, a token among them, are not: nothing of
    them is to stay in memory for as long as the stream."""

    accepted: Accepted
    head: bytes
    """The head of the response."""
    chunked: bool


def is_for_a_stream(head: Head, config: Config, settings: Settings) -> bool:
    """Whether a request asks for a stream, and for nothing that Hypercorn was told to look at."""
    path = head.path.decode("latin-1")
    prefix = path.removesuffix(STREAM_PATH)
    # A proxy may leave the path in front that the service is under.
    known = prefix != path and prefix in ("", settings.root_path, config.root_path)
    return known and head.method == b"GET" and not (config.server_names or head.has(b"upgrade"))


async def admit(service: Service, head: Head, config: Config, stream: trio.SocketStream) -> Opening | None:
    """Decide about a request for a stream. None: it was refused on `stream`, which stays open."""
    answer = await service.admission.admit(head.query, head.fields, partial(_peer, stream))
    if isinstance(answer, Refused):
        response = whole_response(answer, config, http11=head.http11)
        await refuse(response, stream, service.settings.write_timeout_seconds)
        return None
    return Opening(answer, stream_head(answer.headers, config, http11=head.http11), head.http11)


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
