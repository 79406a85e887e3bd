"""The key set at SSE_JWT_JWKS_URL (RFC 7517): fetched when it is needed, and no more often than that."""

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
from trio_sse.version import __version__

log = structlog.stdlib.get_logger("trio_sse.access.key_set")

JWKS_TIMEOUT_SECONDS = 5.0
"""For all of a fetch: names, connections, redirects, bytes."""
JWKS_LIFETIME_SECONDS = 300.0
"""How long a key set is used without looking whether it has changed."""
JWKS_PAUSE_SECONDS = 10.0
"""Least time between two looks: whoever sends tokens with made-up key ids causes no more than that."""
MAX_JWKS_BYTES = 256 * 1024
MAX_REDIRECTS = 3
MAX_WAITING = 1000
"""Tokens that wait for a newer set at a time: each holds a connection. More are told to come back."""
MAX_CANDIDATES = 16
"""Keys that are tried for a token that does not name its key."""


class KeySet:
    """The keys of the set, by the key id that a token names.

    A token of a key that is not here may be signed with one that was published a moment ago. So it waits for
    a set that was fetched after it came, and only then is its key unknown. All who wait share one fetch.
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

    async def ready(self) -> None:
        """Wait where there are no keys yet, or where they are old and nobody else waits for newer ones.

        Known keys are used for as long as the set cannot be fetched. Raises UnavailableError without any.
        """
        now = trio.current_time()
        old = not self._keys or now - self._fetched_at > JWKS_LIFETIME_SECONDS
        due = old and now - self._began_at >= JWKS_PAUSE_SECONDS
        if (due and not self._looking) or (self._looking and not self._keys):
            await self._look()
        if not self._keys:
            raise UnavailableError

    def candidates(self, kid: str | None, algorithm: str) -> Sequence[Key]:
        """The key with this `kid`, else those that have none; all of them where `kid` is None.

        A key without an id can be any (RFC 7517, 4.5), and a token needs none where there is one key only.
        """
        fit = [key for key in self._keys if algorithm in key.algorithms]
        if kid is not None:
            fit = [key for key in fit if key.id == kid] or [key for key in fit if key.id is None]
        return fit[:MAX_CANDIDATES]

    def may_lack(self, kid: str | None, algorithm: str) -> bool:
        """An id that is known seldom means another key suddenly: worth a look, but not a pause."""
        if algorithm not in PUBLIC_KEY_ALGORITHMS:
            return False
        unknown = kid is None or all(key.id != kid for key in self._keys)
        return unknown or trio.current_time() - self._began_at >= JWKS_PAUSE_SECONDS

    async def renewed(self, since: float) -> bool:
        """Wait for a set that was fetched after `since`: JWKS_PAUSE_SECONDS and one fetch at the most."""
        if not self._looking:
            if self._failed and trio.current_time() - self._began_at < JWKS_PAUSE_SECONDS:
                raise UnavailableError
            if self._began_at >= since:
                return False
        await self._look()
        if self._failed:
            raise UnavailableError
        return True

    async def _look(self) -> None:
        """Wait for the end of the fetch that goes on, or of the next."""
        if self._waiting >= MAX_WAITING:
            raise UnavailableError
        if not self._looking:
            self._wanted.set()
        self._waiting += 1
        try:
            with trio.fail_after(JWKS_PAUSE_SECONDS + 2 * JWKS_TIMEOUT_SECONDS):
                await self._over.wait()
        except trio.TooSlowError:  # the task that fetches is gone: the service ends
            raise UnavailableError from None
        finally:
            self._waiting -= 1

    async def run(self) -> None:
        """Fetch the set whenever it is wanted, with a pause between, until cancelled.

        A task of its own, so that a fetch is for all, and does not end with the client that caused it.
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
            _warn(" ".join(str(error).split()) or type(error).__name__)
            return False
        if not keys:
            _warn(f"none of its {offered} keys verifies tokens (a public key, for signatures, strong enough)")
        self._keys = keys
        self._fetched_at = trio.current_time()
        return True


def _warn(problem: str) -> None:
    log.warning("no keys", problem=f"SSE_JWT_JWKS_URL: {problem[:200]}")


class _AnswerError(Exception):
    """An answer that is no key set. The text is fit for a log line."""


async def _get(url: str) -> bytes:
    """What is at `url`, over the proxy that the environment names (HTTPS_PROXY, NO_PROXY).

    Nothing is left of it when it is cancelled, but a look-up of a name, which ends by itself.
    """
    headers = {
        "user-agent": f"trio_sse/{__version__}",
        "accept": "application/jwk-set+json, application/json",
        "accept-encoding": "identity",  # what is unpacked has no bound
    }
    # The system's certificates, to which an operator adds those of the house; httpx brings its own.
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
    body = bytearray()
    # Cancelled and not left: httpx reads through several generators, which Trio wants ended one and all.
    with trio.CancelScope() as reading:
        async for part in response.aiter_raw():
            body += part
            if len(body) > MAX_JWKS_BYTES:
                reading.cancel()
    if len(body) > MAX_JWKS_BYTES:
        raise _AnswerError(f"the answer is longer than {MAX_JWKS_BYTES} bytes")
    return bytes(body)


def _read(body: bytes) -> tuple[list[Key], int]:
    """The keys of a set that verify tokens, and how many there are in all."""
    document = msgspec.json.decode(body)
    offered = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(offered, list):
        raise _AnswerError("the answer is no key set (RFC 7517)")
    keys = []
    for jwk in offered:
        try:
            keys.append(_key(jwk))
        except (jwt.PyJWTError, ValueError, TypeError, LookupError, ArithmeticError):
            continue  # for something else, too weak, or none at all
    return keys, len(offered)


def _key(jwk: Any) -> Key:
    """The public key in a JSON Web Key that is for verifying (RFC 7517, 4.2 to 4.4)."""
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
