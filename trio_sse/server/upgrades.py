"""HTTP/1 connections that ask for another protocol.

A proxy that forwards `Upgrade` has checked one request. It does not see the requests that follow in the other
protocol, so they bypass its rules. `Upgrade: h2c` is therefore ignored (RFC 9110, 7.8; RFC 9113, 3.1, has
made it obsolete). A connection without TLS that begins with HTTP/2's preface becomes HTTP/2: its peer, such
as a proxy with `proto h2`, speaks it. A preface that comes later, or over TLS, is not accepted (RFC 9113, 3.3
and 3.4).
"""

from __future__ import annotations

import h11
from hypercorn.protocol.h11 import H11Protocol


class PlainProtocol(H11Protocol):
    """HTTP/1 that becomes HTTP/2 only by a preface at the start of a connection without TLS."""

    async def _check_protocol(self, event: h11.Request) -> None:
        if event.method == b"PRI" and self.keep_alive_requests == 0 and not self.ssl:
            await super()._check_protocol(event)
