"""The tokens that a request for a stream brings."""

from __future__ import annotations

from werkzeug.sansio.http import parse_cookie

from trio_sse.access.cors import is_foreign
from trio_sse.access.request import StreamRequest, bearer
from trio_sse.settings import Settings

MAX_TOKENS = 8
"""How many tokens of one request are verified, at most."""


def tokens(request: StreamRequest, settings: Settings) -> list[str]:
    """Those that may be verified: of header, cookie and query, in this order."""
    found: list[str | None] = []
    if authorization := request.fields.get(b"authorization"):
        found.append(bearer(authorization.decode("latin-1")))
    if settings.jwt_cookie is not None and not is_foreign(request.fields, settings):
        found += cookies(request, settings)
    if settings.jwt_query:
        found.append(request.token)
    return [token for token in dict.fromkeys(found) if token][:MAX_TOKENS]


def cookies(request: StreamRequest, settings: Settings) -> list[str]:
    """The values of the cookie, whoever's page it is. Two cookies may have one name, for two paths or domains
    (RFC 6265, 5.4)."""
    name = settings.jwt_cookie
    text = request.fields.get(b"cookie", b"").decode("latin-1")
    if name is None or name not in text:
        return []
    if '"' not in text:  # in quotes `;` does not end a cookie
        text = ";".join(cookie for cookie in text.split(";") if name in cookie)
    return parse_cookie(text).getlist(name)
