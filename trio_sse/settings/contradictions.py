"""Settings that are valid alone, and contradict each other or have no effect together."""

from __future__ import annotations

import re
import ssl
from collections.abc import Iterator, Mapping

from trio_sse.settings.model import MAX_PARTITIONS, MIN_SECRET_BYTES, MIN_TOKEN_BYTES, Settings, env_name

_SINGLE = {
    "redis_host": "REDIS_HOST",
    "redis_port": "REDIS_PORT",
    "redis_username": "REDIS_USERNAME",
    "redis_password": "REDIS_PASSWORD",
    "redis_main_db": "REDIS_MAIN_DB",
}


# Not the whole list (publicsuffix.org), which changes weekly: a top level, and countries' usual second ones.
_SUFFIX = re.compile(
    r"\*\.(?!localhost\b)(?:(?:ac|co|com|edu|gov|net|org)\.[a-z]{2}|[a-z0-9-]+)(?::[0-9]+)?$"
)


def of(settings: Settings, environment: Mapping[str, str]) -> Iterator[str]:
    """One line for each contradiction. Any of them ends the start."""
    yield from _of_ours(settings)
    yield from of_redis(settings, environment)


def of_redis(settings: Settings, environment: Mapping[str, str]) -> Iterator[str]:
    """One line for each Redis setting that has no effect because of the others."""
    given = _given(settings, environment)
    has_address = bool(settings.single_server.host or settings.single_server.path)
    elsewhere = "REDIS_CLUSTER" if settings.redis_cluster else "REDIS_SENTINELS"
    if settings.redis_cluster:
        if settings.redis_sentinels:
            yield "REDIS_CLUSTER and REDIS_SENTINELS both say where Redis is: leave one out."
        if not (settings.by_key or settings.partitioned):
            yield (
                "REDIS_CLUSTER is routed by key, not shared: leave SSE_REDIS_ROUTING out, or name one node "
                "of the cluster as REDIS_HOST, which has the shared channel too."
            )
    yield from _of_stream(settings)
    if settings.redis_sentinels or settings.redis_cluster:
        if settings.redis_url is not None and has_address:
            yield (
                f"{elsewhere} and REDIS_URL both say where Redis is. Beside {elsewhere}, REDIS_URL is "
                "written without an address, such as rediss://user:password@/1, or left out."
            )
        for name in sorted(given & {"redis_host", "redis_port"}):
            yield f"{_SINGLE[name]} has no effect beside {elsewhere}, which names the address: leave it out."
    else:
        if settings.redis_url is not None and not has_address:
            yield (
                "REDIS_URL=(hidden) is not accepted: it has no host (a #, /, ? or @ in a password is written "
                "%23, %2F, %3F, %40). Accepted: redis://, rediss:// or unix:// and an address."
            )
    if not settings.redis_sentinels:
        for name in ("redis_sentinel_master", "redis_sentinel_username", "redis_sentinel_password"):
            if name in settings.model_fields_set:
                yield f"{name.upper()} has no effect without REDIS_SENTINELS: set both or none."
    if settings.redis_url is not None:
        for name in sorted(given - _same_as_url(settings)):
            if name in ("redis_host", "redis_port") and (settings.redis_sentinels or settings.redis_cluster):
                continue  # told above
            if name == "redis_main_db" and not uses_database(settings):
                continue  # harmless: see remarks()
            yield (
                f"{_SINGLE[name]} has no effect beside REDIS_URL, which does not say the same: write it "
                "there, or leave it out."
            )


def _of_stream(settings: Settings) -> Iterator[str]:
    if settings.partitioned:
        if settings.redis_stream is None:
            yield "SSE_STREAM_PARTITIONS has no effect without SSE_REDIS_STREAM: set both or none."
        if settings.redis_routing == "by-key":
            yield (
                "SSE_REDIS_ROUTING=by-key has channels, and SSE_STREAM_PARTITIONS has none: leave one out."
            )
        if settings.redis_cluster and "{" in (settings.redis_stream or ""):
            yield "SSE_REDIS_STREAM has a {, by which all its partitions would be at one node: leave it out."
        if settings.redis_stream_before is not None:
            (key, number), (before, number_before) = settings.stream_layouts
            if number_before > MAX_PARTITIONS:
                yield (
                    f"SSE_REDIS_STREAM_BEFORE has more than {MAX_PARTITIONS} partitions. If the number is a "
                    f"part of its name, write {settings.redis_stream_before}/0."
                )
            if number == number_before:
                yield "SSE_REDIS_STREAM_BEFORE and SSE_STREAM_PARTITIONS have one number: it must be another."
            if key == before and number_before:
                yield "SSE_REDIS_STREAM_BEFORE has the keys of SSE_REDIS_STREAM: name the new one otherwise."
    elif settings.redis_stream_before is not None:
        yield "SSE_REDIS_STREAM_BEFORE has no effect without SSE_STREAM_PARTITIONS: set both or none."
    elif settings.by_key and settings.redis_stream is not None:
        yield (
            "SSE_REDIS_ROUTING=by-key and REDIS_CLUSTER have channels alone: leave SSE_REDIS_STREAM out, or "
            "set SSE_STREAM_PARTITIONS."
        )


def remarks(settings: Settings, environment: Mapping[str, str]) -> Iterator[str]:
    """One line for each setting that has no effect and does no harm."""
    if settings.redis_url is not None:
        given = _given(settings, environment)
        same = given & _same_as_url(settings)
        if same:
            names = ", ".join(sorted(_SINGLE[name] for name in same))
            yield f"{names}: no effect beside REDIS_URL, which says the same"
        if "redis_main_db" in given - same and not uses_database(settings):
            yield "REDIS_MAIN_DB: no effect beside REDIS_URL; a channel has no database"
    limits = (
        settings.max_connections,
        settings.max_connections_per_user,
        settings.max_connections_per_address,
        settings.connection_rate_per_address,
    )
    if settings.limits_shared and not any(limits):
        yield "SSE_LIMITS_SHARED: no effect without a limit, such as SSE_MAX_CONNECTIONS_PER_USER"
    useless = [name for name in _ADMIN if name in settings.model_fields_set]
    if useless and settings.admin_token is None:
        yield f"{', '.join(map(env_name, useless))}: no effect without SSE_ADMIN_TOKEN"
    elif settings.auth != "jwt" and (useless := [name for name in useless if name.startswith("revo")]):
        yield f"{', '.join(map(env_name, useless))}: no effect without SSE_AUTH=jwt"
    if "limits_without_redis" in settings.model_fields_set and not settings.limits_shared:
        yield "SSE_LIMITS_WITHOUT_REDIS: no effect without SSE_LIMITS_SHARED=true"
    if settings.canary_seconds and settings.partitioned:
        yield "SSE_CANARY_SECONDS: no effect with SSE_STREAM_PARTITIONS, where nothing is subscribed"
    if settings.rebalance and settings.redis_stream is None:
        yield (
            "SSE_REBALANCE without SSE_REDIS_STREAM: each client that is moved gets a `gap`, for the process "
            "that it comes to does not know its place"
        )
    for pattern in filter(_SUFFIX.search, (*settings.cors_origins, *settings.allowed_hosts)):
        yield (
            f"{pattern} covers names that anybody can register: name your own domain (SSE_CORS_ORIGINS, "
            "SSE_ALLOWED_HOSTS)"
        )


def uses_database(settings: Settings) -> bool:
    """Whether the service uses a Redis database: for a log, idempotency keys, counts of streams, presence,
    replies, or revocations. A channel has none."""
    counts = settings.rebalance > 0 or settings.limits_shared or settings.admin_token is not None
    keys = settings.redis_stream is not None or settings.reply_lists is not None or settings.presence
    return keys or counts or bool(settings.publish_token_list)


def _given(settings: Settings, environment: Mapping[str, str]) -> set[str]:
    """The single Redis settings that the operator set. REDIS_PORT=tcp://10.0.0.1:6379 does not count:
    Kubernetes sets it beside a Service named redis."""
    given = settings.model_fields_set & _SINGLE.keys()
    if re.match(r"\w+://", environment.get("REDIS_PORT", "")):
        given.discard("redis_port")
    return given


def _same_as_url(settings: Settings) -> set[str]:
    server = settings.single_server
    password = settings.redis_password
    says = {
        "redis_host": (settings.redis_host, server.host),
        "redis_port": (settings.redis_port, server.port),
        "redis_username": (settings.redis_username, server.username),
        "redis_password": (password.get_secret_value() if password else None, server.password),
        "redis_main_db": (settings.redis_main_db, server.database or 0),
    }
    return {name for name, (single, url) in says.items() if single == url}


_ADMIN = ("explain_records", "explain_bytes", "revocation_seconds", "revoked_without_redis")

_JWT = frozenset({"public_topics", *(name for name in Settings.model_fields if name.startswith("jwt_"))})


def _of_ours(settings: Settings) -> Iterator[str]:
    """Contradictions between settings other than those of Redis."""
    if settings.auth == "jwt":
        keys = (settings.jwt_secret, settings.jwt_public_key_file, settings.jwt_jwks_url)
        if sum(key is not None for key in keys) != 1:
            yield (
                "SSE_AUTH=jwt needs one of SSE_JWT_SECRET, SSE_JWT_PUBLIC_KEY_FILE and SSE_JWT_JWKS_URL, and "
                "only one."
            )
        if settings.jwt_secret_previous is not None and settings.jwt_secret is None:
            yield "SSE_JWT_SECRET_PREVIOUS is for tokens from before SSE_JWT_SECRET, which is not set."
        for name in ("jwt_secret", "jwt_secret_previous"):
            secret = getattr(settings, name)
            if secret is not None and len(secret.get_secret_value().encode()) < MIN_SECRET_BYTES:
                yield f"{env_name(name)} is too short: at least {MIN_SECRET_BYTES} bytes (RFC 7518, 3.2)."
        if settings.jwt_user_claim == settings.jwt_topics_claim:
            yield "SSE_JWT_USER_CLAIM and SSE_JWT_TOPICS_CLAIM are one claim: a user would be a topic too."
    elif useless := [name for name in Settings.model_fields if name in settings.model_fields_set & _JWT]:
        names = ", ".join(map(env_name, useless))
        yield f"{names}: without effect, and streams open to everybody, unless SSE_AUTH=jwt is set too."
    if any(len(token.encode()) < MIN_TOKEN_BYTES for token in settings.publish_token_list):
        yield (
            f"SSE_PUBLISH_TOKENS has a token that is too short: at least {MIN_TOKEN_BYTES} bytes each "
            "(`openssl rand -hex 16` makes one)."
        )
    for name, secret in (("admin_token", settings.admin_token), ("metrics_token", settings.metrics_token)):
        token = secret.get_secret_value() if secret is not None else None
        if token is not None and len(token.encode()) < MIN_TOKEN_BYTES:
            yield (
                f"{env_name(name)} is too short: at least {MIN_TOKEN_BYTES} bytes "
                "(`openssl rand -hex 16` makes one)."
            )
        if token is not None and not (token.isascii() and token.isprintable() and " " not in token):
            yield f"{env_name(name)} has characters that no header field can have: printable ASCII, no space."
    if settings.admin_token is not None and (
        settings.admin_token.get_secret_value() in settings.publish_token_list
    ):
        yield "SSE_ADMIN_TOKEN is one of SSE_PUBLISH_TOKENS: whoever may publish could end streams."
    if settings.metrics_port and settings.metrics_port == settings.port:
        yield "SSE_METRICS_PORT and SSE_PORT are one port: choose another one, or SSE_METRICS_TOKEN instead."
    if settings.presence_topic is not None and not settings.presence:
        yield "SSE_PRESENCE_TOPIC has no effect without SSE_PRESENCE=true: set both or none."
    lists = settings.reply_lists
    for key in ("trio_sse:", settings.redis_stream, *[layout[0] for layout in settings.stream_layouts[1:]]):
        if lists is not None and key is not None and (key.startswith(lists) or lists.startswith(key)):
            yield (
                f"SSE_REPLY_LISTS={lists!r} covers {key!r}, which publishers must not write to: choose "
                "another beginning, such as replies:"
            )
    bound = {token for token, pattern in settings.publish_bindings if pattern is not None}
    if bound & {token for token, pattern in settings.publish_bindings if pattern is None}:
        yield "SSE_PUBLISH_TOKENS has a token that is bound to topics in one place and not in another."
    if (settings.tls_cert is None) != (settings.tls_key is None):
        yield "SSE_TLS_CERT and SSE_TLS_KEY go together: set both or none."
    elif settings.tls_cert is not None:
        try:
            # An empty password keeps OpenSSL from asking for one on the terminal.
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(settings.tls_cert, settings.tls_key, password=b"")
        except OSError as error:  # ssl.SSLError is one
            files = f"SSE_TLS_CERT={settings.tls_cert!r} and SSE_TLS_KEY={settings.tls_key!r}"
            yield f"{files} do not load: {error} (a key with a password cannot be used)."
