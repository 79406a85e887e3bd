"""`POST /publish`: messages over HTTP, for back ends that have a token and no access to Redis."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import partial
from typing import Any, cast

import structlog
import trio
from quart import Blueprint, Request, Response, request
from werkzeug.exceptions import RequestEntityTooLarge

from trio_sse.access.publishers import Publishers
from trio_sse.access.request import bearer
from trio_sse.broker.publisher import ConflictError, Published, UnavailableError
from trio_sse.delivery import messages
from trio_sse.delivery.traces import Context
from trio_sse.service import Service
from trio_sse.settings import Settings
from trio_sse.web.replies import json_reply, needs_token, problem_reply, try_again
from trio_sse.web.serving import serving

log = structlog.stdlib.get_logger("trio_sse.web.publish")

blueprint = Blueprint("publish", __name__)

PATH = "/publish"
MAX_MESSAGES = 1000
MAX_KEY = 255

MAX_BODY = 16 * 1024 * 1024
"""Bytes of a body, unless SSE_MAX_MESSAGE_BYTES needs more or less: see `max_body`."""

_SPACE_BYTES = 65536
_TURN_BYTES = 32768
_SPACE_WINDOW = 262144
_WINDOW = 4096


@blueprint.post(PATH)
async def publish() -> Response:
    """Publish one message, or a list of them: all or none."""
    service = serving()
    token = publish_token(request, service.publishers)
    if token is None:
        return needs_token("publish")
    codings = ",".join(request.headers.getlist("content-encoding")).lower()
    if set(re.split("[\t ,]+", codings)) - {"", "identity"}:
        # RFC 9110, 15.5.16 and 12.5.3
        detail = "Content-Encoding is not supported here; send the body as it is"
        return problem_reply(415, detail, {"accept-encoding": "identity"})
    key = request.headers.get("idempotency-key")
    if key is not None and not (key.isascii() and key.isprintable() and 0 < len(key) <= MAX_KEY):
        return problem_reply(400, f"Idempotency-Key is not 1 to {MAX_KEY} printable ASCII characters")
    try:
        body = cast(bytes, await request.get_data(cache=False))
    except RequestEntityTooLarge:
        detail = f"the body has more than {max_body(service.settings)} bytes (SSE_MAX_MESSAGE_BYTES)"
        return problem_reply(413, detail)
    refusal = partial(service.publishers.refusal, token)
    payloads, mistakes, refusals = await _read(body, service.settings.max_message_bytes, refusal)
    if refusals:
        return problem_reply(403, "nothing was published", more={"errors": refusals})
    if mistakes:
        return problem_reply(422, "nothing was published", more={"errors": mistakes})
    try:
        published, repeated = await service.publisher.publish(payloads, key, token, _context(service))
    except ConflictError:
        return problem_reply(422, "the Idempotency-Key was used with other messages")
    except UnavailableError as error:
        log.warning("not published", problem=str(error))
        detail = str(error)
        if key is None and error.unsure:
            detail += "; Redis may have the messages all the same: with an Idempotency-Key a retry is safe"
        return try_again(detail)
    return json_reply({"repeated": repeated, "messages": [_told(one) for one in published]})


def _context(service: Service) -> Context | None:
    """The trace that the request belongs to (W3C Trace Context), if messages are traced."""
    if service.hub.traces is None:
        return None
    headers = request.headers
    # One tracestate may stand in several lines (W3C Trace Context, 3.3.1).
    context = Context.of(headers.get("traceparent", ""), ",".join(headers.getlist("tracestate")))
    return context if context.sampled else None


def publish_token(request: Request, publishers: Publishers) -> str | None:
    """The token of the request if it is one of SSE_PUBLISH_TOKENS, else None."""
    given = bearer(request.headers.get("authorization", "")) or ""
    return given if publishers.know(given) else None


def max_body(settings: Settings) -> int:
    """Bytes that a body may have: enough for MAX_MESSAGES of the largest messages, but no more than MAX_BODY
    or, if that is more, two of them."""
    most = MAX_MESSAGES * (settings.max_message_bytes + 1) + _SPACE_BYTES
    return min(most, max(MAX_BODY, 2 * settings.max_message_bytes))


Errors = list[dict[str, Any]]


async def _read(
    body: bytes, max_bytes: int, refusal: Callable[[messages.Notification], str | None]
) -> tuple[list[bytes], Errors, Errors]:
    """The messages, what is wrong with them, and why they may not be published. Other tasks run in between,
    whatever the body contains."""
    begin = await _space(body, 0)
    payloads = [body]
    if body[begin : begin + 1] == b"[" and b"\0" not in body[:4]:  # with a NUL it is not UTF-8
        try:
            payloads = await _elements(body, begin + 1, max_bytes)
        except _ListError as error:
            return [], [{"detail": str(error)}], []
    mistakes: Errors = []
    refusals: Errors = []
    turn = 0
    for index, payload in enumerate(payloads):
        try:
            notification = messages.decode(payload, max_bytes)
        except messages.MessageError as error:
            mistakes.append({"index": index, "detail": str(error)})
        else:
            if (reason := refusal(notification)) is not None:
                refusals.append({"index": index, "detail": reason})
        turn += len(payload)
        if turn > _TURN_BYTES:
            turn = 0
            await trio.lowlevel.checkpoint()
    return payloads, mistakes, refusals


class _ListError(ValueError):
    """A list that cannot be split. The text is the reason."""


_SPACE = re.compile(rb"[ \t\r\n]*+")

# Python's own parser finds where a value ends. The value is dropped; long integers are not even converted.
_scan = json.JSONDecoder(parse_int=len, parse_float=len).raw_decode


async def _space(body: bytes, at: int) -> int:
    """Where the white space that begins at `at` ends. Other tasks run in between."""
    while True:
        window = at + _SPACE_WINDOW
        at = cast("re.Match[bytes]", _SPACE.match(body, at, window)).end()
        if at < window:
            return at
        await trio.lowlevel.checkpoint()


async def _elements(body: bytes, at: int, max_bytes: int) -> list[bytes]:
    """The elements of a JSON array that begins before `at`, as they are written. Objects of only one element
    exist at a time, since one can have millions. Raises _ListError if there is no array of 1 to MAX_MESSAGES
    elements of at most about `max_bytes`."""
    elements: list[bytes] = []
    turn = at = await _space(body, at)
    if body[at : at + 1] == b"]":
        raise _ListError(f"0 messages; 1 to {MAX_MESSAGES} are accepted")
    while True:
        if len(elements) == MAX_MESSAGES:
            raise _ListError(f"more than {MAX_MESSAGES} messages; 1 to {MAX_MESSAGES} are accepted")
        if at - turn > _TURN_BYTES:
            turn = at
            await trio.lowlevel.checkpoint()
        end = _end(body, at, max_bytes, len(elements))
        elements.append(body[at:end])
        at = await _space(body, end)
        mark = body[at : at + 1]
        at = await _space(body, at + 1)
        if mark == b"]" and at == len(body):
            return elements
        if mark != b",":
            raise _ListError(f"not JSON: expected ',' or the end of the list (byte {end})")


def _end(body: bytes, at: int, max_bytes: int, index: int) -> int:
    """Where the value that begins at `at` ends. Looks at no more bytes than the largest message has."""
    size = _WINDOW
    while True:
        size = min(size, max_bytes + 1)
        window = body[at : at + size]
        try:
            return at + _scan(window.decode("latin-1"))[1]
        except RecursionError:
            raise _ListError(f"message {index} is nested too deeply") from None
        except ValueError:
            # The whole window belongs to this value, or is not JSON. How deep the scanner goes depends on the
            # Python.
            if messages.too_deep(window):
                raise _ListError(f"message {index} is nested too deeply") from None
            if at + size >= len(body):
                raise _ListError(f"not JSON: message {index} (byte {at})") from None
            if size > max_bytes:
                detail = f"message {index} is not JSON, or over SSE_MAX_MESSAGE_BYTES={max_bytes}"
                raise _ListError(detail) from None
        size *= 8


def _told(published: Published) -> dict[str, Any]:
    receipt = published.receipt
    way = None
    if receipt is not None:
        way = {"took": receipt.took, "buffered": receipt.buffered, "dropped": receipt.dropped}
    return {"id": published.id, "connections": way}
