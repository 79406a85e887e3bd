"""Valkey servers that tests may break: killed, frozen, behind passwords or TLS."""

from __future__ import annotations

import contextlib
import os
import signal
import ssl
import subprocess
from collections.abc import AsyncIterator, Iterator
from functools import partial
from pathlib import Path
from typing import Any, cast

import redis
import trio

from tests.support.ports import free_port
from trio_sse import embedded


class Breakable:
    """A server on a port of its own, for a test to do things to."""

    def __init__(self) -> None:
        self.port = free_port()
        self.pid = 0
        """0 while it does not run."""

    def kill(self) -> None:
        self.thaw()
        os.kill(self.pid, signal.SIGKILL)
        self.pid = 0

    def freeze(self) -> None:
        """Its connections stay open, and nothing is answered any more: what a half-open one looks like."""
        os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def close(self) -> None:
        if self.pid:
            self.kill()


class Valkey(Breakable):
    """One that may be started again."""

    def __init__(self) -> None:
        super().__init__()
        self._stack = contextlib.ExitStack()

    def start(self) -> None:
        self._stack.enter_context(embedded.valkey(self.port))
        with self.client() as client:
            self.pid = int(cast("dict[str, Any]", client.info("server"))["process_id"])

    def client(self) -> redis.Redis:
        return redis.Redis(port=self.port)

    def kill(self) -> None:
        super().kill()
        self._stack.close()


@contextlib.contextmanager
def breakable(*, started: bool = True) -> Iterator[Valkey]:
    server = Valkey()
    try:
        if started:
            server.start()
        yield server
    finally:
        server.close()


def certificate(directory: Path) -> tuple[Path, Path]:
    """A self-signed certificate for 127.0.0.1 and its key, made by the openssl command."""
    cert, key = directory / "cert.pem", directory / "key.pem"
    subprocess.run(
        [
            "openssl",
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
            "-days",
            "2",
            "-subj",
            "/CN=127.0.0.1",
            "-addext",
            "subjectAltName=IP:127.0.0.1",
            "-keyout",
            str(key),
            "-out",
            str(cert),
        ],
        check=True,
        capture_output=True,
        timeout=30,
    )
    return cert, key


class Relay:
    """A port in front of a Valkey, and our ends of the links of its clients, to do things to."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.clients: list[trio.SocketStream] = []


@contextlib.asynccontextmanager
async def relay(port: int) -> AsyncIterator[Relay]:
    """Pass on what clients send to `port`, and what it answers."""
    front = Relay(free_port())

    async def serve(client: trio.SocketStream) -> None:
        front.clients.append(client)
        await _pass_on(port, client)

    async with trio.open_nursery() as nursery:
        await nursery.start(partial(trio.serve_tcp, serve, front.port, host="127.0.0.1"))
        yield front
        nursery.cancel_scope.cancel()


async def _pass_on(port: int, client: trio.abc.Stream) -> None:
    """Until either end of the connection ends it."""
    async with (
        client,
        await trio.open_tcp_stream("127.0.0.1", port) as server,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(_pump, client, server, nursery.cancel_scope)
        nursery.start_soon(_pump, server, client, nursery.cancel_scope)


async def _pump(source: trio.abc.ReceiveStream, sink: trio.abc.SendStream, scope: trio.CancelScope) -> None:
    with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
        async for data in source:
            await sink.send_all(data)
    scope.cancel()


@contextlib.asynccontextmanager
async def tls_in_front_of(port: int, cert: Path, key: Path) -> AsyncIterator[int]:
    """TLS on a port of its own, passed on in the clear to `port`: the Valkey of the wheel has no TLS."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(cert, key)

    async with trio.open_nursery() as nursery:
        front = free_port()
        serve = partial(_pass_on, port)
        await nursery.start(partial(trio.serve_ssl_over_tcp, serve, front, context, host="127.0.0.1"))
        yield front
        nursery.cancel_scope.cancel()
