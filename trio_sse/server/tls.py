"""TLS of one connection, without a socket: bytes go in, and bytes that must be written come out."""

from __future__ import annotations

import ssl
from typing import Any

import trio

PIECE = 4096
"""Bytes that are encrypted at a time. A MemoryBIO never gives back the memory that it once needed."""

_READ = 16384  # the most that one record contains (RFC 8446, 5.1)

HTTP2 = "h2"


class Tls:
    """The server's side of TLS on one connection.

    What it has to say, it says in order: bytes that were encrypted must be written before bytes that are
    encrypted later, and none may be left out.
    """

    __slots__ = ("_incoming", "_outgoing", "_ssl")

    def __init__(self, context: ssl.SSLContext) -> None:
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._ssl = context.wrap_bio(self._incoming, self._outgoing, server_side=True)

    @property
    def speaks_http2(self) -> bool:
        """Whether this was agreed upon in the handshake (RFC 7301)."""
        return self._ssl.selected_alpn_protocol() == HTTP2

    def feed(self, received: bytes) -> None:
        """Take bytes that were read from the socket."""
        self._incoming.write(received)

    def shake(self) -> bool:
        """Go on with the handshake. Returns whether it is complete. Raises ssl.SSLError if it failed."""
        try:
            self._ssl.do_handshake()
        except ssl.SSLWantReadError:
            return False
        return True

    def read(self) -> bytes | None:
        """The client's data, as much as there is. None: there is none yet. b"": none is left, and the client
        has said that it sends no more. Raises ssl.SSLError.

        It is read until there is none. Only then does OpenSSL let go of its buffer.
        """
        data = b""
        try:
            while piece := self._ssl.read(_READ):
                data += piece
        except ssl.SSLWantReadError:
            return data or None
        return data

    def take_outgoing(self) -> bytes:
        """What must be written now or, at the latest, before whatever is encrypted next."""
        return self._outgoing.read()

    def seal(self, data: bytes) -> bytes:
        """`data` encrypted, after what else is to be written. Raises ssl.SSLError."""
        if len(data) <= PIECE:
            self._ssl.write(data)
            return self._outgoing.read()
        parts = []
        rest = memoryview(data)
        while rest:
            self._ssl.write(rest[:PIECE])
            parts.append(self._outgoing.read())
            rest = rest[PIECE:]
        return b"".join(parts)

    def seal_end(self, data: bytes = b"") -> bytes:
        """`data` encrypted, and the notice that nothing follows (close_notify; RFC 8446, 6.1). Never
        raises."""
        try:
            if data:
                self._ssl.write(data)
            self._ssl.unwrap()
        except ssl.SSLError:  # the client has not said the same yet
            pass
        return self._outgoing.read()


class Begun:
    """Lets a trio.SSLStream go on with a connection whose handshake is over.

    A trio.SSLStream wants to make the SSLObject itself, with a context. This is both: that context, and the
    SSLObject. It first reads what was read before.
    """

    server_side = True

    def __init__(self, tls: Tls, transport: trio.SocketStream) -> None:
        self.tls = tls
        self._received = b""
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        context: Any = self
        self.stream = trio.SSLStream(transport, context, server_side=True, https_compatible=True)

    def put_back(self, received: bytes) -> None:
        """Let these bytes be read first."""
        self._received = received

    def wrap_bio(self, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO, **_: object) -> Begun:
        self._incoming, self._outgoing = incoming, outgoing
        return self

    def do_handshake(self) -> None:
        pass

    def version(self) -> str | None:
        return self.tls._ssl.version()

    def selected_alpn_protocol(self) -> str | None:
        return self.tls._ssl.selected_alpn_protocol()

    def read(self, most: int) -> bytes:
        if self._received:
            received, self._received = self._received[:most], self._received[most:]
            return received
        tls = self.tls
        if self._incoming.pending:
            tls._incoming.write(self._incoming.read())
        if self._incoming.eof:
            tls._incoming.write_eof()
        try:
            return tls._ssl.read(most)
        finally:
            self._outgoing.write(tls._outgoing.read())

    def write(self, data: bytes) -> int:
        try:
            return self.tls._ssl.write(data)
        finally:
            self._outgoing.write(self.tls._outgoing.read())
