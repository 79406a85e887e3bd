"""What the tests of streams on their own sockets share, with TLS and without."""

from __future__ import annotations

import os

from trio_sse.service import Service

LIMITED = {"max_connections": 5, "max_stream_seconds": 3600}
"""Settings with which a stream takes of everything that it can take."""

BIG = b"x" * 1_000_000
"""More than a socket takes at once."""


def left_behind(service: Service) -> list[object]:
    """What a stream takes from the service, as far as it is still taken."""
    limits = service.admission.limits
    return [*service.hub.connections, *service.hub.users, *limits._counted, *service.resumer.pending]


def files() -> int:
    """How many descriptors this process has open."""
    return len(os.listdir("/proc/self/fd"))
