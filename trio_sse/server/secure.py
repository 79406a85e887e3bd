"""Streams over TLS on their own sockets. An idle one has no task either."""

from __future__ import annotations

import ssl

from trio_sse.delivery.connection import Connection
from trio_sse.server.fleet import Fleet, Stream
from trio_sse.server.tls import Tls

READ = 4096
"""Encrypted bytes that are read at a time. A KeyUpdate is 27 bytes, and costs as much as a message."""


class SecureStream(Stream):
    """A stream over TLS. What the socket did not take is kept encrypted: it is never encrypted again."""

    __slots__ = ("_tls",)

    def __init__(self, tls: Tls, fd: int, connection: Connection, fleet: Fleet, *, chunked: bool) -> None:
        super().__init__(fd, connection, fleet, chunked=chunked)
        self._tls = tls

    def readable(self) -> None:
        # The encrypted bytes are counted: what carries no data costs time too, such as a KeyUpdate.
        received = self._ignore(READ)
        if not received:
            return
        self._tls.feed(received)
        try:
            while said := self._tls.read():
                pass
            left = said is not None
        except ssl.SSLError:
            left = True
        if not self._rest:  # otherwise it leaves with what is encrypted next
            if left:
                self._write_some(self._tls.seal_end())
            elif outgoing := self._tls.take_outgoing():
                super()._write(outgoing)
        if left:
            self.cut()

    def _write(self, data: bytes) -> None:
        if sealed := self._seal(data):
            super()._write(sealed)

    def _framed(self, data: bytes) -> bytes:
        return self._seal(super()._framed(data))

    def _last_words(self) -> bytes:
        return self._tls.seal_end(super()._last_words())

    def _seal(self, data: bytes) -> bytes:
        try:
            return self._tls.seal(data)
        except ssl.SSLError:
            self.cut()
            return b""
