"""The current request: the service of the application that handles it, and who sent it."""

from __future__ import annotations

from typing import cast

from quart import current_app, request

from trio_sse.service import Service
from trio_sse.settings import UNIX


def serving() -> Service:
    return cast(Service, current_app.service)  # type: ignore[attr-defined]


def peer() -> str:
    """The address of the socket's other end; UNIX at a Unix socket."""
    client = request.scope.get("client")
    return client[0] if client else UNIX
