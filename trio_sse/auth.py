"""Whose stream is it? The identity a token (JWT, RFC 7519) proves, or why it proves none."""

from __future__ import annotations

import time
from http import HTTPStatus
from typing import Any, NamedTuple, Protocol

import jwt
import structlog
import trio
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from trio_sse.messages import EVERYBODY, user_id_problem
from trio_sse.settings import Settings, SettingsError

log = structlog.stdlib.get_logger("trio_sse.auth")

JWKS_TIMEOUT_SECONDS = 5.0
JWKS_LIFETIME_SECONDS = 300.0
"""How long a key set is used without looking whether it has changed."""
JWKS_PAUSE_SECONDS = 10.0
"""Least time between two looks: whoever sends tokens with made-up key ids causes no more than that."""

MAX_TOKEN_BYTES = 8192

_FAR_SECONDS = 10 * 365 * 86400.0


class Identity(NamedTuple):
    """Who a token says its bearer is, and the seconds for which it says so."""

    user_id: str
    seconds: float


class Denied(NamedTuple):
    """A token that proves nothing."""

    status: int
    detail: str
    error: str | None = None
    """The error code of RFC 6750, 3.1."""


class _Keys(Protocol):
    async def find(self, token: str) -> tuple[Any, list[str]]:
        """The key to verify `token` with, and the algorithms that key is for. Raises jwt.PyJWTError."""
        ...


class Verifier:
    """Verifies tokens. Which algorithm counts follows from the key, never from the token."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._keys = _keys(settings)

    async def verify(self, token: str | None) -> Identity | Denied:
        """What `token` proves at this moment. Waits only where keys must be fetched."""
        if not token:
            return Denied(HTTPStatus.UNAUTHORIZED, "a token is required")
        if len(token) > MAX_TOKEN_BYTES:
            return _invalid(f"the token is longer than {MAX_TOKEN_BYTES} bytes")
        settings = self._settings
        try:
            key, algorithms = await self._keys.find(token)
            claims = jwt.decode(
                token,
                key,
                algorithms=algorithms,
                audience=settings.jwt_audience,
                issuer=settings.jwt_issuer,
                options={
                    "require": ["exp"],
                    "verify_aud": settings.jwt_audience is not None,
                    "verify_sub": False,
                },
            )
            seconds = min(int(claims["exp"]) - time.time(), _FAR_SECONDS)
        except _UnavailableError:
            return Denied(HTTPStatus.SERVICE_UNAVAILABLE, "the keys to verify tokens with cannot be had now")
        except jwt.ExpiredSignatureError:
            return _invalid("the token has expired")
        except jwt.PyJWTError as error:
            return _invalid(_reason(error))
        except (ValueError, TypeError, OverflowError, RecursionError):  # made-up tokens reach odd corners
            return _invalid("the token is malformed")
        user = claims.get(settings.jwt_user_claim)
        if isinstance(user, int) and not isinstance(user, bool):
            user = str(user) if abs(user) < 10**18 else None
        if not isinstance(user, str) or user == EVERYBODY or user_id_problem(user):
            return _invalid("the token names no user (SSE_JWT_USER_CLAIM)")
        return Identity(user, seconds)


def _keys(settings: Settings) -> _Keys:
    if settings.jwt_jwks_url is not None:
        return _KeySet(settings.jwt_jwks_url)
    if settings.jwt_public_key_file is not None:
        return _OneKey(*_read_public_key(settings.jwt_public_key_file))
    assert settings.jwt_secret is not None
    return _OneKey(settings.jwt_secret.get_secret_value(), ["HS256"])


def _read_public_key(path: str) -> tuple[Any, list[str]]:
    try:
        with open(path, "rb") as file:
            key = load_pem_public_key(file.read())
        return key, _algorithms(key)
    except (OSError, ValueError, TypeError, jwt.PyJWTError) as error:
        reason = " ".join(str(error).split())[:200]
        raise SettingsError(
            [
                f"SSE_JWT_PUBLIC_KEY_FILE={path!r} is not accepted ({reason}). Accepted: a PEM file with a "
                "public key for RS256, ES256 or EdDSA."
            ]
        ) from None


def _algorithms(key: object) -> list[str]:
    if isinstance(key, rsa.RSAPublicKey) and key.key_size >= 2048:
        return ["RS256"]
    if isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1):
        return ["ES256"]
    if isinstance(key, ed25519.Ed25519PublicKey):
        return ["EdDSA"]
    raise jwt.InvalidKeyError("no RSA key of at least 2048 bits, no P-256 key, no Ed25519 key")


class _OneKey:
    def __init__(self, key: Any, algorithms: list[str]) -> None:
        self._found = (key, algorithms)

    async def find(self, token: str) -> tuple[Any, list[str]]:
        return self._found


class _UnavailableError(Exception):
    pass


class _KeySet:
    """The keys at a URL (RFC 7517), by the key id that a token names."""

    def __init__(self, url: str) -> None:
        self._client = jwt.PyJWKClient(url, cache_jwk_set=False, timeout=JWKS_TIMEOUT_SECONDS)
        self._keys: dict[str | None, tuple[Any, list[str]]] = {}
        self._fetching = trio.Lock()
        self._fetched_at = self._tried_at = float("-inf")

    async def find(self, token: str) -> tuple[Any, list[str]]:
        kid = jwt.get_unverified_header(token).get("kid")
        stale = trio.current_time() - self._fetched_at > JWKS_LIFETIME_SECONDS
        # One bearer of a known key waits for the newer set; the others need not, however slow its server is.
        if kid not in self._keys or (stale and not self._fetching.locked()):
            async with self._fetching:  # whoever waited here may find what it needs
                await self._fetch(unless_known=kid)
        if not self._keys:
            raise _UnavailableError
        if kid not in self._keys:
            raise jwt.InvalidKeyError("no such key")
        return self._keys[kid]

    async def _fetch(self, unless_known: str | None) -> None:
        now = trio.current_time()
        fresh = now - self._fetched_at <= JWKS_LIFETIME_SECONDS
        if (unless_known in self._keys and fresh) or now - self._tried_at < JWKS_PAUSE_SECONDS:
            return
        self._tried_at = now
        try:
            # urllib in a thread, which may be left behind when the client leaves: it ends by its own timeout.
            # Whoever asked may leave meanwhile; the answer is for all.
            with trio.fail_after(JWKS_TIMEOUT_SECONDS, shield=True):
                answer = await trio.to_thread.run_sync(self._client.fetch_data, abandon_on_cancel=True)
            keys: dict[str | None, tuple[Any, list[str]]] = {}
            for found in jwt.PyJWKSet.from_dict(answer).keys:
                try:
                    keys[_key_id(found.key_id)] = (found.key, _algorithms(found.key))
                except jwt.PyJWTError:
                    continue  # for something else, or too weak
        except Exception as error:  # noqa: BLE001  whatever a server may answer
            text = " ".join(str(error).split()) or type(error).__name__
            log.warning("no keys", problem=f"SSE_JWT_JWKS_URL: {text[:200]}")
            return
        self._keys = keys
        self._fetched_at = trio.current_time()


def _key_id(value: object) -> str | None:
    if value is None or isinstance(value, str):
        return value
    raise jwt.InvalidKeyError("an id that is no text")


def _invalid(reason: str) -> Denied:
    return Denied(HTTPStatus.UNAUTHORIZED, reason, "invalid_token")


_REASONS: dict[type[Exception], str] = {
    jwt.MissingRequiredClaimError: "the token lacks a claim that is required",
    jwt.InvalidAudienceError: "the token is for another audience",
    jwt.InvalidIssuerError: "the token is of another issuer",
    jwt.ImmatureSignatureError: "the token is not valid yet",
    jwt.InvalidIssuedAtError: "the token is not valid yet",
    jwt.InvalidSignatureError: "the token's signature does not verify",
    jwt.InvalidAlgorithmError: "the token's algorithm is not that of the key",
    jwt.InvalidKeyError: "the token's key is not known",
}


def _reason(error: Exception) -> str:
    """Fixed texts: nothing of the token itself gets into a header or a log."""
    return _REASONS.get(type(error), "the token is malformed")
