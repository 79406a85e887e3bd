"""Verifies tokens (JWT, RFC 7519): the identity that a token proves, or why it proves none."""

from __future__ import annotations

import time
from http import HTTPStatus
from typing import Any, NamedTuple

import jwt
import trio

from trio_sse.access.keys import FixedKeys, Keys, UnavailableError, read_files, secret
from trio_sse.delivery.messages import EVERYBODY, user_id_problem
from trio_sse.settings import Settings

MAX_TOKEN_BYTES = 8192

_FAR_SECONDS = 10 * 365 * 86400.0


class Identity(NamedTuple):
    """The user that a token proves, and for how many seconds from now."""

    user_id: str
    seconds: float


class Denied(NamedTuple):
    """Why no token proves a user."""

    status: int
    detail: str
    error: str | None = None
    """The error code of RFC 6750, 3.1."""


class _Token(NamedTuple):
    """A token whose header can be read. It is not verified yet."""

    text: str
    kid: str | None
    algorithm: str


class _KeyUnknown(NamedTuple):
    """No known key verifies the token. A newer key set may have its key."""

    denied: Denied


class Verifier:
    """Verifies tokens. The key decides which algorithms count, never the token."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._keys = _keys(settings)

    async def run(self) -> None:
        """Fetch keys until cancelled. Returns at once if no keys have to be fetched."""
        await self._keys.run()

    async def verify(self, *tokens: str, wanted: str | None = None) -> Identity | Denied:
        """What `tokens` prove now: the first that proves the user `wanted`, else the first that proves any
        user, else why none does. Waits only while keys are fetched.
        """
        if not tokens:
            return Denied(HTTPStatus.UNAUTHORIZED, "a token is required")
        read = [_read(token) for token in tokens]
        try:
            since = trio.current_time()
            if any(isinstance(one, _Token) for one in read):
                await self._keys.ready()
            while True:
                answers = [self._check(one) if isinstance(one, _Token) else one for one in read]
                proven = [answer for answer in answers if isinstance(answer, Identity)]
                if proven:
                    return next((one for one in proven if one.user_id == wanted), proven[0])
                unknown = any(isinstance(answer, _KeyUnknown) for answer in answers)
                if not unknown or not await self._keys.renewed(since):
                    break
        except UnavailableError:
            return Denied(HTTPStatus.SERVICE_UNAVAILABLE, "the key set cannot be fetched right now")
        first = answers[0]
        assert not isinstance(first, Identity)
        return first.denied if isinstance(first, _KeyUnknown) else first

    def _check(self, token: _Token) -> Identity | Denied | _KeyUnknown:
        """What `token` proves with the present keys."""
        denied = _invalid(_REASONS[jwt.InvalidKeyError])
        for key, algorithms, _ in self._keys.candidates(token.kid, token.algorithm):
            try:
                return self._identity(self._claims(token.text, key, algorithms))
            except (jwt.InvalidSignatureError, jwt.InvalidAlgorithmError, jwt.InvalidKeyError) as error:
                denied = _invalid(_reason(error))
            except jwt.PyJWTError as error:
                return _invalid(_reason(error))
            except (ValueError, TypeError, OverflowError, RecursionError):  # some made-up tokens raise these
                return _invalid(_MALFORMED)
        return _KeyUnknown(denied) if self._keys.may_lack(token.kid, token.algorithm) else denied

    def _claims(self, token: str, key: Any, algorithms: tuple[str, ...]) -> dict[str, Any]:
        settings = self._settings
        return jwt.decode(
            token,
            key,
            algorithms=algorithms,
            audience=settings.jwt_audience or None,
            issuer=settings.jwt_issuer,
            leeway=settings.jwt_leeway_seconds,
            # `iat` only tells the age of a token (RFC 7519, 4.1.6). `sub` may be a number.
            options={"require": ["exp"], "verify_iat": False, "verify_sub": False},
        )

    def _identity(self, claims: dict[str, Any]) -> Identity | Denied:
        """The user, until `exp` plus the leeway: a stream ends when its token could no longer open one."""
        settings = self._settings
        seconds = min(int(claims["exp"]) + settings.jwt_leeway_seconds - time.time(), _FAR_SECONDS)
        user = claims.get(settings.jwt_user_claim)
        if isinstance(user, int) and not isinstance(user, bool):
            user = str(user) if abs(user) < 10**18 else None
        if not isinstance(user, str) or user == EVERYBODY or user_id_problem(user):
            return _invalid("the token names no user (SSE_JWT_USER_CLAIM)")
        return Identity(user, seconds)


def _keys(settings: Settings) -> Keys:
    if settings.jwt_jwks_url is not None:
        from trio_sse.access.key_set import KeySet  # it imports an HTTP client, which only this needs

        return KeySet(settings.jwt_jwks_url)
    if settings.jwt_public_key_files:
        return FixedKeys(read_files(settings.jwt_public_key_files))
    secrets = (settings.jwt_secret, settings.jwt_secret_previous)
    return FixedKeys([secret(one.get_secret_value()) for one in secrets if one is not None])


def _read(token: str) -> _Token | Denied:
    if len(token) > MAX_TOKEN_BYTES:
        return _invalid(f"the token is longer than {MAX_TOKEN_BYTES} bytes")
    try:
        header = jwt.get_unverified_header(token)
    except (jwt.PyJWTError, ValueError, TypeError, OverflowError, RecursionError):
        return _invalid(_MALFORMED)
    algorithm = header.get("alg")
    if not isinstance(algorithm, str):
        return _invalid(_REASONS[jwt.InvalidAlgorithmError])
    return _Token(token, header.get("kid"), algorithm)


def _invalid(reason: str) -> Denied:
    return Denied(HTTPStatus.UNAUTHORIZED, reason, "invalid_token")


_MALFORMED = "the token is malformed"

_REASONS: dict[type[Exception], str] = {
    jwt.MissingRequiredClaimError: "the token lacks a required claim",
    jwt.ExpiredSignatureError: "the token has expired",
    jwt.InvalidAudienceError: "the token is for another audience (SSE_JWT_AUDIENCE)",
    jwt.InvalidIssuerError: "the token is from another issuer (SSE_JWT_ISSUER)",
    jwt.ImmatureSignatureError: "the token is not valid yet",
    jwt.InvalidSignatureError: "the token's signature does not verify",
    jwt.InvalidAlgorithmError: "the token's algorithm does not fit the key",
    jwt.InvalidKeyError: "the token's key is unknown",
}


def _reason(error: Exception) -> str:
    """The reason as a fixed text: no part of the token gets into a header or a log."""
    return _REASONS.get(type(error), _MALFORMED)
