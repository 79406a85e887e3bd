"""Who may read what the service counts."""

from __future__ import annotations

from trio_sse.access.request import bears
from trio_sse.settings import Settings


def may_read_counts(authorization: str, settings: Settings) -> bool:
    """Whether a request with this `Authorization` field may: everybody, unless SSE_METRICS_TOKEN is set."""
    return settings.metrics_token is None or bears(authorization, settings.metrics_token)
