"""Problem documents (RFC 9457), and the refusal of a stream."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from types import MappingProxyType
from typing import NamedTuple

import msgspec

from trio_sse.access.cors import GUARDS, Headers


class Refused(NamedTuple):
    """The request gets a problem document (RFC 9457) instead of a stream."""

    status: int
    detail: str
    headers: Headers

    @property
    def body(self) -> bytes:
        return problem(self.status, self.detail)


def refused(status: int, detail: str, cors: Headers, *more: tuple[str, str]) -> Refused:
    """A refusal that pages of other origins can read, with `more` header fields."""
    headers: Headers = (
        ("content-type", "application/problem+json"),
        ("cache-control", "no-store"),
        *GUARDS,
        *cors,
    )
    if more:
        exposed = ", ".join(name for name, _ in more)
        headers = (*headers, *more, ("access-control-expose-headers", exposed))
    return Refused(status, detail, headers)


def problem(status: int, detail: str, more: Mapping[str, object] = MappingProxyType({})) -> bytes:
    """A problem document (RFC 9457): application/problem+json. `more` has further members."""
    title = HTTPStatus(status).phrase
    return msgspec.json.encode(
        {"type": "about:blank", "title": title, "status": status, "detail": detail, **more}
    )
