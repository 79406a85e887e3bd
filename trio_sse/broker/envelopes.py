"""Commands between processes, as they go through Redis: signed, dated, and each taken once. Pure."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections import deque
from collections.abc import Callable

import msgspec

VALID_SECONDS = 30.0
"""How old a command may be, or how much newer than now, by the clock of Redis."""

MOST_NONCES = 100_000
"""How many are remembered. More commands than that within VALID_SECONDS are refused."""

_PURPOSE = b"trio_sse control channel\0"


class Message(msgspec.Struct, frozen=True):
    """A command, or the answer to one."""

    kind: str
    """What is to be done. ANSWER: it was."""
    sender: str
    at: float
    """Seconds since 1970, by the clock of Redis."""
    nonce: str
    """The command's own; an answer has that of its command."""
    what: msgspec.Raw


ANSWER = "answer"


class EnvelopeError(ValueError):
    """It is not to be obeyed. The text says why, fit for a log line."""


class Envelopes:
    """Signs with HMAC-SHA256, by a key that is made of `token`: whoever may only publish to Redis cannot
    give commands."""

    def __init__(self, token: str, sender: str, clock: Callable[[], float]) -> None:
        self._key = hashlib.sha256(_PURPOSE + token.encode()).digest()
        self._sender = sender
        self._clock = clock
        self._seen: set[str] = set()
        self._order: deque[tuple[float, str]] = deque()

    def command(self, kind: str, what: object) -> tuple[str, bytes]:
        """A new command, and its nonce."""
        nonce = secrets.token_hex(16)
        return nonce, self._sealed(kind, nonce, what)

    def answer(self, nonce: str, what: object) -> bytes:
        """The answer to the command with this nonce."""
        return self._sealed(ANSWER, nonce, what)

    def _sealed(self, kind: str, nonce: str, what: object) -> bytes:
        message = Message(kind, self._sender, self._clock(), nonce, msgspec.Raw(msgspec.json.encode(what)))
        body = msgspec.json.encode(message)
        return self._mac(body) + b" " + body

    def open(self, payload: bytes) -> Message:
        """Read a command or an answer. Raises EnvelopeError. A command is read once."""
        mac, _, body = payload.partition(b" ")
        if not hmac.compare_digest(mac, self._mac(body)):
            raise EnvelopeError("it is not signed with this SSE_ADMIN_TOKEN")
        try:
            message = _decode(body)
        except msgspec.MsgspecError as error:
            raise EnvelopeError(f"another version made it: {error}") from None
        now = self._clock()
        if abs(now - message.at) > VALID_SECONDS:
            raise EnvelopeError(f"it is {now - message.at:.0f} s old")
        if message.kind != ANSWER:
            self._take(message.nonce, now)
        return message

    def _take(self, nonce: str, now: float) -> None:
        while self._order and self._order[0][0] < now:
            self._seen.discard(self._order.popleft()[1])
        if nonce in self._seen:
            raise EnvelopeError("it was obeyed before")
        if len(self._seen) >= MOST_NONCES:
            raise EnvelopeError("there were too many")
        self._seen.add(nonce)
        self._order.append((now + 2 * VALID_SECONDS, nonce))

    def _mac(self, body: bytes) -> bytes:
        return hmac.new(self._key, body, "sha256").hexdigest().encode()


_decode = msgspec.json.Decoder(Message).decode
