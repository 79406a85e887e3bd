"""Who may read what the service counts, and who may ask it about streams and end them."""

from __future__ import annotations

import hmac

from pydantic import SecretStr

from trio_sse.access.request import bearer
from trio_sse.settings import Settings


def may_read_counts(authorization: str, settings: Settings) -> bool:
    """Whether a request with this `Authorization` field may: everybody, unless SSE_METRICS_TOKEN is set."""
    return settings.metrics_token is None or _bears(authorization, settings.metrics_token)


def may_administer(authorization: str, settings: Settings) -> bool:
    """Whether a request with this `Authorization` field may: nobody, unless SSE_ADMIN_TOKEN is set."""
    return settings.admin_token is not None and _bears(authorization, settings.admin_token)


def _bears(authorization: str, token: SecretStr) -> bool:
    """Whether it has the token. It is compared in constant time."""
    given = bearer(authorization) or ""
    return hmac.compare_digest(given.encode(), token.get_secret_value().encode())
