"""Replaces Hypercorn's HTTP/2 by ours.

If Hypercorn or h2 lacks a name that this relies on, Hypercorn's HTTP/2 stays, and one log line says so.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import hypercorn.protocol
import structlog
from hypercorn.protocol.h2 import H2Protocol
from hypercorn.protocol.h11 import H11Protocol

from trio_sse.patches import standing_in

log = structlog.stdlib.get_logger("trio_sse.server.http2.installing")

_WITHOUT = "HTTP/2 is Hypercorn's own, with its faults"

_RELIED_ON = {
    hypercorn.protocol: ("H2Protocol", "H11Protocol"),
    H11Protocol: ("_check_protocol",),
    H2Protocol: (
        "_close_stream",
        "_flush",
        "_handle_events",
        "_send_data",
        "_window_updated",
        "handle",
        "send_task",
        "stream_send",
    ),
}
"""The names that are replaced or called, apart from those that are imported."""


@contextlib.contextmanager
def installed() -> Iterator[None]:
    """Replace Hypercorn's protocols while the scope is open."""
    missing = [name for owner, names in _RELIED_ON.items() for name in names if not hasattr(owner, name)]
    try:
        from trio_sse.server.http2.protocol import ContainedProtocol
        from trio_sse.server.upgrades import PlainProtocol
    except (ImportError, AttributeError) as error:
        missing.append(str(error))
    if missing:
        log.warning(f"a library has changed: {_WITHOUT}", missing=", ".join(missing))
        yield
        return
    ours = {"H2Protocol": ContainedProtocol, "H11Protocol": PlainProtocol}
    with standing_in({hypercorn.protocol: ours}, _WITHOUT):
        yield
