"""Admission: decides by request, token and limits whether a request gets a stream."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from http import HTTPStatus
from typing import NamedTuple

import structlog

from trio_sse.access.addresses import client_address
from trio_sse.access.cors import GUARDS, Headers
from trio_sse.access.credentials import cookies, tokens
from trio_sse.access.limits import RETRY_SECONDS, Limits, Overloaded, overloaded_by
from trio_sse.access.problem import Refused, refused
from trio_sse.access.refusals import refusal_of
from trio_sse.access.request import DEFAULT_USER, Fields, StreamRequest, read_request
from trio_sse.access.revocations import Revocations
from trio_sse.access.tokens import Denied, Identity, Verifier
from trio_sse.access.topics import configured
from trio_sse.counters import add_to
from trio_sse.delivery import notices
from trio_sse.delivery.log_limits import LogLimit
from trio_sse.delivery.recorder import Refusal
from trio_sse.delivery.resume import Start
from trio_sse.descriptors import few_left
from trio_sse.settings import Settings

log = structlog.stdlib.get_logger("trio_sse.access.admission")

STREAM_PATH = "/sse"


REVOKED_PATIENCE_SECONDS = 30.0
"""How long what is known of revoked tokens is good enough while Redis is away, with
SSE_REVOKED_WITHOUT_REDIS=closed."""

_REASONS = {400: "bad_request", 401: "unauthorized", 403: "forbidden", 421: "misdirected"}
"""Of refusals, by status. With any other one the client is to come back later."""

REPORT_SECONDS = 60
"""Least seconds between two log lines about pages that did not fill in their user id."""


_STREAM_HEADERS: Headers = (
    ("content-type", "text/event-stream"),
    # A proxy that compresses (RFC 9110, 7.7) would delay the stream until it has a full block.
    ("cache-control", "no-store, no-transform"),
    ("x-accel-buffering", "no"),  # otherwise nginx buffers the stream
    *GUARDS,
)


class Accepted(NamedTuple):
    """The request gets a stream."""

    user_id: str | None
    """None: it is a stream of topics alone."""
    start: Start
    headers: Headers
    address: str = ""
    """The address that limits count it by."""
    seconds: float | None = None
    """For how many seconds from now its token is valid. None: it needs no token."""
    last_words: bytes = b""
    """If not empty, the stream sends only this and ends."""
    topics: tuple[str, ...] = ()
    """The topics that it follows."""
    reservation: object | None = None
    """The place that all processes together keep for it, if they were asked."""
    jti: str | None = None
    issued_at: float | None = None
    """`jti` and `iat` of its token."""


Ask = Callable[[str | None, str], Awaitable[tuple[tuple[str, float], object | None]]]
"""Asks whether all processes together have room for a stream of this user and address. Answers with what
`Limits.excess_by` takes, and the reservation of a place."""


class Admission:
    """Decides which requests get a stream. Without tokens and limits, all well-formed ones do.

    Raises SettingsError if a key file contains no key, or SSE_PUBLIC_TOPICS has what is no topic.
    """

    def __init__(self, settings: Settings) -> None:
        self.limits = Limits(settings)
        self.ask: Ask | None = None
        """Asks all processes, if their limits are shared."""
        self.revocations: Revocations | None = None
        """Which tokens no longer count. None: all of them do, until they expire."""
        self.refused: Callable[[Refusal], None] | None = None
        """Hears of each request that gets no stream, and why."""
        if settings.admin_token is not None and settings.auth == "jwt":
            self.revocations = Revocations()
        self.refusals: dict[str, int] = {}
        """How many requests got no stream, by reason."""
        self._settings = settings
        self._verifier = Verifier(settings, self.revocations) if settings.auth == "jwt" else None
        self._public = configured("SSE_PUBLIC_TOPICS", settings.public_topics)
        self._log_limit = LogLimit(REPORT_SECONDS)

    def warn_if_open(self) -> None:
        """Log once, at start, if streams need no token."""
        if self._verifier is None:
            log.warning(
                "streams are open to everybody who reaches the port, for any user_id and any topic (SSE_AUTH)"
            )

    async def run(self) -> None:
        """Fetch keys until cancelled. Returns at once if no keys have to be fetched."""
        if self._verifier is not None:
            await self._verifier.run()

    async def admit(self, query: bytes, headers: Fields, peer: Callable[[], str]) -> Accepted | Refused:
        """Decide about `GET /sse?<query>`. `peer` returns the address of the socket's other end. Waits only
        while keys are fetched, and for an answer of Redis if limits are shared. Never raises, whatever the
        bytes.

        Limits are checked here. The stream is counted when it is opened.
        """
        request = read_request(query, headers, self._settings)
        answer = request if isinstance(request, Refused) else await self._admit(request, peer)
        self._tell(answer, request, query, headers, peer)
        return answer

    async def _admit(self, request: StreamRequest, peer: Callable[[], str]) -> Accepted | Refused:
        proof = None
        if self._verifier is not None and not self._is_public(request):
            suits = partial(self._suits, request)
            proof = await self._verifier.verify(*tokens(request, self._settings), suits=suits)
        answer = self._decide(request, proof, peer)
        if self.ask is None or isinstance(answer, Refused) or answer.last_words:
            return answer
        verdict, reservation = await self.ask(answer.user_id, answer.address)
        if overloaded := self.limits.excess_by(*verdict):
            return self._later(request, overloaded)
        return answer._replace(reservation=reservation)

    def admit_now(self, query: bytes, headers: Fields, peer: Callable[[], str]) -> Accepted | Refused | None:
        """As `admit`, without waiting. None: keys have to be fetched first, or other processes to be asked:
        `admit` has to decide."""
        request = read_request(query, headers, self._settings)
        answer = request if isinstance(request, Refused) else self._admit_now(request, peer)
        if answer is not None:
            self._tell(answer, request, query, headers, peer)
        return answer

    def _tell(
        self,
        answer: Accepted | Refused,
        request: StreamRequest | Refused,
        query: bytes,
        headers: Fields,
        peer: Callable[[], str],
    ) -> None:
        if isinstance(answer, Refused):
            add_to(self.refusals, _REASONS.get(answer.status, "overloaded"))
        if self.refused is not None and (isinstance(answer, Refused) or answer.last_words):
            self.refused(refusal_of(answer, request, query, headers, peer(), self._settings))

    def _admit_now(self, request: StreamRequest, peer: Callable[[], str]) -> Accepted | Refused | None:
        if self.ask is not None:
            return None
        proof = None
        if self._verifier is not None and not self._is_public(request):
            suits = partial(self._suits, request)
            proof = self._verifier.verify_now(*tokens(request, self._settings), suits=suits)
            if proof is None:
                return None
        return self._decide(request, proof, peer)

    def _is_public(self, request: StreamRequest) -> bool:
        """Whether it is for nothing but public topics. Then it needs no token, and none is looked at."""
        if request.user_id is not None or not request.topics:
            return False
        return all(map(self._public.allows, request.topics))

    def _suits(self, request: StreamRequest, proof: Identity) -> bool:
        """Whether a token is for all that the request names."""
        return request.user_id in (None, proof.user_id) and self._ungranted(request, proof) is None

    def _ungranted(self, request: StreamRequest, proof: Identity) -> str | None:
        """The first topic of the request that is not public and that the token does not grant."""
        for topic in request.topics:
            if not proof.grants.allows(topic) and not self._public.allows(topic):
                return topic
        return None

    def _decide(
        self, request: StreamRequest, proof: Identity | Denied | None, peer: Callable[[], str]
    ) -> Accepted | Refused:
        """Decide by what the tokens of the request prove. None: it needs no token."""
        if isinstance(proof, Denied):
            return self._denied(request, proof)
        user_id, topics, seconds = request.user_id, request.topics, None
        jti = issued_at = None
        if proof is not None:
            if self._doubtful():
                return self._later(request, overloaded_by("revoked"))
            if refusal := self._refusal(request, proof):
                return refusal
            user_id, seconds, jti, issued_at = proof.user_id, proof.seconds, proof.jti, proof.issued_at
            topics = topics or proof.grants.names
        else:
            user_id = _user_of(request)
            if request.unfilled is not None:
                self._report_unfilled(request.unfilled, user_id)
        address = ""
        if self.limits.any or self.refused is not None or self._settings.log_streams:
            address = client_address(peer(), request.fields, self._settings.trusted_proxies)
        if few_left():
            return self._later(request, overloaded_by("files"))
        if self.limits.any and (overloaded := self.limits.excess(user_id, address)):
            return self._later(request, overloaded)
        headers = _STREAM_HEADERS + request.cors
        return Accepted(
            user_id,
            request.start,
            headers,
            address,
            seconds,
            topics=topics,
            jti=jti,
            issued_at=issued_at,
        )

    def _doubtful(self) -> bool:
        """Whether a token may be revoked without this process knowing, where that is to keep it out."""
        if self.revocations is None or self._settings.revoked_without_redis == "open":
            return False
        return not self.revocations.known(REVOKED_PATIENCE_SECONDS)

    def _refusal(self, request: StreamRequest, proof: Identity) -> Refused | None:
        """The refusal of what the token is not for. It names a topic in the body alone, since headers have
        only fixed texts."""
        if request.user_id not in (None, proof.user_id):
            detail = "user_id is not the user of the token"
            challenge = _challenge("insufficient_scope", detail)
            return refused(HTTPStatus.FORBIDDEN, detail, request.cors, challenge)
        if (topic := self._ungranted(request, proof)) is not None:
            challenge = _challenge("insufficient_scope", "the token does not grant a topic")
            detail = f"the token does not grant the topic {topic!r}"
            return refused(HTTPStatus.FORBIDDEN, detail, request.cors, challenge)
        granted, most = len(proof.grants.names), self._settings.max_topics
        if not request.topics and granted > most:
            detail = f"the token grants {granted} topics by name, over SSE_MAX_TOPICS={most}: name some"
            return refused(HTTPStatus.BAD_REQUEST, detail, request.cors)
        if not request.topics and not granted and proof.user_id is None:
            detail = "the token names no user, and no topic but by patterns: name a topic"
            return refused(HTTPStatus.BAD_REQUEST, detail, request.cors)
        return None

    def _report_unfilled(self, found: str, user_id: str | None) -> None:
        """Log that a page did not fill in its user id, so it does not get that user's messages."""
        whose = "nobody, of topics alone" if user_id is None else "the user of that name"
        if (unlogged := self._log_limit.passed()) is None:
            return
        log.warning(
            "a request for a stream has a user_id that does not look filled in",
            found=found,
            stream_of=f"user {DEFAULT_USER}, the default" if user_id == DEFAULT_USER else whose,
            unlogged=unlogged,
        )

    def _denied(self, request: StreamRequest, denied: Denied) -> Accepted | Refused:
        if denied.status == HTTPStatus.SERVICE_UNAVAILABLE:
            return self._later(request, Overloaded(denied.detail, denied.status, RETRY_SECONDS))
        if denied.error is None and any(
            cookies(request, self._settings)
        ):  # no token, because the cookie is not taken
            detail = "pages of this origin may not use the user's cookie (SSE_CORS_ORIGINS)"
            return refused(HTTPStatus.FORBIDDEN, detail, request.cors)
        return refused(denied.status, denied.detail, request.cors, _challenge(denied.error, denied.detail))

    def _later(self, request: StreamRequest, overloaded: Overloaded) -> Accepted | Refused:
        """Tell the client when to come back. An EventSource reconnects only after a 200, so it gets a stream
        that says when."""
        if b"text/event-stream" in request.fields.get(b"accept", b"").lower():
            return Accepted(
                _user_of(request),
                request.start,
                _STREAM_HEADERS + request.cors,
                last_words=overloaded_words(overloaded),
                topics=request.topics,
            )
        seconds = max(1, round(overloaded.retry_seconds))
        return refused(overloaded.status, overloaded.detail, request.cors, ("retry-after", str(seconds)))


def _user_of(request: StreamRequest) -> str | None:
    """The user of a stream that needs no token."""
    return request.user_id or (None if request.topics else DEFAULT_USER)


def overloaded_words(overloaded: Overloaded) -> bytes:
    """The notice that a stream beyond the limits gets."""
    return notices.farewell("overloaded", overloaded.retry_seconds, detail=overloaded.detail)


def _challenge(error: str | None, description: str) -> tuple[str, str]:
    """The `WWW-Authenticate` field (RFC 6750, 3). It has no error if the request had no token."""
    value = 'Bearer realm="trio_sse"'
    if error is not None:
        value += f', error="{error}", error_description="{description}"'
    return ("www-authenticate", value)
