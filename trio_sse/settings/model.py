"""Every setting of the service, and the only reader of the environment (by `environment`)."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Annotated, Any, Literal

from pydantic import Field, PrivateAttr, SecretStr, ValidationInfo, field_validator
from pydantic.fields import FieldInfo
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from trio_sse.settings import environment
from trio_sse.settings.origins import normal_host, normal_origin
from trio_sse.settings.redis_url import MAX_DATABASE, RedisServer, RedisURLError, parse

UNIX: Literal["unix"] = "unix"
"""Among trusted proxies: every peer at a Unix socket."""

Proxy = IPv4Network | IPv6Network | Literal["unix"]

_ROOT_PATH = re.compile(r"(/(?!\.{1,2}(/|$))[A-Za-z0-9._~!$&'()*+,;=:@-]+)*")
_NODE = re.compile(r"(rediss?://)?(\[[0-9a-fA-F:.]+\]|[^\s:/@?#]+)(:[0-9]{1,5})?(\?[^\s,]+)?", re.IGNORECASE)

_LOGIN = "REDIS_USERNAME and REDIS_PASSWORD"
_SENTINEL_LOGIN = "REDIS_SENTINEL_USERNAME and REDIS_SENTINEL_PASSWORD"

SENTINEL_PORT = 26379
REDIS_PORT = 6379

_BOUND = re.compile(r"([^=]+=*)=([^=].*)")
_HEADER_NAME = re.compile(r"[-!#$%&'+.^_`|~0-9A-Za-z]+")  # RFC 9110, 5.6.2, but for *

MAX_PARTITIONS = 1024

MIN_SECRET_BYTES = 32
MIN_TOKEN_BYTES = 16


class SettingsError(Exception):
    """Settings that cannot be used. `lines` has one line per mistake, without secrets."""

    def __init__(self, lines: list[str]) -> None:
        super().__init__("; ".join(lines))
        self.lines = lines


def _listed(value: str) -> Iterator[str]:
    """The parts of a comma list. Line ends separate too: files have one token per line."""
    return filter(None, map(str.strip, re.split(r"[,\r\n]", value)))


FORMER_NAMES = {"SSE_DIRECT": "SSE_DOOR"}
"""Former names of settings. They still work."""


def _setting(env: str, default: Any, meaning: str, accepts: str, **constraints: Any) -> Any:
    return Field(
        default,
        validation_alias=env,
        description=meaning,
        json_schema_extra={"accepts": accepts},
        **constraints,
    )


def _number(env: str, default: float, meaning: str, least: float, most: float, unit: str = "a number") -> Any:
    """A setting that is a number within bounds."""
    return _setting(env, default, meaning, f"{unit} from {least} to {most}", ge=least, le=most)


_seconds = partial(_number, unit="seconds,")
_bytes = partial(_number, unit="bytes,")


class Settings(BaseSettings):
    """All settings. `--help` and docs/settings.md have them in the order of the fields."""

    model_config = SettingsConfigDict(
        frozen=True,
        extra="ignore",
        populate_by_name=True,
    )
    _notices: tuple[str, ...] = PrivateAttr(())

    host: str = _setting(
        "SSE_HOST", "0.0.0.0", "address to listen on", "an address, a host name, unix:/path or fd://3"
    )
    port: int = _setting(
        "SSE_PORT", 8085, "port to listen on", "a number from 0 (any free port) to 65535", ge=0, le=65535
    )
    root_path: str = _setting(
        "SSE_ROOT_PATH",
        "",
        "path the service is under, whether or not a proxy removes it",
        "a path such as /notify",
    )
    redis_channel: str = _setting(
        "SSE_REDIS_CHANNEL", "notifications", "Redis channel to subscribe to", "a name", min_length=1
    )
    redis_routing: Literal["shared", "by-key"] = _setting(
        "SSE_REDIS_ROUTING",
        "shared",
        "one channel for all, or one for each user and topic: notifications:user:42, "
        "notifications:topic:news, notifications:all",
        "shared or by-key",
    )
    redis_stream: str | None = _setting(
        "SSE_REDIS_STREAM",
        None,
        "Redis stream to read beside the channel, from which nothing is lost",
        "a key",
    )
    stream_partitions: int = _number(
        "SSE_STREAM_PARTITIONS",
        0,
        "over how many keys the Redis stream is spread: <stream>:{0}, <stream>:{1} … instead of the channel; "
        "0: it is one key",
        0,
        MAX_PARTITIONS,
    )
    redis_stream_before: str | None = _setting(
        "SSE_REDIS_STREAM_BEFORE",
        None,
        "the stream that this one replaces, and its partitions: it is read too",
        "a key, or a key and a number such as notes/8",
        pattern=r"^.*[^/](/[0-9]{1,4})?$",
    )
    heartbeat_seconds: float = _setting(
        "SSE_HEARTBEAT_SECONDS",
        30.0,
        "seconds between two heartbeats of a connection",
        "seconds, above 0 and up to 3600",
        gt=0,
        le=3600,
    )
    buffer: int = _number("SSE_BUFFER", 10, "messages that may wait for a slow client", 1, 100_000)
    slow_client: Literal["gap", "disconnect"] = _setting(
        "SSE_SLOW_CLIENT",
        "gap",
        "what happens beyond that: drop and tell, or end the stream for a resume",
        "gap or disconnect",
    )
    history_messages: int = _number(
        "SSE_HISTORY_MESSAGES",
        10_000,
        "messages kept for clients that come back, of all users together",
        0,
        10_000_000,
    )
    history_seconds: float = _seconds("SSE_HISTORY_SECONDS", 300.0, "how long they are kept", 0, 86_400)
    history_bytes: int = _bytes("SSE_HISTORY_BYTES", 67_108_864, "memory they may take", 0, 68_719_476_736)
    snapshot_keys: int = _number(
        "SSE_SNAPSHOT_KEYS",
        10_000,
        "keys whose newest message is kept, for streams that begin with a snapshot",
        0,
        10_000_000,
    )
    snapshot_bytes: int = _bytes("SSE_SNAPSHOT_BYTES", 16_777_216, "memory they may take", 0, 68_719_476_736)
    replay_limit: int = _number(
        "SSE_REPLAY_LIMIT",
        10_000,
        "entries of the stream looked through for clients that were away longer",
        0,
        10_000_000,
    )
    cors_origins: Annotated[tuple[str, ...], NoDecode] = _setting(
        "SSE_CORS_ORIGINS",
        ("*",),
        "origins whose pages may connect; cookies only with a list",
        "* or a comma list such as https://a.example,https://*.b.example:8443,capacitor://localhost",
    )
    cors_headers: Annotated[tuple[str, ...], NoDecode] = _setting(
        "SSE_CORS_HEADERS",
        (),
        "header fields that their requests may have beside the usual ones",
        "a comma list of names such as X-Requested-With,traceparent",
    )
    allowed_hosts: Annotated[tuple[str, ...], NoDecode] = _setting(
        "SSE_ALLOWED_HOSTS",
        ("*",),
        "names that requests may have as Host, against DNS rebinding",
        "* or a comma list of names such as sse.example,*.b.example; addresses and localhost always may",
    )
    auth: Literal["none", "jwt"] = _setting(
        "SSE_AUTH",
        "none",
        "who may read: anybody whatever user_id and topics they ask for, or as a token says",
        "none or jwt",
    )
    jwt_secret: SecretStr | None = _setting(
        "SSE_JWT_SECRET",
        None,
        "secret that tokens are signed with (HS256; from 48 bytes HS384, from 64 HS512)",
        "at least 32 bytes",
    )
    jwt_secret_previous: SecretStr | None = _setting(
        "SSE_JWT_SECRET_PREVIOUS",
        None,
        "the former secret, while its tokens are valid",
        "at least 32 bytes",
    )
    jwt_public_key_file: str | None = _setting(
        "SSE_JWT_PUBLIC_KEY_FILE",
        None,
        "or the keys they are verified with (RS256, PS256, ES256, those with 384 and 512, EdDSA)",
        "a comma list of PEM files, each with one key or several",
        pattern=r"[^,\s]",
    )
    jwt_jwks_url: str | None = _setting(
        "SSE_JWT_JWKS_URL",
        None,
        "or the address of a key set (JWKS)",
        "an http:// or https:// address",
        pattern=r"^https?://\S+$",
    )
    jwt_audience: Annotated[tuple[str, ...], NoDecode] = _setting(
        "SSE_JWT_AUDIENCE",
        (),
        "`aud` a token must have, one of these; where it is not set, a token with `aud` is refused",
        "a comma list",
    )
    jwt_issuer: str | None = _setting("SSE_JWT_ISSUER", None, "`iss` a token must have", "any text")
    jwt_leeway_seconds: float = _seconds(
        "SSE_JWT_LEEWAY_SECONDS",
        30.0,
        "by how much clocks may differ: `exp` counts later, `nbf` earlier",
        0,
        600,
    )
    jwt_user_claim: str = _setting("SSE_JWT_USER_CLAIM", "sub", "claim that names the user", "a name")
    jwt_topics_claim: str = _setting(
        "SSE_JWT_TOPICS_CLAIM", "topics", "claim that grants topics: a list, or one", "a name"
    )
    jwt_cookie: str | None = _setting(
        "SSE_JWT_COOKIE",
        None,
        "cookie that may hold the token, since EventSource can set no header",
        "a name",
    )
    jwt_query: bool = _setting(
        "SSE_JWT_QUERY", False, "whether ?access_token= may hold it; other logs may show it", "true or false"
    )
    public_topics: Annotated[tuple[str, ...], NoDecode] = _setting(
        "SSE_PUBLIC_TOPICS",
        (),
        "topics that everybody may read, without a token too",
        "a comma list of names and patterns such as news,orders/*,chat/**",
    )
    public_position: bool = _setting(
        "SSE_PUBLIC_POSITION",
        False,
        "whether everybody may ask GET /position; without it only bearers of a publish token",
        "true or false",
    )
    publish_tokens: SecretStr | None = _setting(
        "SSE_PUBLISH_TOKENS",
        None,
        "tokens with which POST /publish may be used; without any there is none",
        "a comma list, each of at least 16 bytes; =orders/** behind one binds it to such topics",
    )
    stream_length: int = _number(
        "SSE_STREAM_LENGTH",
        100_000,
        "about how many entries POST /publish leaves in SSE_REDIS_STREAM, or in each of its partitions",
        1,
        1_000_000_000,
    )
    presence: bool = _setting(
        "SSE_PRESENCE",
        False,
        "whether Redis is kept told who is here, over all nodes, for GET /presence",
        "true or false",
    )
    presence_topic: str | None = _setting(
        "SSE_PRESENCE_TOPIC",
        None,
        "topic that is told who comes online and who goes offline",
        "a name such as presence",
        min_length=1,
    )
    presence_grace_seconds: float = _seconds(
        "SSE_PRESENCE_GRACE_SECONDS",
        10.0,
        "how long a user may be away, to load a page again, and still count as here",
        0,
        3600,
    )
    reply_lists: str | None = _setting(
        "SSE_REPLY_LISTS",
        None,
        "how the names of Redis lists begin in which a message with `reply_to` may ask what became of it; "
        "without it none may",
        "a text such as replies:",
        min_length=1,
    )
    admin_token: SecretStr | None = _setting(
        "SSE_ADMIN_TOKEN",
        None,
        "token for /admin, GET /explain, POST /disconnect and POST /revoke, the same in all processes; "
        "without it there are none, and nothing is recorded",
        "at least 16 bytes",
    )
    explain_records: int = _number(
        "SSE_EXPLAIN_RECORDS",
        20_000,
        "messages, and as many ended streams and refusals, that are remembered for GET /explain",
        0,
        1_000_000,
    )
    explain_bytes: int = _bytes("SSE_EXPLAIN_BYTES", 16_777_216, "memory they may take", 0, 1_073_741_824)
    revocation_seconds: int = _seconds(
        "SSE_REVOCATION_SECONDS",
        2_592_000,
        "how long a revocation is kept: at least as long as the longest life of a token",
        60,
        315_360_000,
    )
    revoked_without_redis: Literal["open", "closed"] = _setting(
        "SSE_REVOKED_WITHOUT_REDIS",
        "open",
        "while Redis is away, tokens count unless they are known to be revoked, or none opens a stream",
        "open or closed",
    )
    max_topics: int = _number("SSE_MAX_TOPICS", 100, "topics that one stream may follow", 1, 10_000)
    max_connections: int = _number(
        "SSE_MAX_CONNECTIONS", 0, "streams of one process at a time; 0: no limit", 0, 10_000_000
    )
    max_connections_per_user: int = _number(
        "SSE_MAX_CONNECTIONS_PER_USER", 0, "of one user; 0: no limit", 0, 10_000_000
    )
    max_connections_per_address: int = _number(
        "SSE_MAX_CONNECTIONS_PER_ADDRESS", 0, "of one IPv4 address or IPv6 /64; 0: no limit", 0, 10_000_000
    )
    connection_rate_per_address: float = _number(
        "SSE_CONNECTION_RATE_PER_ADDRESS",
        0.0,
        "new streams per second of one address; 0: no limit",
        0,
        1_000_000,
    )
    limits_shared: bool = _setting(
        "SSE_LIMITS_SHARED",
        False,
        "whether limits of streams hold over all workers and nodes together, counted in Redis",
        "true or false",
    )
    limits_without_redis: Literal["open", "closed"] = _setting(
        "SSE_LIMITS_WITHOUT_REDIS",
        "open",
        "while Redis is away, each process has limits of its own, or lets nobody in",
        "open or closed",
    )
    trusted_proxies: Annotated[tuple[Proxy, ...], NoDecode] = _setting(
        "SSE_TRUSTED_PROXIES",
        (),
        "proxies whose Forwarded or X-Forwarded-For tells the client's address",
        "a comma list of addresses and networks such as 10.0.0.0/8,::1; unix: the peer at a Unix socket",
    )
    metrics_token: SecretStr | None = _setting(
        "SSE_METRICS_TOKEN",
        None,
        "token for GET /metrics, and for the counts of GET /readyz",
        "at least 16 bytes",
    )
    metrics_port: int = _number("SSE_METRICS_PORT", 0, "port of its own for GET /metrics; 0: none", 0, 65535)
    canary_seconds: float = _seconds(
        "SSE_CANARY_SECONDS",
        0.0,
        "how often the service publishes a message to itself, and is not ready if it does not come back; "
        "0: never",
        0,
        3600,
    )
    traces_per_second: int = _number(
        "SSE_TRACES_PER_SECOND",
        0,
        "messages with a sampled `traceparent` that are traced for OpenTelemetry, at most, by each process; "
        "it needs the extra `trio-sse[otel]`; 0: none",
        0,
        1000,
    )
    tls_cert: str | None = _setting(
        "SSE_TLS_CERT",
        None,
        "certificate chain, for https and HTTP/2; taken up anew when it changes",
        "a PEM file",
    )
    tls_key: str | None = _setting("SSE_TLS_KEY", None, "its key", "a PEM file")
    write_timeout_seconds: float = _seconds(
        "SSE_WRITE_TIMEOUT_SECONDS", 20.0, "a client that takes nothing for so long is cut off", 1, 3600
    )
    drain_seconds: float = _seconds(
        "SSE_DRAIN_SECONDS", 5.0, "SIGTERM ends the streams spread over so long; 0: at once", 0, 3600
    )
    max_stream_seconds: float = _seconds(
        "SSE_MAX_STREAM_SECONDS",
        0.0,
        "longest life of a stream, which gets 80 to 100 % of it; 0: no end",
        0,
        31_536_000,
    )
    rebalance: float = _number(
        "SSE_REBALANCE",
        0.0,
        "a process with so much more than the mean of all sheds streams slowly, 0.1: 10 % more; 0: never",
        0,
        10,
    )
    max_message_bytes: int = _bytes(
        "SSE_MAX_MESSAGE_BYTES", 65536, "largest message accepted from Redis", 64, 16_777_216
    )
    workers: int = _number(
        "SSE_WORKERS", 1, "worker processes, each with all messages and its own connections", 1, 256
    )
    direct: bool = _setting(
        "SSE_DIRECT", True, "serve streams on their own sockets, past Hypercorn and Quart", "true or false"
    )
    doctor: bool = _setting(
        "SSE_DOCTOR",
        False,
        "serve /doctor, a page that measures what proxies do to streams",
        "true or false",
    )
    log_format: Literal["console", "json"] = _setting(
        "SSE_LOG_FORMAT", "console", "how log lines look", "console or json"
    )
    log_level: Literal["debug", "info", "warning", "error"] = _setting(
        "SSE_LOG_LEVEL", "info", "least important lines shown", "debug, info, warning or error"
    )
    log_streams: bool = _setting(
        "SSE_LOG_STREAMS", False, "a log line for each stream that ends", "true or false"
    )
    redis_host: str = _setting("REDIS_HOST", "127.0.0.1", "Redis host", "an address or a host name")
    redis_port: int = _number("REDIS_PORT", 6379, "Redis port", 1, 65535)
    redis_username: str | None = _setting("REDIS_USERNAME", None, "Redis user (ACL)", "a name")
    redis_password: SecretStr | None = _setting("REDIS_PASSWORD", None, "Redis password", "any text")
    redis_main_db: int = _setting(
        "REDIS_MAIN_DB",
        1,
        "Redis database of stream and idempotency keys; 0 where there is no other",
        "a number from 0 to 65535",
        ge=0,
        le=MAX_DATABASE,
    )
    redis_url: SecretStr | None = _setting(
        "REDIS_URL",
        None,
        "Redis address, instead of the single settings",
        "redis://, rediss:// or unix:// and an address, such as rediss://user:password@host:6379/1",
    )

    redis_cluster: Annotated[tuple[str, ...], NoDecode] = _setting(
        "REDIS_CLUSTER",
        (),
        "nodes of a cluster, some or all, instead of host and port; it is routed by key, unless "
        "SSE_STREAM_PARTITIONS is set",
        "a comma list of host or host:port, with rediss:// in front for TLS, such as 10.0.0.1:7000,10.0.0.2",
    )
    redis_sentinels: Annotated[tuple[str, ...], NoDecode] = _setting(
        "REDIS_SENTINELS",
        (),
        "Sentinels that know where the master is, instead of host and port",
        "a comma list of host or host:port, with rediss:// in front for TLS, such as 10.0.0.1,rediss://10.0.0.2:26380",
    )
    redis_sentinel_master: str = _setting(
        "REDIS_SENTINEL_MASTER", "mymaster", "the master's name there", "a name", min_length=1
    )
    redis_sentinel_username: str | None = _setting(
        "REDIS_SENTINEL_USERNAME", None, "user of the Sentinels (ACL)", "a name"
    )
    redis_sentinel_password: SecretStr | None = _setting(
        "REDIS_SENTINEL_PASSWORD", None, "password of the Sentinels", "any text"
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Fields are read by their aliases only: HOST and PORT belong to other programs."""
        return init_settings, _Environment(settings_cls)

    @field_validator("root_path")
    @classmethod
    def _path(cls, value: str) -> str:
        value = value.strip("/") and f"/{value.strip('/')}"
        if not _ROOT_PATH.fullmatch(value):
            raise ValueError("not a path")
        return value

    @field_validator("redis_cluster", "redis_sentinels", mode="before")
    @classmethod
    def _nodes(cls, value: Any, info: ValidationInfo) -> Any:
        if isinstance(value, str):
            value = tuple(_listed(value))
        cluster = info.field_name == "redis_cluster"
        if any("@" in address for address in value):
            raise RedisURLError(f"user and password are {_LOGIN if cluster else _SENTINEL_LOGIN}")
        if not all(_NODE.fullmatch(address) for address in value):
            raise ValueError("not a list of hosts")
        for address in value:
            if cluster:
                _node(address, REDIS_PORT, _LOGIN)
            else:
                _sentinel(address)
        return value

    @field_validator("trusted_proxies", mode="before")
    @classmethod
    def _networks(cls, value: Any) -> Any:
        if isinstance(value, str):
            value = tuple(
                UNIX if part.lower() == UNIX else ip_network(part, strict=False) for part in _listed(value)
            )
        return value

    @field_validator(
        "auth",
        "limits_without_redis",
        "revoked_without_redis",
        "log_format",
        "log_level",
        "redis_routing",
        "slow_client",
        mode="before",
    )
    @classmethod
    def _lower(cls, value: Any) -> Any:
        return value.lower() if isinstance(value, str) else value

    @field_validator("cors_origins", mode="before")
    @classmethod
    def _origins(cls, value: Any) -> Any:
        if isinstance(value, str):
            value = tuple(_listed(value))
        if not value or ("*" in value and len(value) > 1):
            raise ValueError("no list of origins; * stands alone")
        return tuple("*" if part == "*" else normal_origin(part) for part in value)

    @field_validator("allowed_hosts", mode="before")
    @classmethod
    def _hosts(cls, value: Any) -> Any:
        if isinstance(value, str):
            value = tuple(_listed(value))
        if not value or ("*" in value and len(value) > 1):
            raise ValueError("no list of names; * stands alone")
        return tuple("*" if part == "*" else normal_host(part) for part in value)

    @field_validator("cors_headers", "jwt_audience", "public_topics", mode="before")
    @classmethod
    def _names(cls, value: Any) -> Any:
        return tuple(_listed(value)) if isinstance(value, str) else value

    @field_validator("cors_headers")
    @classmethod
    def _header_names(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not all(_HEADER_NAME.fullmatch(name) for name in value):
            raise ValueError("not a list of header names")
        return value

    @field_validator("redis_url")
    @classmethod
    def _url(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            parse(value.get_secret_value(), host_needed=False)
        return value

    @field_validator("*", mode="before")  # pydantic runs the last one defined first
    @classmethod
    def _usable(cls, value: Any) -> Any:
        if isinstance(value, environment.Refused):
            raise ValueError(value.reason)  # noqa: TRY004  what pydantic takes for a mistake
        return value

    @property
    def notices(self) -> tuple[str, ...]:
        """Remarks for the log, a line each: settings without effect, or with another than it seems."""
        return self._notices

    @property
    def by_key(self) -> bool:
        """Whether each user and topic has a channel of its own. In a cluster they have unless the operator
        says otherwise."""
        chosen = "redis_routing" in self.model_fields_set
        cluster = bool(self.redis_cluster) and not self.partitioned and not chosen
        return self.redis_routing == "by-key" or cluster

    @property
    def partitioned(self) -> bool:
        """Whether messages come by a Redis stream in several keys, and not by channels."""
        return self.stream_partitions > 0

    @property
    def stream_layouts(self) -> tuple[tuple[str, int], ...]:
        """Key and partitions of the stream in several keys, and of the one that it replaces, if any. The
        latter may have 0: it is one key."""
        found = [(self.redis_stream or "", self.stream_partitions)]
        if self.redis_stream_before is not None:
            key, slash, number = self.redis_stream_before.rpartition("/")
            found.append(
                (key, int(number)) if slash and number.isdecimal() else (self.redis_stream_before, 0)
            )
        return tuple(found)

    @property
    def redis_is_configured(self) -> bool:
        """Whether the operator named a Redis. Then the embedded one is not started."""
        named = {"redis_host", "redis_url", "redis_username", "redis_password"}
        named |= {"redis_sentinels", "redis_cluster"}
        return bool(self.model_fields_set & named)

    @property
    def scheme(self) -> str:
        return "http" if self.tls_cert is None else "https"

    @property
    def jwt_public_key_files(self) -> tuple[str, ...]:
        """`jwt_public_key_file`, one by one."""
        return tuple(_listed(self.jwt_public_key_file or ""))

    @property
    def publish_token_list(self) -> tuple[str, ...]:
        """The tokens of `publish_tokens`, one by one."""
        return tuple(dict.fromkeys(token for token, _ in self.publish_bindings))

    @property
    def publish_bindings(self) -> tuple[tuple[str, str | None], ...]:
        """`publish_tokens`, one by one: a token, and the topic or the pattern that it is bound to, if any.

        A token has `=` only at its end, as padding (RFC 6750, 2.1). So a binding begins behind the first `=`
        that something else follows: `dG9rZW4===orders/**` binds `dG9rZW4==`.
        """
        value = self.publish_tokens.get_secret_value() if self.publish_tokens is not None else ""
        found = (_BOUND.fullmatch(entry) or entry for entry in _listed(value))
        return tuple(
            (one, None) if isinstance(one, str) else (one[1].strip(), one[2].strip()) for one in found
        )

    @property
    def redis_server(self) -> RedisServer:
        """Address and login of Redis. With Sentinels, they name the address. Of a cluster, its first node."""
        return self.cluster_servers[0] if self.redis_cluster else self.single_server

    @property
    def cluster_servers(self) -> tuple[RedisServer, ...]:
        """The nodes of the cluster that are known from the start. They have TLS if REDIS_CLUSTER or REDIS_URL
        says rediss://, and its options from where they are."""
        common = self.single_server
        found = (_node(address, REDIS_PORT, "") for address in self.redis_cluster)
        return tuple(
            replace(
                common,
                path=None,
                host=one.host,
                port=one.port,
                tls=one.tls or (common.tls if common.tls is not None else one.tls),
            )
            for one in found
        )

    @property
    def single_server(self) -> RedisServer:
        """What REDIS_URL or the single settings say. Beside Sentinels or a cluster it lacks an address."""
        if self.redis_url is not None:
            return parse(self.redis_url.get_secret_value(), host_needed=False)
        password = self.redis_password
        return RedisServer(
            host=self.redis_host,
            port=self.redis_port,
            username=self.redis_username,
            password=password.get_secret_value() if password else None,
            database=self.redis_main_db if self.redis_database_is_chosen else None,
        )

    @property
    def sentinel_servers(self) -> tuple[RedisServer, ...]:
        """The Sentinels. One with TLS and without options takes the TLS options of REDIS_URL."""
        password = self.redis_sentinel_password
        common = self.redis_server.tls
        found = (_sentinel(address) for address in self.redis_sentinels)
        return tuple(
            replace(
                one,
                username=self.redis_sentinel_username,
                password=password.get_secret_value() if password else None,
                tls=(one.tls or common or {}) if one.tls is not None else None,
            )
            for one in found
        )

    @property
    def redis_database(self) -> int:
        """The database of the log and of idempotency keys."""
        return (self.redis_server.database or 0) if self.redis_url is not None else self.redis_main_db

    @property
    def redis_database_is_chosen(self) -> bool:
        """Whether the operator chose the database. Then no other is used."""
        return self.redis_url is not None or "redis_main_db" in self.model_fields_set

    @property
    def redis_address(self) -> str:
        """Address of Redis for log lines and errors, without a password."""
        if self.redis_sentinels:
            return f"{self.redis_sentinel_master} (REDIS_SENTINELS)"
        if self.redis_cluster:
            return f"{','.join(map(str, self.cluster_servers))} (REDIS_CLUSTER)"
        return str(self.redis_server)


class _Environment(PydanticBaseSettingsSource):
    """The environment as a source of settings."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        raise NotImplementedError  # for sources that are read field by field

    def __call__(self) -> dict[str, Any]:
        return dict(found().values)


def found() -> environment.Found:
    """The settings that the environment has."""
    return environment.read(
        os.environ,
        [
            environment.Variable(
                str(field.validation_alias),
                secret=is_secret(field),
                listed=NoDecode in field.metadata,
                former_name=FORMER_NAMES.get(str(field.validation_alias)),
            )
            for field in Settings.model_fields.values()
        ],
    )


def is_secret(field: FieldInfo) -> bool:
    """Whether a field is a secret: its value is never shown, and NAME_FILE may name a file that has it."""
    return "SecretStr" in str(field.annotation)


def _sentinel(address: str) -> RedisServer:
    """Read one address of REDIS_SENTINELS. Raises RedisURLError."""
    return _node(address, SENTINEL_PORT, _SENTINEL_LOGIN)


def _node(address: str, default_port: int, login: str) -> RedisServer:
    """Read one address of a list. `login` names the settings for user and password. Raises RedisURLError."""
    server = parse(address if "://" in address else f"redis://{address}", default_port=default_port)
    if server.username or server.password or server.database is not None:
        raise RedisURLError(f"user and password are {login}")
    return server


def env_name(field: str) -> str:
    """The environment variable of a field: `env_name("port") == "SSE_PORT"`."""
    return str(Settings.model_fields[field].validation_alias)
