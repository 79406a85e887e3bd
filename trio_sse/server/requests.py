"""What a request on a plain connection asks for, and the answer that opens a stream or refuses it."""

from __future__ import annotations

import contextlib
import socket
from functools import partial

import trio
from hypercorn.config import Config

from trio_sse.access.admission import STREAM_PATH, Accepted
from trio_sse.access.problem import Refused
from trio_sse.server.fleet import Opening
from trio_sse.server.http1 import Head, PlainOrSecure, stream_head, whole_response
from trio_sse.service import Service
from trio_sse.settings import UNIX, Settings

_STREAM_PATH = STREAM_PATH.encode()


def is_for_a_stream(head: Head, config: Config, settings: Settings) -> bool:
    """Whether a request asks for a stream, and for nothing that Hypercorn is set up to check."""
    # A proxy may pass the request on with the path prefix of the service.
    known = head.path == _STREAM_PATH or head.path.decode("latin-1") in (
        settings.root_path + STREAM_PATH,
        config.root_path + STREAM_PATH,
    )
    return known and head.method == b"GET" and not (config.server_names or b"upgrade" in head.fields)


async def admit(service: Service, head: Head, config: Config, stream: PlainOrSecure) -> Opening | None:
    """Decide about a request for a stream. Returns None if it was refused on `stream`, which stays open."""
    peer = partial(peer_of, socket_of(stream).fileno())
    answer = await service.admission.admit(head.query, head.fields, peer)
    if isinstance(answer, Refused):
        response = whole_response(answer, config, http11=head.http11)
        await refuse(response, stream, service.settings.write_timeout_seconds)
        return None
    return opening_of(answer, head, config)


def opening_of(accepted: Accepted, head: Head, config: Config) -> Opening:
    return Opening(accepted, stream_head(accepted.headers, config, http11=head.http11), head.http11)


async def refuse(answer: bytes, stream: PlainOrSecure, seconds: float) -> None:
    """Send the answer that refuses a request. Gives up after `seconds`, or when the client has left."""
    with trio.move_on_after(seconds), contextlib.suppress(trio.BrokenResourceError):
        await stream.send_all(answer)


def socket_of(stream: PlainOrSecure) -> trio.socket.SocketType:
    return (stream.transport_stream if isinstance(stream, trio.SSLStream) else stream).socket


def peer_of(fd: int) -> str:
    """The address at the other end of a socket. UNIX at a Unix socket; "" if the client is gone already."""
    sock = socket.socket(fileno=fd)  # no duplicate: there may be no further descriptor
    try:
        return UNIX if sock.family == socket.AF_UNIX else str(sock.getpeername()[0])
    except OSError:
        return ""
    finally:
        sock.detach()
