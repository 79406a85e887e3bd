"""`trio-sse token`: a token for development, made as the back end would make it."""

from __future__ import annotations

import re
import time
from typing import Any

import click
import jwt

from trio_sse import options
from trio_sse.access.tokens import MAX_TOKEN_BYTES
from trio_sse.access.topics import entry_problem
from trio_sse.delivery.messages import EVERYBODY, name_problem
from trio_sse.settings import Settings
from trio_sse.settings.model import found

_PUBLIC = {"SSE_JWT_PUBLIC_KEY_FILE", "SSE_JWT_JWKS_URL"}
_USED = ("jwt_secret", "jwt_user_claim", "jwt_topics_claim", "jwt_audience", "jwt_issuer")

_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}
_LONGEST_SECONDS = 10 * 365 * 86400


@click.command()
@click.option("--user", metavar="ID", help="the user that it names")
@click.option(
    "--topics",
    "--topic",
    "topics",
    multiple=True,
    metavar="PATTERN",
    help="a topic that it grants, or a pattern such as 'orders/*' or 'orders/**'; may be repeated",
)
@click.option("--expires", default="1h", metavar="TIME", help="90s, 15m, 1h, 7d [default 1h]")
@options.for_settings(lambda name: name in _USED)
def token(user: str | None, topics: tuple[str, ...], expires: str, **given: str | None) -> None:
    """Print a token (JWT, HS256) signed with SSE_JWT_SECRET, for development.

    At least one of --user and --topics is required. aud and iss are those of SSE_JWT_AUDIENCE (the first)
    and SSE_JWT_ISSUER, if they are set.
    """
    if user is None and not topics:
        raise click.UsageError("name at least one of --user and --topics")
    if problem := None if user is None else _user_problem(user):
        raise click.UsageError(f"--user: {problem}")
    for topic in topics:
        if problem := entry_problem(topic):  # the service grants nothing by such an entry
            raise click.UsageError(f"--topics: {problem}")
    seconds = _seconds(expires)
    # The secret has no effect, which the settings refuse, unless tokens are asked for.
    settings = options.read({**given, "auth": "jwt"}) if _has_secret(given) else _without_secret()
    made = signed(settings, claims(settings, user, topics, time.time(), seconds))
    if len(made) > MAX_TOKEN_BYTES:
        options.fail(f"the token would have {len(made)} bytes; the service takes {MAX_TOKEN_BYTES}")
    click.echo(made)


def claims(
    settings: Settings, user: str | None, topics: tuple[str, ...], now: float, seconds: int
) -> dict[str, Any]:
    """What the token says."""
    said: dict[str, Any] = {"iat": int(now), "exp": int(now) + seconds}
    if user is not None:
        said[settings.jwt_user_claim] = user
    if topics:
        said[settings.jwt_topics_claim] = list(dict.fromkeys(topics))
    if settings.jwt_audience:
        said["aud"] = settings.jwt_audience[0]
    if settings.jwt_issuer is not None:
        said["iss"] = settings.jwt_issuer
    return said


def signed(settings: Settings, said: dict[str, Any]) -> str:
    assert settings.jwt_secret is not None  # the settings have it, or were refused
    try:
        return jwt.encode(said, settings.jwt_secret.get_secret_value(), algorithm="HS256")
    except jwt.InvalidKeyError:
        options.fail("SSE_JWT_SECRET looks like a key of another kind: PyJWT signs nothing with it")


def _user_problem(user: str) -> str | None:
    return "it means everybody" if user == EVERYBODY else name_problem("it", user)


def _seconds(text: str) -> int:
    match = re.fullmatch("([0-9]{1,9})([smhd]?)", text)
    seconds = int(match[1]) * _UNITS[match[2]] if match else 0
    if not 0 < seconds <= _LONGEST_SECONDS:
        raise click.UsageError("--expires: a time such as 90s, 15m, 1h or 7d, up to ten years")
    return seconds


def _has_secret(given: dict[str, str | None]) -> bool:
    return given.get("jwt_secret_file") is not None or "SSE_JWT_SECRET" in found().values


def _without_secret() -> Settings:
    if public := sorted(_PUBLIC & found().values.keys()):
        options.fail(
            f"{public[0]} is set: tokens are verified with public keys, and only who has the private key can "
            "make one. For development, set SSE_JWT_SECRET instead"
        )
    options.fail(
        "SSE_JWT_SECRET is not set: the token is signed with it, as the service verifies it with it "
        "(at least 32 bytes; `openssl rand -hex 32` makes one)"
    )
