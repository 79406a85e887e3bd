"""Who may read what the service counts."""

from __future__ import annotations

import hmac

from trio_sse.access.request import bearer
from trio_sse.settings import Settings


def may_read_counts(authorization: str, settings: Settings) -> bool:
    """Whether a request with this `Authorization` field may: everybody, unless SSE_METRICS_TOKEN is set. It
    is compared in constant time."""
    if settings.metrics_token is None:
        return True
    given = bearer(authorization) or ""
    return hmac.compare_digest(given.encode(), settings.metrics_token.get_secret_value().encode())
