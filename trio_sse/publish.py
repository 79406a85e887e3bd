"""`POST /publish`: messages over HTTP, for back ends that have a token and no way to Redis."""

from __future__ import annotations

import hmac
from typing import TYPE_CHECKING, Any, cast

import msgspec
import structlog
from quart import Blueprint, Response, current_app, request

from trio_sse import messages
from trio_sse.handshake import bearer
from trio_sse.publisher import ConflictError, Published, UnavailableError
from trio_sse.replies import json_reply, problem_reply

if TYPE_CHECKING:
    from trio_sse.service import Service

log = structlog.stdlib.get_logger("trio_sse.publish")

blueprint = Blueprint("publish", __name__)

MAX_MESSAGES = 1000
MAX_KEY = 255
RETRY_SECONDS = 1

_raw_list = msgspec.json.Decoder(list[msgspec.Raw])


@blueprint.post("/publish")
async def publish() -> Response:
    """Publish one message, or a list of them: all or none."""
    service = cast("Service", current_app._get_current_object())  # type: ignore[attr-defined]
    given = bearer(request.headers.get("authorization", "")) or ""
    if not _is_token(given, service.settings.publish_token_list):
        detail = "Authorization: Bearer with one of SSE_PUBLISH_TOKENS is required"
        return problem_reply(401, detail, {"www-authenticate": 'Bearer realm="trio_sse publish"'})
    key = request.headers.get("idempotency-key")
    if key is not None and not (key.isascii() and key.isprintable() and 0 < len(key) <= MAX_KEY):
        return problem_reply(400, f"Idempotency-Key is not 1 to {MAX_KEY} printable ASCII characters")
    body = cast(bytes, await request.get_data(cache=False))
    payloads, mistakes = _read(body, service.settings.max_message_bytes)
    if mistakes:
        return problem_reply(422, "nothing was published", more={"errors": mistakes})
    try:
        published, repeated = await service.publisher.publish(payloads, key, given)
    except ConflictError:
        return problem_reply(422, "the Idempotency-Key was used with other messages")
    except UnavailableError as error:
        log.warning("not published", problem=str(error))
        detail = str(error)
        if key is None and error.unsure:
            detail += "; it may have the messages all the same: with an Idempotency-Key a second try is safe"
        return problem_reply(503, detail, {"retry-after": str(RETRY_SECONDS)})
    return json_reply({"repeated": repeated, "messages": [_told(one) for one in published]})


def _is_token(given: str, tokens: tuple[str, ...]) -> bool:
    """All are compared, each in constant time."""
    same = [hmac.compare_digest(given.encode(), token.encode()) for token in tokens]
    return any(same)


def _read(body: bytes, max_bytes: int) -> tuple[list[bytes], list[dict[str, Any]]]:
    """The messages, and what is wrong with them."""
    if body.lstrip()[:1] == b"[":
        try:
            payloads = [bytes(raw) for raw in _raw_list.decode(body)]
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            return [], [{"detail": f"not JSON: {error}"}]
    else:
        payloads = [body]
    if not 1 <= len(payloads) <= MAX_MESSAGES:
        return [], [{"detail": f"{len(payloads)} messages; 1 to {MAX_MESSAGES} are accepted"}]
    mistakes = []
    for index, payload in enumerate(payloads):
        try:
            messages.decode(payload, max_bytes)
        except messages.MessageError as error:
            mistakes.append({"index": index, "detail": str(error)})
    return payloads, mistakes


def _told(published: Published) -> dict[str, Any]:
    receipt = published.receipt
    way = None
    if receipt is not None:
        way = {"took": receipt.took, "buffered": receipt.buffered, "dropped": receipt.dropped}
    return {"id": published.id, "connections": way}
