"""TLS between the service and a client of this process."""

from __future__ import annotations

import contextlib
import ssl
import tempfile
from functools import lru_cache
from pathlib import Path

import trio

from tests.support.valkeys import certificate
from trio_sse.server.tls import Tls

VERSIONS = (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3)


_folder = tempfile.TemporaryDirectory()


@lru_cache(1)
def files() -> tuple[Path, Path]:
    """A certificate and its key."""
    return certificate(Path(_folder.name))


@lru_cache(1)
def server_context() -> ssl.SSLContext:
    """It speaks HTTP/2 too, as Hypercorn's does."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*files())
    context.set_alpn_protocols(["h2", "http/1.1"])
    return context


def client_context(version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3, *alpn: str) -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.minimum_version = context.maximum_version = version
    if alpn:
        context.set_alpn_protocols(list(alpn))
    return context


class Client:
    """The client's side of TLS on one connection, in memory."""

    def __init__(self, context: ssl.SSLContext | None = None) -> None:
        self.ended = False
        """Whether close_notify came."""
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.ssl = (context or client_context()).wrap_bio(self._incoming, self._outgoing)
        self.shaken = self.shake(b"")

    def shake(self, received: bytes) -> bool:
        self._incoming.write(received)
        try:
            self.ssl.do_handshake()
        except ssl.SSLWantReadError:
            return False
        return True

    def said(self, data: bytes = b"") -> bytes:
        """What it sends: the rest of the handshake, then `data`."""
        if data:
            self.ssl.write(data)
        return self._outgoing.read()

    def heard(self, received: bytes) -> bytes:
        """`received`, decrypted. Raises ssl.SSLError if anything is missing, or out of order."""
        self._incoming.write(received)
        data = b""
        try:
            while piece := self.ssl.read(65536):
                data += piece
            self.ended = True
        except ssl.SSLZeroReturnError:  # both have said that they leave
            self.ended = True
        except ssl.SSLWantReadError:
            pass
        return data

    def left(self) -> bytes:
        """What it sends to say that it leaves."""
        with contextlib.suppress(ssl.SSLError):
            self.ssl.unwrap()
        return self._outgoing.read()


def shaken(client: Client) -> Tls:
    """The service's side of a connection whose handshake is over. Its last words are still to be written."""
    tls = Tls(server_context())
    while True:
        tls.feed(client.said())
        if tls.shake():
            break
        client.shake(tls.take_outgoing())
    if client.ssl.context.maximum_version is ssl.TLSVersion.TLSv1_2:
        assert client.shake(tls.take_outgoing())
    return tls


async def heard(client: Client, far: trio.SocketStream, until: bytes | None = None) -> bytes:
    """What comes to the client, up to `until` or the end."""
    received = b""
    with trio.fail_after(10):
        while until is None or until not in received:
            data = await far.receive_some()
            if not data:
                break
            received += client.heard(bytes(data))
    return received
