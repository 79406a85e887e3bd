"""Verifies tokens (JWT, RFC 7519): the identity that a token proves, or why it proves none."""

from __future__ import annotations

import time
from base64 import urlsafe_b64decode
from collections.abc import Callable
from http import HTTPStatus
from typing import Any, NamedTuple

import jwt
import msgspec
import trio

from trio_sse.access.keys import FixedKeys, Keys, UnavailableError, read_files, secret
from trio_sse.access.quick_jwt import QuickJWT
from trio_sse.access.revocations import Revocations
from trio_sse.access.topics import NOTHING, Grants, entry_problem
from trio_sse.delivery.messages import EVERYBODY, user_id_problem
from trio_sse.settings import Settings

MAX_TOKEN_BYTES = 8192

_FAR_SECONDS = 10 * 365 * 86400.0


class Identity(NamedTuple):
    """What a token proves, and for how many seconds from now."""

    user_id: str | None
    """None: it names no user, and grants topics."""
    seconds: float
    grants: Grants = NOTHING
    """The topics that it grants."""
    jti: str | None = None
    """Its name among all tokens (RFC 7519, 4.1.7)."""
    issued_at: float | None = None
    """Its `iat`, in seconds since 1970."""


class Denied(NamedTuple):
    """Why no token proves anything."""

    status: int
    detail: str
    error: str | None = None
    """The error code of RFC 6750, 3.1."""


class _Header(msgspec.Struct):
    """What keys are found by. Nothing else rests on it."""

    alg: str
    kid: str | None = None


class Verifier:
    """Verifies tokens. The key decides which algorithms count, never the token."""

    def __init__(self, settings: Settings, revocations: Revocations | None = None) -> None:
        self._settings = settings
        self._revocations = revocations
        self._keys = _keys(settings)
        # `iat` only tells the age of a token (RFC 7519, 4.1.6). `sub` may be a number.
        self._jwt = QuickJWT({"require": ["exp"], "verify_iat": False, "verify_sub": False})
        self._audience = settings.jwt_audience or None

    async def run(self) -> None:
        """Fetch keys until cancelled. Returns at once if no keys have to be fetched."""
        await self._keys.run()

    async def verify(self, *tokens: str, suits: Callable[[Identity], bool] = bool) -> Identity | Denied:
        """As `verify_now`, but with keys that are fetched if need be. Waits only while they are."""
        since = trio.current_time()
        newest = False
        try:
            while (answer := self.verify_now(*tokens, suits=suits, newest=newest)) is None:
                if self._keys.usable():
                    newest = await self._keys.renewed(since)
                else:
                    await self._keys.ready()
        except UnavailableError:
            return Denied(HTTPStatus.SERVICE_UNAVAILABLE, "the key set cannot be fetched right now")
        return answer

    def verify_now(
        self, *tokens: str, suits: Callable[[Identity], bool] = bool, newest: bool = False
    ) -> Identity | Denied | None:
        """What `tokens` prove now: the first that `suits`, else the first that proves anything, else why
        none does. None: keys have to be fetched first. They need not be for a token whose key is
        unknown if the present keys are the `newest`.
        """
        if not tokens:
            return Denied(HTTPStatus.UNAUTHORIZED, "a token is required")
        proven: Identity | None = None
        denied: Denied | None = None
        lacking = False
        for token in tokens:
            answer = self._check(token, newest)
            if answer is None:
                lacking = True
            elif isinstance(answer, Denied):
                denied = denied or answer
            elif suits(answer):
                return answer
            else:
                proven = proven or answer
        return proven or (None if lacking else denied)

    def _check(self, token: str, newest: bool) -> Identity | Denied | None:
        """What `token` proves with the present keys. None: its key may be among newer ones."""
        if len(token) > MAX_TOKEN_BYTES:
            return _invalid(f"the token is longer than {MAX_TOKEN_BYTES} bytes")
        header = _header(token)
        if isinstance(header, Denied):
            return header
        usable = self._keys.usable()
        candidates = self._keys.candidates(header.kid, header.alg) if usable else ()
        if not candidates and isinstance(judged := _judged_header(token), Denied):
            return judged
        denied = _NO_KEY
        for key in candidates:
            try:
                decoded = self._jwt.decode_complete(
                    token,
                    key.for_algorithm(header.alg),
                    algorithms=key.algorithms,
                    audience=self._audience,
                    issuer=self._settings.jwt_issuer,
                    leeway=self._settings.jwt_leeway_seconds,
                )
                return self._identity(decoded["payload"])
            except (jwt.InvalidSignatureError, jwt.InvalidAlgorithmError, jwt.InvalidKeyError) as error:
                denied = _invalid(_reason(error))
            except jwt.PyJWTError as error:
                return _invalid(_reason(error))
            except (ValueError, TypeError, OverflowError, RecursionError):  # some made-up tokens raise these
                return _invalid(_MALFORMED)
        lacking = not usable or (not newest and self._keys.may_lack(header.kid, header.alg))
        return None if lacking else denied

    def _identity(self, claims: dict[str, Any]) -> Identity | Denied:
        """The user and the topics, until `exp` plus the leeway: a stream ends when its token could no longer
        open one."""
        settings = self._settings
        seconds = min(int(claims["exp"]) + settings.jwt_leeway_seconds - time.time(), _FAR_SECONDS)
        grants = _granted(claims.get(settings.jwt_topics_claim))
        jti, issued_at = names_of(claims)
        user = claims.get(settings.jwt_user_claim)
        if user is None:
            if self._revocations is not None and self._revocations.covers(None, jti, issued_at):
                return _REVOKED
            return Identity(None, seconds, grants, jti, issued_at) if grants else _NOBODY
        if isinstance(user, int) and not isinstance(user, bool):
            user = str(user) if abs(user) < 10**18 else None
        if not isinstance(user, str) or user == EVERYBODY or user_id_problem(user):
            return _invalid("the token names no user (SSE_JWT_USER_CLAIM)")
        if self._revocations is not None and self._revocations.covers(user, jti, issued_at):
            return _REVOKED
        return Identity(user, seconds, grants, jti, issued_at)


def names_of(claims: dict[str, Any]) -> tuple[str | None, float | None]:
    """`jti` and `iat`, where they are what RFC 7519 wants them to be (4.1.6, 4.1.7)."""
    jti, issued_at = claims.get("jti"), claims.get("iat")
    if not isinstance(issued_at, int | float) or isinstance(issued_at, bool) or not abs(issued_at) < 1e12:
        issued_at = None
    return jti if isinstance(jti, str) else None, issued_at


def _granted(claim: object) -> Grants:
    """The topics that a claim grants. What in it is neither a name nor a pattern grants nothing."""
    if claim is None:
        return NOTHING
    entries = claim if isinstance(claim, list) else [claim]
    return Grants(one for one in entries if isinstance(one, str) and entry_problem(one) is None)


def _keys(settings: Settings) -> Keys:
    if settings.jwt_jwks_url is not None:
        from trio_sse.access.key_set import KeySet  # it imports an HTTP client, which only this needs

        return KeySet(settings.jwt_jwks_url)
    if settings.jwt_public_key_files:
        return FixedKeys(read_files(settings.jwt_public_key_files))
    secrets = (settings.jwt_secret, settings.jwt_secret_previous)
    return FixedKeys([secret(one.get_secret_value()) for one in secrets if one is not None])


_read_header = msgspec.json.Decoder(_Header).decode


def _header(token: str) -> _Header | Denied:
    """The header of a token that is not verified yet, without the checks of the whole token that PyJWT makes
    before it shows a header: it makes them again when it verifies the token."""
    try:
        return _read_header(urlsafe_b64decode(token.partition(".")[0] + "=="))
    except (ValueError, RecursionError):
        return _judged_header(token)


def _judged_header(token: str) -> _Header | Denied:
    """The header as PyJWT reads it, or why it does not."""
    try:
        header = jwt.get_unverified_header(token)
    except (jwt.PyJWTError, ValueError, TypeError, OverflowError, RecursionError):
        return _invalid(_MALFORMED)
    algorithm = header.get("alg")
    if not isinstance(algorithm, str):
        return _invalid(_REASONS[jwt.InvalidAlgorithmError])
    return _Header(algorithm, header.get("kid"))


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


_NOBODY = _invalid("the token names no user (SSE_JWT_USER_CLAIM) and grants no topic (SSE_JWT_TOPICS_CLAIM)")

_REVOKED = _invalid("the token is revoked")

_NO_KEY = _invalid(_REASONS[jwt.InvalidKeyError])


def _reason(error: Exception) -> str:
    """The reason as a fixed text: no part of the token gets into a header or a log."""
    return _REASONS.get(type(error), _MALFORMED)
