"""A request that got no stream, as it is remembered: whom it was about, from where, and why."""

from __future__ import annotations

import re
import time
from base64 import urlsafe_b64decode
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Protocol
from urllib.parse import parse_qsl

import msgspec

from trio_sse.access.addresses import client_address
from trio_sse.access.credentials import cookies, tokens
from trio_sse.access.problem import Refused
from trio_sse.access.request import DEFAULT_USER, Fields, StreamRequest, joined
from trio_sse.delivery.messages import user_id_problem
from trio_sse.delivery.recorder import Refusal
from trio_sse.delivery.resume import Start
from trio_sse.settings import Settings

_MOST_CLAIM_BYTES = 8192
_MOST_GUESSED = 1000  # parameters
_DETAIL = re.compile(rb"\ndata: ?(\{.*\})")


class Ending(Protocol):
    """A stream that only says why there is none."""

    @property
    def last_words(self) -> bytes: ...


def refusal_of(
    answer: Refused | Ending,
    request: StreamRequest | Refused,
    query: bytes,
    headers: Fields,
    peer: str,
    settings: Settings,
) -> Refusal:
    """What is to be remembered of a request that was answered so, and has these `headers`. Never raises."""
    if isinstance(answer, Refused):
        status, detail = int(answer.status), answer.detail
    else:
        status, detail = int(HTTPStatus.OK), _said(answer.last_words)
    if isinstance(request, Refused):
        request = _guessed(query, _joined(headers))
    user, claimed = request.user_id, False
    if user is None and settings.auth == "none" and not request.topics:
        user = DEFAULT_USER
    claims = _claims(request, settings)
    said = claims.get(settings.jwt_user_claim)
    said = str(said) if isinstance(said, int) else said
    holder = said if isinstance(said, str) and user_id_problem(said) is None else None
    if user is None and holder is not None:
        user, claimed = holder, True
    jti = claims["jti"] if isinstance(claims.get("jti"), str) else None
    address = client_address(peer, request.fields, settings.trusted_proxies)
    holder = None if holder == user else holder
    return Refusal(time.time(), user, claimed, status, detail, address, jti, holder)


def _guessed(query: bytes, fields: Mapping[bytes, bytes]) -> StreamRequest:
    """Whom a request meant that is not well-formed, or came by a wrong name."""
    try:
        given = parse_qsl(query.decode("ascii"), errors="strict", max_num_fields=_MOST_GUESSED)
    except ValueError:
        given = []
    users = [value for name, value in given if name == "user_id" and user_id_problem(value) is None]
    token = next((value for name, value in given if name == "access_token"), None)
    topics = tuple(value for name, value in given if name == "topic")
    return StreamRequest(users[0] if users else None, Start(), token, fields, (), topics=topics)


def _joined(headers: Fields) -> Mapping[bytes, bytes]:
    return headers if isinstance(headers, Mapping) else joined(headers)


def _said(last_words: bytes) -> str:
    """The `detail` of a last notice."""
    found = _DETAIL.search(last_words)
    said = msgspec.json.decode(found[1]) if found else {}
    return str(said.get("detail", ""))


def _claims(request: StreamRequest, settings: Settings) -> dict[str, Any]:
    """What the first token of a request says, though it may be in a cookie that a page of another origin may
    not use. Nothing rests on it but whom its refusal is shown for."""
    if settings.auth != "jwt":
        return {}
    token = next(iter(tokens(request, settings) or cookies(request, settings)), "")
    part = token.split(".")[1] if token.count(".") == 2 else ""
    if not part or len(part) > _MOST_CLAIM_BYTES:
        return {}
    try:
        claims = msgspec.json.decode(urlsafe_b64decode(part + "=="))
    except (ValueError, RecursionError):
        return {}
    return claims if isinstance(claims, dict) else {}
