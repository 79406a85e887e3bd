"""Reading all settings: what is wrong is told in one line a mistake."""

from __future__ import annotations

import pytest

from tests.support.environment import from_env, mistakes
from trio_sse.settings import SettingsError, load


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
        ("REDIS_SENTINELS", "a:1,:2"),
        ("REDIS_SENTINELS", "unix:///run/sentinel"),
        ("REDIS_CLUSTER", "host:7000/0"),
        ("REDIS_CLUSTER", "a:1,:2"),
        ("REDIS_CLUSTER", "unix:///run/redis"),
        ("SSE_REDIS_ROUTING", "by-user"),
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
        ("SSE_LIMITS_SHARED", "perhaps"),
        ("SSE_LIMITS_WITHOUT_REDIS", "ajar"),
        ("SSE_REVOKED_WITHOUT_REDIS", "ajar"),
        ("SSE_REVOCATION_SECONDS", "59"),
        ("SSE_EXPLAIN_RECORDS", "-1"),
        ("SSE_REBALANCE", "-0.1"),
        ("SSE_REBALANCE", "10.1"),
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


@pytest.mark.parametrize(
    ("name", "login"),
    [("REDIS_SENTINELS", "REDIS_SENTINEL_USERNAME"), ("REDIS_CLUSTER", "REDIS_USERNAME and REDIS_PASSWORD")],
)
@pytest.mark.parametrize("address", ["rediss://user:s3cret@a:1", "b,user:s3cret@a", "s3cret@a"])
def test_a_login_among_addresses_is_not_shown_and_has_settings_of_its_own(
    monkeypatch: pytest.MonkeyPatch, name: str, login: str, address: str
) -> None:
    (line,) = mistakes(monkeypatch, **{name: address})
    assert line.startswith(f"{name}=(hidden) is not accepted: user and password are {login}")
    assert "s3cret" not in line


def test_overrides_come_before_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSE_PORT", "1000")
    assert load(port=2000).port == 2000


def test_a_wrong_override_is_told_by_the_name_of_the_setting() -> None:
    with pytest.raises(SettingsError, match="SSE_PORT='x' is not accepted"):
        load(port="x")


def test_variables_of_others_do_no_harm(monkeypatch: pytest.MonkeyPatch) -> None:
    assert from_env(monkeypatch, "SSE_SOMETHING_ELSE", "x") == load()
