"""Reading all settings: what is wrong is told in one line a mistake."""

from __future__ import annotations

import os
from typing import Any

import pytest

from trio_sse.settings import Settings, SettingsError, load

DEFAULTS: dict[str, tuple[str, Any]] = {
    "host": ("SSE_HOST", "0.0.0.0"),
    "port": ("SSE_PORT", 8085),
    "root_path": ("SSE_ROOT_PATH", ""),
    "redis_channel": ("SSE_REDIS_CHANNEL", "notifications"),
    "redis_stream": ("SSE_REDIS_STREAM", None),
    "heartbeat_seconds": ("SSE_HEARTBEAT_SECONDS", 30),
    "buffer": ("SSE_BUFFER", 10),
    "slow_client": ("SSE_SLOW_CLIENT", "gap"),
    "history_messages": ("SSE_HISTORY_MESSAGES", 10_000),
    "history_seconds": ("SSE_HISTORY_SECONDS", 300),
    "history_bytes": ("SSE_HISTORY_BYTES", 64 * 1024 * 1024),
    "replay_limit": ("SSE_REPLAY_LIMIT", 10_000),
    "cors_origins": ("SSE_CORS_ORIGINS", ("*",)),
    "cors_headers": ("SSE_CORS_HEADERS", ()),
    "allowed_hosts": ("SSE_ALLOWED_HOSTS", ("*",)),
    "auth": ("SSE_AUTH", "none"),
    "jwt_secret": ("SSE_JWT_SECRET", None),
    "jwt_secret_previous": ("SSE_JWT_SECRET_PREVIOUS", None),
    "jwt_public_key_file": ("SSE_JWT_PUBLIC_KEY_FILE", None),
    "jwt_jwks_url": ("SSE_JWT_JWKS_URL", None),
    "jwt_audience": ("SSE_JWT_AUDIENCE", ()),
    "jwt_issuer": ("SSE_JWT_ISSUER", None),
    "jwt_leeway_seconds": ("SSE_JWT_LEEWAY_SECONDS", 30),
    "jwt_user_claim": ("SSE_JWT_USER_CLAIM", "sub"),
    "jwt_cookie": ("SSE_JWT_COOKIE", None),
    "jwt_query": ("SSE_JWT_QUERY", False),
    "publish_tokens": ("SSE_PUBLISH_TOKENS", None),
    "stream_length": ("SSE_STREAM_LENGTH", 100_000),
    "max_connections": ("SSE_MAX_CONNECTIONS", 0),
    "max_connections_per_user": ("SSE_MAX_CONNECTIONS_PER_USER", 0),
    "max_connections_per_address": ("SSE_MAX_CONNECTIONS_PER_ADDRESS", 0),
    "connection_rate_per_address": ("SSE_CONNECTION_RATE_PER_ADDRESS", 0),
    "trusted_proxies": ("SSE_TRUSTED_PROXIES", ()),
    "tls_cert": ("SSE_TLS_CERT", None),
    "tls_key": ("SSE_TLS_KEY", None),
    "write_timeout_seconds": ("SSE_WRITE_TIMEOUT_SECONDS", 20),
    "drain_seconds": ("SSE_DRAIN_SECONDS", 5),
    "max_stream_seconds": ("SSE_MAX_STREAM_SECONDS", 0),
    "max_message_bytes": ("SSE_MAX_MESSAGE_BYTES", 65536),
    "workers": ("SSE_WORKERS", 1),
    "direct": ("SSE_DIRECT", True),
    "log_format": ("SSE_LOG_FORMAT", "console"),
    "log_level": ("SSE_LOG_LEVEL", "info"),
    "redis_host": ("REDIS_HOST", "127.0.0.1"),
    "redis_port": ("REDIS_PORT", 6379),
    "redis_username": ("REDIS_USERNAME", None),
    "redis_password": ("REDIS_PASSWORD", None),
    "redis_main_db": ("REDIS_MAIN_DB", 1),
    "redis_url": ("REDIS_URL", None),
    "redis_sentinels": ("REDIS_SENTINELS", ()),
    "redis_sentinel_master": ("REDIS_SENTINEL_MASTER", "mymaster"),
    "redis_sentinel_username": ("REDIS_SENTINEL_USERNAME", None),
    "redis_sentinel_password": ("REDIS_SENTINEL_PASSWORD", None),
}


@pytest.fixture(autouse=True)
def _empty_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(("SSE_", "REDIS_")):
            monkeypatch.delenv(name)


def from_env(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> Settings:
    if name.startswith("SSE_JWT_") and value:
        monkeypatch.setenv("SSE_AUTH", "jwt")
        if name not in ("SSE_JWT_JWKS_URL", "SSE_JWT_PUBLIC_KEY_FILE"):
            monkeypatch.setenv("SSE_JWT_SECRET", "s" * 32)
    monkeypatch.setenv(name, value)
    return load()


def mistakes(monkeypatch: pytest.MonkeyPatch, **environment: str) -> list[str]:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError) as caught:
        load()
    return caught.value.lines


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("SSE_PORT", "-1"),
        ("SSE_PORT", "65536"),
        ("SSE_PORT", "http"),
        ("SSE_ROOT_PATH", "https://a.example/notify"),
        ("SSE_ROOT_PATH", "/a//b"),
        ("SSE_ROOT_PATH", "/a/../b"),
        ("SSE_ROOT_PATH", "/a?b"),
        ("SSE_ROOT_PATH", "/a b"),
        ("SSE_ROOT_PATH", '/a"b'),
        ("SSE_ROOT_PATH", "/ä"),
        ("SSE_HEARTBEAT_SECONDS", "0"),
        ("SSE_HEARTBEAT_SECONDS", "nan"),
        ("SSE_HEARTBEAT_SECONDS", "3601"),
        ("SSE_BUFFER", "0"),
        ("SSE_BUFFER", "100001"),
        ("SSE_SLOW_CLIENT", "wait"),
        ("SSE_HISTORY_MESSAGES", "-1"),
        ("SSE_HISTORY_MESSAGES", "10000001"),
        ("SSE_HISTORY_SECONDS", "-1"),
        ("SSE_HISTORY_SECONDS", "86401"),
        ("SSE_HISTORY_BYTES", "-1"),
        ("SSE_HISTORY_BYTES", "68719476737"),
        ("SSE_REPLAY_LIMIT", "-1"),
        ("SSE_DRAIN_SECONDS", "-1"),
        ("SSE_DRAIN_SECONDS", "3601"),
        ("SSE_MAX_STREAM_SECONDS", "-1"),
        ("SSE_MAX_STREAM_SECONDS", "31536001"),
        ("REDIS_SENTINELS", "host:26379/0"),
        ("REDIS_SENTINELS", "user@host:26379"),
        ("REDIS_SENTINELS", "a:1,:2"),
        ("REDIS_SENTINELS", "unix:///run/sentinel"),
        ("SSE_CORS_ORIGINS", "a.example"),
        ("SSE_CORS_ORIGINS", "https://a.example/path"),
        ("SSE_CORS_ORIGINS", "*,https://a.example"),
        ("SSE_CORS_ORIGINS", ","),
        ("SSE_CORS_ORIGINS", "https://*"),
        ("SSE_CORS_ORIGINS", "https://a.*.example"),
        ("SSE_CORS_ORIGINS", "file://"),
        ("SSE_CORS_HEADERS", "X-One,a b"),
        ("SSE_CORS_HEADERS", "*"),
        ("SSE_ALLOWED_HOSTS", "https://a.example"),
        ("SSE_ALLOWED_HOSTS", "a.example:443"),
        ("SSE_ALLOWED_HOSTS", "*,a.example"),
        ("SSE_JWT_LEEWAY_SECONDS", "-1"),
        ("SSE_JWT_LEEWAY_SECONDS", "601"),
        ("SSE_JWT_PUBLIC_KEY_FILE", ","),
        ("SSE_AUTH", "basic"),
        ("SSE_JWT_JWKS_URL", "ftp://a.example/keys"),
        ("SSE_JWT_JWKS_URL", "file:///etc/passwd"),
        ("SSE_JWT_QUERY", "perhaps"),
        ("SSE_STREAM_LENGTH", "0"),
        ("SSE_STREAM_LENGTH", "1000000001"),
        ("SSE_MAX_CONNECTIONS", "-1"),
        ("SSE_MAX_CONNECTIONS", "10000001"),
        ("SSE_MAX_CONNECTIONS_PER_USER", "many"),
        ("SSE_MAX_CONNECTIONS_PER_ADDRESS", "-1"),
        ("SSE_CONNECTION_RATE_PER_ADDRESS", "-1"),
        ("SSE_CONNECTION_RATE_PER_ADDRESS", "nan"),
        ("SSE_CONNECTION_RATE_PER_ADDRESS", "inf"),
        ("SSE_TRUSTED_PROXIES", "proxy.example"),
        ("SSE_TRUSTED_PROXIES", "10.0.0.0/33"),
        ("SSE_WRITE_TIMEOUT_SECONDS", "0.9"),
        ("SSE_WRITE_TIMEOUT_SECONDS", "3601"),
        ("SSE_MAX_MESSAGE_BYTES", "63"),
        ("SSE_MAX_MESSAGE_BYTES", "16777217"),
        ("SSE_WORKERS", "0"),
        ("SSE_WORKERS", "257"),
        ("SSE_DIRECT", "perhaps"),
        ("SSE_LOG_FORMAT", "xml"),
        ("SSE_LOG_LEVEL", "loud"),
        ("REDIS_PORT", "0"),
        ("REDIS_PORT", "65536"),
        ("REDIS_MAIN_DB", "-1"),
        ("REDIS_MAIN_DB", "65536"),
    ],
)
def test_a_wrong_value_is_one_line_with_name_value_and_what_is_accepted(
    monkeypatch: pytest.MonkeyPatch, name: str, text: str
) -> None:
    (line,) = mistakes(monkeypatch, **{name: text})
    assert line.startswith(f"{name}='{text}' is not accepted. Accepted: ")
    assert "\n" not in line


def test_every_mistake_has_its_line(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = mistakes(monkeypatch, SSE_PORT="x", REDIS_PORT="y", SSE_BUFFER="z")
    assert [line.split("=")[0] for line in lines] == ["SSE_PORT", "SSE_BUFFER", "REDIS_PORT"]


def test_a_long_value_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    (line,) = mistakes(monkeypatch, SSE_PORT="9" * 5000)
    assert len(line) < 200


@pytest.mark.parametrize(
    "url",
    [
        "http://user:s3cret@host",
        "redis://user:s3cret@",
        "redis://:s3cret@host:0",
        "redis://:s3cret@host:99999",
        "redis://:s3cret@host:port",
        "redis://:s3cret@host/db",
        "redis://:s3cret@[::1",
        "unix://",
        "s3cret",
    ],
)
def test_a_wrong_redis_url_is_told_without_its_password(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    (line,) = mistakes(monkeypatch, REDIS_URL=url)
    assert line.startswith("REDIS_URL=(hidden) is not accepted")
    assert "Accepted: redis://, rediss:// or unix://" in line
    assert "s3cret" not in line


def test_a_password_among_the_sentinels_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    (line,) = mistakes(monkeypatch, REDIS_SENTINELS="a?password=s3cret")
    assert "s3cret" not in line
    assert "REDIS_SENTINEL_PASSWORD" in line


def test_overrides_come_before_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSE_PORT", "1000")
    assert load(port=2000).port == 2000


def test_a_wrong_override_is_told_by_the_name_of_the_setting() -> None:
    with pytest.raises(SettingsError, match="SSE_PORT='x' is not accepted"):
        load(port="x")


def test_variables_of_others_do_no_harm(monkeypatch: pytest.MonkeyPatch) -> None:
    assert from_env(monkeypatch, "SSE_SOMETHING_ELSE", "x") == load()
