"""Every setting of the service, and the only reader of the environment."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

_ORIGIN = re.compile(r"https?://[^\s/?#@,]+|null|\*", re.IGNORECASE)


_HOST_PORT = re.compile(r"(\[[0-9a-fA-F:.]+\]|[^\s:/@]+):[0-9]{1,5}")


class SettingsError(Exception):
    """Settings that cannot be used. `lines` has one line per mistake, without secrets."""

    def __init__(self, lines: list[str]) -> None:
        super().__init__("; ".join(lines))
        self.lines = lines


def _setting(env: str, default: Any, meaning: str, accepts: str, **constraints: Any) -> Any:
    return Field(
        default,
        validation_alias=env,
        description=meaning,
        json_schema_extra={"accepts": accepts},
        **constraints,
    )


class Settings(BaseSettings):
    """What the operator may choose. Field order is the order of `--help` and of the README."""

    model_config = SettingsConfigDict(
        frozen=True,
        env_ignore_empty=True,
        extra="ignore",
        populate_by_name=True,
        # Fields are read under their aliases only: HOST and PORT in an environment are somebody else's.
        env_prefix="not_a_setting_of_trio_sse_",
    )

    host: str = _setting("SSE_HOST", "0.0.0.0", "address to listen on", "an address or a host name")
    port: int = _setting(
        "SSE_PORT", 8085, "port to listen on", "a number from 0 (any free port) to 65535", ge=0, le=65535
    )
    redis_channel: str = _setting(
        "SSE_REDIS_CHANNEL", "notifications", "Redis channel to subscribe to", "a name", min_length=1
    )
    redis_stream: str | None = _setting(
        "SSE_REDIS_STREAM",
        None,
        "Redis stream to read beside the channel, from which nothing is lost",
        "a key",
    )
    heartbeat_seconds: float = _setting(
        "SSE_HEARTBEAT_SECONDS", 30.0, "seconds between two heartbeats of a connection",
        "seconds, above 0 and up to 3600", gt=0, le=3600,
    )  # fmt: skip
    buffer: int = _setting(
        "SSE_BUFFER", 10, "messages that may wait for a slow client", "a number from 1 to 100000",
        ge=1, le=100_000,
    )  # fmt: skip
    slow_client: Literal["gap", "disconnect"] = _setting(
        "SSE_SLOW_CLIENT", "gap", "what happens beyond that: drop and tell, or end the stream for a resume",
        "gap or disconnect",
    )  # fmt: skip
    history_messages: int = _setting(
        "SSE_HISTORY_MESSAGES", 10_000, "messages kept for clients that come back, of all users together",
        "a number from 0 to 10000000", ge=0, le=10_000_000,
    )  # fmt: skip
    history_seconds: float = _setting(
        "SSE_HISTORY_SECONDS", 300.0, "how long they are kept", "seconds, from 0 to 86400", ge=0, le=86_400
    )
    history_bytes: int = _setting(
        "SSE_HISTORY_BYTES", 67_108_864, "memory they may take",
        "bytes, from 0 to 68719476736", ge=0, le=68_719_476_736,
    )  # fmt: skip
    replay_limit: int = _setting(
        "SSE_REPLAY_LIMIT", 10_000, "entries of the stream looked through for clients that were away longer",
        "a number from 0 to 10000000", ge=0, le=10_000_000,
    )  # fmt: skip
    cors_origins: Annotated[tuple[str, ...], NoDecode] = _setting(
        "SSE_CORS_ORIGINS", ("*",), "origins whose pages may connect; cookies only with a list",
        "* or a comma list such as https://a.example,https://b.example:8443",
    )  # fmt: skip
    write_timeout_seconds: float = _setting(
        "SSE_WRITE_TIMEOUT_SECONDS", 20.0, "a client that takes nothing for so long is cut off",
        "seconds, from 1 to 3600", ge=1, le=3600,
    )  # fmt: skip
    drain_seconds: float = _setting(
        "SSE_DRAIN_SECONDS", 5.0, "SIGTERM ends the streams spread over so long; 0: at once",
        "seconds, from 0 to 3600", ge=0, le=3600,
    )  # fmt: skip
    max_stream_seconds: float = _setting(
        "SSE_MAX_STREAM_SECONDS", 0.0, "longest life of a stream, of which it gets 80 to 100 %; 0: no end",
        "seconds, from 0 to 31536000", ge=0, le=31_536_000,
    )  # fmt: skip
    max_message_bytes: int = _setting(
        "SSE_MAX_MESSAGE_BYTES", 65536, "largest message accepted from Redis",
        "bytes, from 64 to 16777216", ge=64, le=16_777_216,
    )  # fmt: skip
    workers: int = _setting(
        "SSE_WORKERS", 1, "worker processes, each with all messages and its own connections",
        "a number from 1 to 256", ge=1, le=256,
    )  # fmt: skip
    door: bool = _setting(
        "SSE_DOOR", True, "serve streams on their own sockets, past Hypercorn and Quart", "true or false"
    )
    log_format: Literal["console", "json"] = _setting(
        "SSE_LOG_FORMAT", "console", "how log lines look", "console or json"
    )
    log_level: Literal["debug", "info", "warning", "error"] = _setting(
        "SSE_LOG_LEVEL", "info", "least important lines shown", "debug, info, warning or error"
    )
    redis_host: str = _setting("REDIS_HOST", "127.0.0.1", "Redis host", "an address or a host name")
    redis_port: int = _setting("REDIS_PORT", 6379, "Redis port", "a number from 1 to 65535", ge=1, le=65535)
    redis_username: str | None = _setting("REDIS_USERNAME", None, "Redis user (ACL)", "a name")
    redis_password: SecretStr | None = _setting("REDIS_PASSWORD", None, "Redis password", "any text")
    redis_main_db: int = _setting(
        "REDIS_MAIN_DB", 1, "Redis database selected on connecting", "a number from 0 to 65535",
        ge=0, le=65535,
    )  # fmt: skip
    redis_url: SecretStr | None = _setting(
        "REDIS_URL", None, "Redis address, instead of the single settings",
        "redis://, rediss:// or unix:// and an address, such as rediss://user:password@host:6379/1",
    )  # fmt: skip

    redis_sentinels: Annotated[tuple[str, ...], NoDecode] = _setting(
        "REDIS_SENTINELS", (), "Sentinels that know where the master is, instead of host and port",
        "a comma list of host:port, such as 10.0.0.1:26379,10.0.0.2:26379",
    )  # fmt: skip
    redis_sentinel_master: str = _setting(
        "REDIS_SENTINEL_MASTER", "mymaster", "the master's name there", "a name", min_length=1
    )
    redis_sentinel_password: SecretStr | None = _setting(
        "REDIS_SENTINEL_PASSWORD", None, "password of the Sentinels", "any text"
    )

    @field_validator("redis_sentinels", mode="before")
    @classmethod
    def _sentinels(cls, value: Any) -> Any:
        if isinstance(value, str):
            value = tuple(part.strip() for part in value.split(",") if part.strip())
        if not all(_HOST_PORT.fullmatch(address) for address in value):
            raise ValueError("not a list of host:port")
        return value

    @field_validator("log_format", "log_level", "slow_client", mode="before")
    @classmethod
    def _lower(cls, value: Any) -> Any:
        return value.lower() if isinstance(value, str) else value

    @field_validator("cors_origins", mode="before")
    @classmethod
    def _origins(cls, value: Any) -> Any:
        if isinstance(value, str):
            value = tuple(part.strip().rstrip("/") for part in value.split(",") if part.strip())
        if not value or not all(_ORIGIN.fullmatch(origin) for origin in value):
            raise ValueError("not a list of origins")
        if "*" in value and len(value) > 1:
            raise ValueError("* stands alone")
        return value

    @field_validator("redis_url")
    @classmethod
    def _url(cls, value: SecretStr | None) -> SecretStr | None:
        if value is None:
            return None
        parts = urlsplit(value.get_secret_value())
        if parts.scheme not in ("redis", "rediss", "unix"):
            raise ValueError("unknown scheme")
        if parts.scheme == "unix":
            if not parts.path:
                raise ValueError("no path")
        elif not parts.hostname or parts.port == 0 or not re.fullmatch(r"/?\d*", parts.path):
            raise ValueError("no host, or a wrong port or database")
        return value

    @property
    def redis_is_configured(self) -> bool:
        """Whether the operator named a Redis, so that none is to be started in its place."""
        named = {"redis_host", "redis_url", "redis_username", "redis_password", "redis_sentinels"}
        return bool(self.model_fields_set & named)

    @property
    def redis_address(self) -> str:
        """Where Redis is expected, for messages: never with a password."""
        if self.redis_sentinels:
            return f"{self.redis_sentinel_master} (REDIS_SENTINELS)"
        if self.redis_url is None:
            return f"{self.redis_host}:{self.redis_port}"
        parts = urlsplit(self.redis_url.get_secret_value())
        if parts.scheme == "unix":
            return parts.path
        return f"{parts.hostname}:{parts.port or 6379}"

    @classmethod
    def load(cls, **overrides: Any) -> Settings:
        """Read the environment; `overrides` (by field name) come first.

        Raises SettingsError with one line for each value that is not accepted.
        """
        try:
            return cls(**overrides)
        except ValidationError as error:
            raise SettingsError([_line(cls, mistake) for mistake in error.errors()]) from None


def env_name(field: str) -> str:
    """The environment variable of a field: `env_name("port") == "SSE_PORT"`."""
    return str(Settings.model_fields[field].validation_alias)


def _line(cls: type[Settings], mistake: Any) -> str:
    key = str(mistake["loc"][0])
    name = next(name for name in cls.model_fields if key in (name, env_name(name)))
    field = cls.model_fields[name]
    extra = field.json_schema_extra
    accepts = extra["accepts"] if isinstance(extra, dict) else ""
    secret = "SecretStr" in str(field.annotation)
    shown = "(hidden)" if secret else repr(mistake["input"])[:80]
    return f"{env_name(name)}={shown} is not accepted. Accepted: {accepts}."
