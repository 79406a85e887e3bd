"""HTTP/1 connections that want to be something else.

A proxy that passes `Upgrade` on has looked at one request, and sees nothing of those that follow in another
protocol: whoever may upgrade is past its rules. So `Upgrade: h2c` is ignored (RFC 9110, 7.8; RFC 9113, 3.1,
has taken it back). A connection that begins with HTTP/2's preface is somebody's who speaks it, such as a
proxy with `proto h2`. One that comes to it later, or over TLS, is not (RFC 9113, 3.3 and 3.4).
"""

from __future__ import annotations

import h11
from hypercorn.protocol.h11 import H11Protocol


class PlainProtocol(H11Protocol):
    """HTTP/1 that becomes HTTP/2 by the preface, in the beginning and without TLS, and no other way."""

    async def _check_protocol(self, event: h11.Request) -> None:
        if event.method == b"PRI" and self.keep_alive_requests == 0 and not self.ssl:
            await super()._check_protocol(event)
