"""REDIS_… settings that are fine alone and wrong, or without effect, together."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trio_sse.settings import Settings

_SINGLE = {
    "redis_host": "REDIS_HOST",
    "redis_port": "REDIS_PORT",
    "redis_username": "REDIS_USERNAME",
    "redis_password": "REDIS_PASSWORD",
    "redis_main_db": "REDIS_MAIN_DB",
}


def of_redis(settings: Settings, environment: Mapping[str, str]) -> Iterator[str]:
    """One line for each setting that the others leave without the effect that was meant."""
    given = _given(settings, environment)
    if settings.redis_sentinels:
        if settings.redis_url is not None and (settings.redis_server.host or settings.redis_server.path):
            yield (
                "REDIS_SENTINELS and REDIS_URL both say where Redis is. Beside REDIS_SENTINELS, REDIS_URL is "
                "written without an address, such as rediss://user:password@/1, or left out."
            )
        for name in sorted(given & {"redis_host", "redis_port"}):
            yield f"{_SINGLE[name]} has no effect beside REDIS_SENTINELS, who know better: leave it out."
    else:
        if settings.redis_url is not None and not (settings.redis_server.host or settings.redis_server.path):
            yield (
                "REDIS_URL=(hidden) is not accepted: it has no host (a #, /, ? or @ in a password is written "
                "%23, %2F, %3F, %40). Accepted: redis://, rediss:// or unix:// and an address."
            )
        for name in ("redis_sentinel_master", "redis_sentinel_username", "redis_sentinel_password"):
            if name in settings.model_fields_set:
                yield f"{name.upper()} has no effect without REDIS_SENTINELS: set both or none."
    if settings.redis_url is not None:
        for name in sorted(given - _same_as_url(settings)):
            if name in ("redis_host", "redis_port") and settings.redis_sentinels:
                continue  # told above
            if name == "redis_main_db" and not uses_database(settings):
                continue  # harmless: see remarks()
            yield (
                f"{_SINGLE[name]} has no effect beside REDIS_URL, which does not say the same: write it "
                "there, or leave it out."
            )


def remarks(settings: Settings, environment: Mapping[str, str]) -> Iterator[str]:
    """One line for what has no effect and does no harm."""
    if settings.redis_url is not None:
        given = _given(settings, environment)
        same = given & _same_as_url(settings)
        if same:
            names = ", ".join(sorted(_SINGLE[name] for name in same))
            yield f"{names}: no effect beside REDIS_URL, which says the same"
        if "redis_main_db" in given - same and not uses_database(settings):
            yield "REDIS_MAIN_DB: no effect beside REDIS_URL; a channel has no database"


def uses_database(settings: Settings) -> bool:
    """Whether anything here lives in a database: a stream, idempotency keys. A channel does not."""
    return settings.redis_stream is not None or bool(settings.publish_token_list)


def _given(settings: Settings, environment: Mapping[str, str]) -> set[str]:
    """Those of the single settings that the operator set. Kubernetes sets REDIS_PORT=tcp://10.0.0.1:6379 by
    itself beside a Service named redis."""
    given = settings.model_fields_set & _SINGLE.keys()
    if re.match(r"\w+://", environment.get("REDIS_PORT", "")):
        given.discard("redis_port")
    return given


def _same_as_url(settings: Settings) -> set[str]:
    server = settings.redis_server
    password = settings.redis_password
    says = {
        "redis_host": (settings.redis_host, server.host),
        "redis_port": (settings.redis_port, server.port),
        "redis_username": (settings.redis_username, server.username),
        "redis_password": (password.get_secret_value() if password else None, server.password),
        "redis_main_db": (settings.redis_main_db, server.database or 0),
    }
    return {name for name, (single, url) in says.items() if single == url}
