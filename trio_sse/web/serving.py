"""The service that the application of the present request serves."""

from __future__ import annotations

from typing import cast

from quart import current_app

from trio_sse.service import Service


def serving() -> Service:
    return cast(Service, current_app.service)  # type: ignore[attr-defined]
