"""May whoever asks for a stream have it? One answer for every way in, by request, token and limits."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from http import HTTPStatus
from typing import NamedTuple

import structlog
import trio
from werkzeug.sansio.http import parse_cookie

from trio_sse.access.addresses import client_address
from trio_sse.access.cors import GUARDS, Headers, is_foreign
from trio_sse.access.limits import RETRY_SECONDS, Limits, Overloaded
from trio_sse.access.problem import Refused, refused
from trio_sse.access.request import DEFAULT_USER, StreamRequest, bearer, read_request
from trio_sse.access.tokens import Denied, Verifier
from trio_sse.delivery import notices
from trio_sse.settings import Settings

log = structlog.stdlib.get_logger("trio_sse.access.admission")

STREAM_PATH = "/sse"

_MAX_TOKENS = 8
"""Tokens of one request that are verified."""


REPORT_SECONDS = 60
"""Between two lines of the log about pages that did not fill in their user."""


_STREAM_HEADERS: Headers = (
    ("content-type", "text/event-stream"),
    # Proxies that compress (RFC 9110, 7.7) would hold the stream back until they have a block full.
    ("cache-control", "no-store, no-transform"),
    ("x-accel-buffering", "no"),  # nginx would hold the stream back otherwise
    *GUARDS,
)


class Accepted(NamedTuple):
    """The request gets a stream."""

    user_id: str
    last_event_id: str | None
    headers: Headers
    address: str = ""
    """What limits by address count it by."""
    seconds: float | None = None
    """How long the token that it came with is valid from now on."""
    last_words: bytes = b""
    """All that the stream says, if it ends at once."""


class Admission:
    """Decides who gets a stream. With nothing configured everybody does."""

    def __init__(self, settings: Settings) -> None:
        self.limits = Limits(settings)
        self._settings = settings
        self._verifier = Verifier(settings) if settings.auth == "jwt" else None
        self._report_at = -math.inf
        self._unreported = 0

    def warn_if_open(self) -> None:
        """One line at start, since nobody should learn this later."""
        if self._verifier is None:
            log.warning("streams are open to everybody who reaches the port, for any user_id (SSE_AUTH)")

    async def run(self) -> None:
        """Fetch keys, where they must be fetched, until cancelled."""
        if self._verifier is not None:
            await self._verifier.run()

    async def admit(
        self, query: bytes, headers: Iterable[tuple[bytes, bytes]], peer: Callable[[], str]
    ) -> Accepted | Refused:
        """Decide about `GET /sse?<query>`. Header names may be in any case. `peer` tells the address at the
        other end of the socket. Waits only where keys must be fetched. Never raises, whatever the bytes.

        A stream is counted when it is opened, not here.
        """
        request = read_request(query, headers, self._settings)
        return request if isinstance(request, Refused) else await self._decide(request, peer)

    async def _decide(self, request: StreamRequest, peer: Callable[[], str]) -> Accepted | Refused:
        answer = _accepted(request)
        if self._verifier is not None:
            foreign = is_foreign(request.fields, self._settings)
            tokens = self._tokens(request, cookies=not foreign)
            if foreign and not tokens and self._tokens(request, cookies=True):
                detail = "pages of this origin may not use the user's cookie (SSE_CORS_ORIGINS)"
                return refused(HTTPStatus.FORBIDDEN, detail, request.cors)
            identity = await self._verifier.verify(*tokens, wanted=request.user_id)
            if isinstance(identity, Denied):
                return self._denied(request, identity)
            if request.user_id not in (None, identity.user_id):
                detail = "user_id is not the user of the token"
                challenge = _challenge("insufficient_scope", detail)
                return refused(HTTPStatus.FORBIDDEN, detail, request.cors, challenge)
            answer = answer._replace(user_id=identity.user_id, seconds=identity.seconds)
        elif request.unfilled is not None:
            self._report_unfilled(request.unfilled, answer.user_id == DEFAULT_USER)
        if self.limits.any:
            address = client_address(peer(), request.fields, self._settings.trusted_proxies)
            answer = answer._replace(address=address)
            if overloaded := self.limits.excess(answer.user_id, address):
                return self._later(request, overloaded)
        return answer

    def _report_unfilled(self, found: str, default: bool) -> None:
        """Say that a page did not fill in its user, and so waits in vain for that user's messages."""
        now = trio.current_time()
        if now < self._report_at:
            self._unreported += 1
            return
        log.warning(
            "a stream was asked for with a user_id that looks not filled in",
            found=found,
            stream_of=f"user {DEFAULT_USER}, the default" if default else "the user of that name",
            unlogged=self._unreported,
        )
        self._report_at = now + REPORT_SECONDS
        self._unreported = 0

    def _tokens(self, request: StreamRequest, *, cookies: bool) -> list[str]:
        """Those of header, cookie and query, in this order. There may be two cookies of one name, for two
        paths or domains (RFC 6265, 5.4)."""
        settings = self._settings
        found = [bearer(request.fields.get(b"authorization", b"").decode("latin-1"))]
        if cookies and settings.jwt_cookie is not None:
            jar = parse_cookie(request.fields.get(b"cookie", b"").decode("latin-1"))
            found += jar.getlist(settings.jwt_cookie)
        if settings.jwt_query:
            found.append(request.token)
        return list(filter(None, dict.fromkeys(found)))[:_MAX_TOKENS]

    def _denied(self, request: StreamRequest, denied: Denied) -> Accepted | Refused:
        if denied.status == HTTPStatus.SERVICE_UNAVAILABLE:
            return self._later(request, Overloaded(denied.detail, denied.status, RETRY_SECONDS))
        return refused(denied.status, denied.detail, request.cors, _challenge(denied.error, denied.detail))

    def _later(self, request: StreamRequest, overloaded: Overloaded) -> Accepted | Refused:
        """An EventSource never comes back from anything but 200, so it gets a stream that says when."""
        if b"text/event-stream" in request.fields.get(b"accept", b"").lower():
            answer = _accepted(request)
            return answer._replace(last_words=overloaded_words(overloaded))
        seconds = max(1, round(overloaded.retry_seconds))
        return refused(overloaded.status, overloaded.detail, request.cors, ("retry-after", str(seconds)))


def _accepted(request: StreamRequest) -> Accepted:
    return Accepted(request.user_id or DEFAULT_USER, request.last_event_id, _STREAM_HEADERS + request.cors)


def overloaded_words(overloaded: Overloaded) -> bytes:
    """What a stream says that was one too many."""
    return notices.farewell("overloaded", overloaded.retry_seconds, detail=overloaded.detail)


def _challenge(error: str | None, description: str) -> tuple[str, str]:
    """RFC 6750, 3. Without an error where no token came."""
    value = 'Bearer realm="trio_sse"'
    if error is not None:
        value += f', error="{error}", error_description="{description}"'
    return ("www-authenticate", value)
