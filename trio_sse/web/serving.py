"""The service of the application that handles the current request."""

from __future__ import annotations

from typing import cast

from quart import current_app

from trio_sse.service import Service


def serving() -> Service:
    return cast(Service, current_app.service)  # type: ignore[attr-defined]
