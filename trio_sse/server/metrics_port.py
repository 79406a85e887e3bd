"""`GET /metrics` at a port of its own (SSE_METRICS_PORT), which a firewall can keep from everybody else."""

from __future__ import annotations

import contextlib
import multiprocessing
import socket
from http import HTTPStatus
from typing import NamedTuple

import h11
import trio

from trio_sse.access.operator_tokens import may_read_counts
from trio_sse.server.accepting import Want, accept_forever
from trio_sse.server.listening import is_tcp, tcp_listener
from trio_sse.service import Service
from trio_sse.settings import Settings

PATH = b"/metrics"

REQUEST_SECONDS = 10.0
"""For a whole request and its answer."""

_MAX_HEAD = 16384


def metrics_listener(settings: Settings) -> socket.socket | None:
    """The listening socket, at the address of SSE_HOST, or at all where that is none. Workers have one each,
    and the kernel chooses: whichever is asked answers for all. None without SSE_METRICS_PORT. Raises
    OSError."""
    if not settings.metrics_port:
        return None
    host = settings.host if is_tcp(settings) else "0.0.0.0"
    one_of_several = multiprocessing.parent_process() is not None
    return tcp_listener(host, settings.metrics_port, reuse_port=one_of_several)


async def serve_metrics(service: Service, listener: socket.socket) -> None:
    """Until cancelled."""
    async with trio.open_nursery() as nursery:

        def take(sock: socket.socket) -> None:
            nursery.start_soon(_serve, service, trio.SocketStream(trio.socket.from_stdlib_socket(sock)))

        listener.setblocking(False)
        listening = trio.SocketListener(trio.socket.from_stdlib_socket(listener))
        await accept_forever(
            listening, take, outage=service.settings.write_timeout_seconds, want=Want(), shared=True
        )


async def _serve(service: Service, stream: trio.SocketStream) -> None:
    """Answer one request, and close."""
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=_MAX_HEAD)
    with trio.move_on_after(REQUEST_SECONDS), contextlib.suppress(trio.BrokenResourceError):
        async with stream:
            try:
                while (event := connection.next_event()) is h11.NEED_DATA:
                    connection.receive_data(await stream.receive_some())
            except h11.RemoteProtocolError as error:
                answer = _Answer(error.error_status_hint)
            else:
                if not isinstance(event, h11.Request):  # it left without one
                    return
                answer = await _answer(service, event)
            await stream.send_all(answer.written_by(connection))


class _Answer(NamedTuple):
    status: int
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""

    def written_by(self, connection: h11.Connection) -> bytes:
        """The bytes of it. Of an answer to HEAD, h11 leaves the body out."""
        length = ("content-length", str(len(self.body)))
        headers = [*self.headers, length, ("cache-control", "no-store"), ("connection", "close")]
        response = h11.Response(
            status_code=self.status, headers=headers, reason=HTTPStatus(self.status).phrase
        )
        events = (response, h11.Data(data=self.body), h11.EndOfMessage())
        return b"".join([connection.send(event) or b"" for event in events])


async def _answer(service: Service, request: h11.Request) -> _Answer:
    fields = {name: value.decode("latin-1") for name, value in request.headers}
    if request.target.partition(b"?")[0] != PATH:
        return _Answer(404)
    if request.method not in (b"GET", b"HEAD"):
        return _Answer(405, (("allow", "GET, HEAD"),))
    if not may_read_counts(fields.get(b"authorization", ""), service.settings):
        return _Answer(401, (("www-authenticate", 'Bearer realm="trio_sse metrics"'),))
    text, content_type = await service.metrics.text(fields.get(b"accept", ""))
    return _Answer(200, (("content-type", content_type),), b"" if request.method == b"HEAD" else text)
