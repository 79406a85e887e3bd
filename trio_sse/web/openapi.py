"""`GET /openapi.json`: what this service answers, as an OpenAPI 3.1 document."""

from __future__ import annotations

from importlib import resources
from typing import Any

import msgspec
from quart import Blueprint, Response, current_app

from trio_sse.version import __version__
from trio_sse.web.pages import root_path
from trio_sse.web.replies import json_reply

blueprint = Blueprint("openapi", __name__)

PATH = "/openapi.json"

_DOCUMENT = resources.files("trio_sse.web").joinpath("openapi.json")
"""All that a service can have."""


def document() -> dict[str, Any]:
    """The whole document, of a service that has everything."""
    found: dict[str, Any] = msgspec.json.decode(_DOCUMENT.read_bytes())
    return found


@blueprint.get(PATH)
async def openapi() -> Response:
    """The document, with the paths that the settings turn on. The server is named by its path alone: which
    host the client used, only proxies know."""
    root = root_path()
    there = {rule.rule for rule in current_app.url_map.iter_rules()}
    told = document()
    told["info"]["version"] = __version__
    told["servers"] = [{"url": root or "/"}]
    told["paths"] = {path: item for path, item in told["paths"].items() if path in there}
    return json_reply(told)
