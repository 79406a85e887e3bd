"""Pages of this package as answers. Each is one file, and has empty `meta` elements for what it is told."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from importlib import resources
from types import MappingProxyType

from quart import Response, request

from trio_sse.web.serving import serving

ROOT_PATH = "trio_sse.root_path"
"""Key in a scope: the path prefix of the service."""

# Anything else that a page tries to load does not belong to it.
_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

_TOLD = b'<meta name="%b" content="%b">'
_NONE: Mapping[str, str] = MappingProxyType({})


def root_path() -> str:
    """The path prefix at which the current request found the service."""
    return str(request.scope.get(ROOT_PATH, serving().settings.root_path))


def page_reply(name: str, told: Mapping[str, str] = _NONE, headers: Mapping[str, str] = _NONE) -> Response:
    """The page in the file `name`. It is told its path prefix, and what `told` has, by the names of the
    elements."""
    html = resources.files("trio_sse").joinpath(name).read_bytes()
    for key, value in {"root-path": root_path(), **told}.items():
        html = html.replace(_TOLD % (key.encode(), b""), _TOLD % (key.encode(), escape(value).encode()))
    fields = {"content-security-policy": _POLICY, "cache-control": "no-cache", **headers}
    return Response(html, 200, fields, content_type="text/html; charset=utf-8")
