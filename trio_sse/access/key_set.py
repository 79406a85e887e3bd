"""The key set at SSE_JWT_JWKS_URL (RFC 7517): fetched only when it is needed."""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from typing import Any

import httpx
import jwt
import msgspec
import structlog
import trio

from trio_sse.access.keys import PUBLIC_KEY_ALGORITHMS, Key, UnavailableError, algorithms
from trio_sse.http_answers import body_of, told
from trio_sse.version import __version__

log = structlog.stdlib.get_logger("trio_sse.access.key_set")

JWKS_TIMEOUT_SECONDS = 5.0
"""Time limit of a whole fetch: name look-up, connections, redirects and body."""
JWKS_LIFETIME_SECONDS = 300.0
"""How long a key set is used before it is fetched again."""
JWKS_PAUSE_SECONDS = 10.0
"""Least time between two fetches, however many tokens with made-up key ids come."""
MAX_JWKS_BYTES = 256 * 1024
MAX_REDIRECTS = 3
MAX_WAITING = 1000
"""Tokens that may wait for a newer set at a time: each holds a connection. Further clients are told to come
back."""
MAX_CANDIDATES = 16
"""Keys that are tried, at most, for a token that does not name its key."""


class KeySet:
    """The keys of the set, by the key id that a token names.

    A token's key that is not here may have been published a moment ago. So the token waits for a set that was
    fetched after it came. If its key is not in that either, it is unknown. All tokens that wait share one
    fetch.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._keys: list[Key] = []
        self._fetched_at = self._began_at = float("-inf")
        self._looking = False
        self._failed = False
        self._waiting = 0
        self._wanted = trio.Event()
        self._over = trio.Event()

    def usable(self) -> bool:
        """Whether there are keys, and they are not old, or a fetch is under way or was a moment ago."""
        return bool(self._keys) and not self._is_due()

    async def ready(self) -> None:
        """Wait for a fetch if there are no keys yet, or if they are old and no fetch is under way.

        Known keys stay in use while the set cannot be fetched. Raises UnavailableError if there are none.
        """
        if self._is_due() or (self._looking and not self._keys):
            await self._look()
        if not self._keys:
            raise UnavailableError

    def _is_due(self) -> bool:
        if self._looking:
            return False
        now = trio.current_time()
        old = not self._keys or now - self._fetched_at > JWKS_LIFETIME_SECONDS
        return old and now - self._began_at >= JWKS_PAUSE_SECONDS

    def candidates(self, kid: str | None, algorithm: str) -> Sequence[Key]:
        """The key with this `kid`, else the keys without one. All keys if `kid` is None.

        A key need not have an id (RFC 7517, 4.5), and a token need not name one.
        """
        fit = [key for key in self._keys if algorithm in key.algorithms]
        if kid is not None:
            fit = [key for key in fit if key.id == kid] or [key for key in fit if key.id is None]
        return fit[:MAX_CANDIDATES]

    def may_lack(self, kid: str | None, algorithm: str) -> bool:
        """True if the id is unknown. A known id seldom gets another key: true only if a fetch can begin at
        once."""
        if algorithm not in PUBLIC_KEY_ALGORITHMS:
            return False
        unknown = kid is None or all(key.id != kid for key in self._keys)
        return unknown or trio.current_time() - self._began_at >= JWKS_PAUSE_SECONDS

    async def renewed(self, since: float) -> bool:
        """Wait for the end of a fetch: at most JWKS_PAUSE_SECONDS and one fetch. True: it began after
        `since`."""
        if not self._looking:
            if self._failed and trio.current_time() - self._began_at < JWKS_PAUSE_SECONDS:
                raise UnavailableError
            if self._began_at >= since:
                return True
        await self._look()
        if self._failed:
            raise UnavailableError
        return self._began_at >= since

    async def _look(self) -> None:
        """Wait for the end of the current fetch, or of the next one."""
        if self._waiting >= MAX_WAITING:
            raise UnavailableError
        if not self._looking:
            self._wanted.set()
        self._waiting += 1
        try:
            with trio.fail_after(JWKS_PAUSE_SECONDS + 2 * JWKS_TIMEOUT_SECONDS):
                await self._over.wait()
        except trio.TooSlowError:  # the task that fetches has ended: the service stops
            raise UnavailableError from None
        finally:
            self._waiting -= 1

    async def run(self) -> None:
        """Fetch the set whenever a token needs it, with a pause between fetches, until cancelled.

        This is a task of its own: a fetch serves all clients, and does not end with the client that caused
        it.
        """
        while True:
            await self._wanted.wait()
            await trio.sleep_until(self._began_at + JWKS_PAUSE_SECONDS)
            self._wanted = trio.Event()
            self._began_at = trio.current_time()
            self._looking = True
            self._failed = not await self._fetch()
            self._looking = False
            over, self._over = self._over, trio.Event()
            over.set()

    async def _fetch(self) -> bool:
        try:
            with trio.fail_after(JWKS_TIMEOUT_SECONDS):
                body = await _get(self._url)
            keys, offered = _read(body)
        except trio.TooSlowError:
            _warn(f"no whole answer within {JWKS_TIMEOUT_SECONDS:g} s")
            return False
        except Exception as error:  # noqa: BLE001  whatever a server may answer
            _warn(told(error))
            return False
        if not keys:
            _warn(f"none of its {offered} keys verifies tokens (a public key, for signatures, strong enough)")
        self._keys = keys
        self._fetched_at = trio.current_time()
        return True


def _warn(problem: str) -> None:
    log.warning("no keys", problem=f"SSE_JWT_JWKS_URL: {problem[:200]}")


class _AnswerError(Exception):
    """The answer is not a key set. The text is fit for a log line."""


async def _get(url: str) -> bytes:
    """Fetch `url`, through the proxy that the environment names (HTTPS_PROXY, NO_PROXY).

    Cancelled, it leaves nothing running but a name look-up, which ends by itself.
    """
    headers = {
        "user-agent": f"trio_sse/{__version__}",
        "accept": "application/jwk-set+json, application/json",
        "accept-encoding": "identity",  # decompressed data has no bound
    }
    # The system's certificates, to which an operator adds a private CA. httpx would use its own list.
    verify = ssl.create_default_context()
    async with httpx.AsyncClient(headers=headers, verify=verify, timeout=None) as client:  # noqa: S113
        request: httpx.Request | None = client.build_request("GET", url)
        for _ in range(1 + MAX_REDIRECTS):
            assert request is not None
            secure = request.url.scheme == "https"
            response = await client.send(request, stream=True)
            try:
                request = response.next_request
                if request is None:
                    return await _body(response)
            finally:
                await response.aclose()
            if request.url.scheme != "https" and (secure or request.url.scheme != "http"):
                raise _AnswerError("it redirects to an address that is less safe")
        raise _AnswerError(f"it redirects more than {MAX_REDIRECTS} times")


async def _body(response: httpx.Response) -> bytes:
    if response.status_code != httpx.codes.OK:
        raise _AnswerError(f"the answer is {response.status_code}")
    if response.headers.get("content-encoding", "identity") != "identity":
        raise _AnswerError("the answer is compressed, though that was not asked for")
    body = await body_of(response, MAX_JWKS_BYTES)
    if body is None:
        raise _AnswerError(f"the answer is longer than {MAX_JWKS_BYTES} bytes")
    return body


def _read(body: bytes) -> tuple[list[Key], int]:
    """The keys of a set that can verify tokens, and the number of all its keys."""
    document = msgspec.json.decode(body)
    offered = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(offered, list):
        raise _AnswerError("the answer is no key set (RFC 7517)")
    keys = []
    for jwk in offered:
        try:
            keys.append(_key(jwk))
        except (jwt.PyJWTError, ValueError, TypeError, LookupError, ArithmeticError):
            continue  # for another use, too weak, or not a key
    return keys, len(offered)


def _key(jwk: Any) -> Key:
    """Read a public key for verifying from a JSON Web Key (RFC 7517, 4.2 to 4.4)."""
    if not isinstance(jwk, dict) or jwk.get("use") not in (None, "sig"):
        raise jwt.InvalidKeyError("not for signatures")
    operations = jwk.get("key_ops")
    if operations is not None and not (isinstance(operations, list) and "verify" in operations):
        raise jwt.InvalidKeyError("not for verifying")
    if "d" in jwk or "k" in jwk:
        raise jwt.InvalidKeyError("not a public key")
    kid = jwk.get("kid")
    if kid is not None and not isinstance(kid, str):
        raise jwt.InvalidKeyError("an id that is no text")
    key = jwt.PyJWK(jwk).key
    fit = algorithms(key)
    if (named := jwk.get("alg")) is not None:
        fit = tuple(name for name in fit if name == named)
    if not fit:
        raise jwt.InvalidKeyError("for another algorithm")
    return Key(key, fit, kid)
