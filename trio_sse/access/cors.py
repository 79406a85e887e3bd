"""Which pages may read an answer, and the header fields that every answer has (WHATWG Fetch)."""

from __future__ import annotations

from collections.abc import Mapping

from trio_sse.settings import Settings
from trio_sse.settings.origins import is_allowed_host, is_listed, is_same_host

Headers = tuple[tuple[str, str], ...]

GUARDS: Headers = (
    ("x-content-type-options", "nosniff"),
    ("referrer-policy", "no-referrer"),
    ("cross-origin-resource-policy", "same-origin"),  # pages of other origins need CORS
)
"""Header fields that every answer has."""


def cors_headers(origin: str, settings: Settings) -> Headers:
    """The fields that let a page of `origin` ("": none) read the answer (WHATWG Fetch, "CORS protocol").

    Credentials are allowed only with a list of origins: with `*` a browser would refuse them. They are never
    allowed for `null`, which is the origin of every sandboxed frame and every file.
    """
    if is_open(settings):
        return (("access-control-allow-origin", "*"),)
    if origin and is_listed(origin, settings.cors_origins):
        allowed: Headers = (("access-control-allow-origin", origin),)
        if origin != "null":
            allowed += (("access-control-allow-credentials", "true"),)
        return (*allowed, ("vary", "Origin"))
    return (("vary", "Origin"),)


def is_open(settings: Settings) -> bool:
    """Whether pages of any origin may read an answer, so that it need not be looked for."""
    return settings.cors_origins == ("*",)


def preflight_headers(settings: Settings) -> Headers:
    """The fields that say what a page may send. They are sent with those of `cors_headers`."""
    names = ", ".join((*_USUAL_HEADERS, *settings.cors_headers))
    return (
        ("access-control-allow-methods", "GET, HEAD, POST, OPTIONS"),
        ("access-control-allow-headers", names),
        ("access-control-max-age", "86400"),
    )


_USUAL_HEADERS = (
    "Accept",
    "Authorization",
    "Cache-Control",
    "Content-Type",
    "Idempotency-Key",
    "Last-Event-ID",
)


def is_foreign(fields: Mapping[bytes, bytes], settings: Settings) -> bool:
    """Whether the request comes from a page of another site that is not listed. Its cookie then does not show
    what the user wants. Browsers tell the site; other clients do not (W3C Fetch Metadata).
    """
    origin = fields.get(b"origin", b"").decode("latin-1")
    site = fields.get(b"sec-fetch-site", b"")
    if not origin:
        return site == b"cross-site"
    if site == b"same-origin" or is_same_host(origin, fields.get(b"host", b"").decode("latin-1")):
        return False
    return origin == "null" or not is_listed(origin, settings.cors_origins)


def wrong_host(field: str, settings: Settings) -> str | None:
    """Why a request with this `Host` is refused, or None."""
    if is_allowed_host(field, settings.allowed_hosts):
        return None
    return "this is not a name of the service (SSE_ALLOWED_HOSTS)"
