"""Answers in JSON: documents and problem documents."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import msgspec
from quart import Response

from trio_sse.access.problem import problem

RETRY_SECONDS = 1

_NONE: Mapping[str, str] = MappingProxyType({})


def json_reply(data: object) -> Response:
    headers = {"cache-control": "no-store"}
    return Response(msgspec.json.encode(data), 200, headers, content_type="application/json")


def problem_reply(
    status: int, detail: str, headers: Mapping[str, str] = _NONE, more: Mapping[str, object] = _NONE
) -> Response:
    """A problem document (RFC 9457). `more`: members in addition to those that every problem has."""
    return Response(
        problem(status, detail, more),
        status,
        {"cache-control": "no-store", **headers},
        content_type="application/problem+json",
    )


def needs_token(realm: str, which: str = "one of SSE_PUBLISH_TOKENS", unless: str = "") -> Response:
    """Refuses a request without a token. `unless`: the setting with which it needs none."""
    detail = f"Authorization: Bearer with {which} is required"
    if unless:
        detail += f" ({unless})"
    return problem_reply(401, detail, {"www-authenticate": f'Bearer realm="trio_sse {realm}"'})


def try_again(detail: str) -> Response:
    """Tells that there is no answer for now."""
    return problem_reply(503, detail, {"retry-after": str(RETRY_SECONDS)})
