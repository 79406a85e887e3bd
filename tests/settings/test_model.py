"""What the operator may choose, and what it is when nothing was chosen."""

from __future__ import annotations

import subprocess
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest

from tests.support.environment import from_env, mistakes
from tests.support.inside import settings
from tests.support.valkeys import certificate
from trio_sse.settings import Settings, env_name, load

DEFAULTS: dict[str, tuple[str, Any]] = {
    "host": ("SSE_HOST", "0.0.0.0"),
    "port": ("SSE_PORT", 8085),
    "root_path": ("SSE_ROOT_PATH", ""),
    "redis_channel": ("SSE_REDIS_CHANNEL", "notifications"),
    "redis_routing": ("SSE_REDIS_ROUTING", "shared"),
    "redis_stream": ("SSE_REDIS_STREAM", None),
    "stream_partitions": ("SSE_STREAM_PARTITIONS", 0),
    "redis_stream_before": ("SSE_REDIS_STREAM_BEFORE", None),
    "heartbeat_seconds": ("SSE_HEARTBEAT_SECONDS", 30),
    "buffer": ("SSE_BUFFER", 10),
    "slow_client": ("SSE_SLOW_CLIENT", "gap"),
    "history_messages": ("SSE_HISTORY_MESSAGES", 10_000),
    "history_seconds": ("SSE_HISTORY_SECONDS", 300),
    "history_bytes": ("SSE_HISTORY_BYTES", 64 * 1024 * 1024),
    "public_position": ("SSE_PUBLIC_POSITION", False),
    "snapshot_keys": ("SSE_SNAPSHOT_KEYS", 10_000),
    "snapshot_bytes": ("SSE_SNAPSHOT_BYTES", 16 * 1024 * 1024),
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
    "jwt_topics_claim": ("SSE_JWT_TOPICS_CLAIM", "topics"),
    "jwt_cookie": ("SSE_JWT_COOKIE", None),
    "jwt_query": ("SSE_JWT_QUERY", False),
    "public_topics": ("SSE_PUBLIC_TOPICS", ()),
    "publish_tokens": ("SSE_PUBLISH_TOKENS", None),
    "presence": ("SSE_PRESENCE", False),
    "presence_topic": ("SSE_PRESENCE_TOPIC", None),
    "presence_grace_seconds": ("SSE_PRESENCE_GRACE_SECONDS", 10),
    "reply_lists": ("SSE_REPLY_LISTS", None),
    "stream_length": ("SSE_STREAM_LENGTH", 100_000),
    "admin_token": ("SSE_ADMIN_TOKEN", None),
    "explain_records": ("SSE_EXPLAIN_RECORDS", 20_000),
    "explain_bytes": ("SSE_EXPLAIN_BYTES", 16 * 1024 * 1024),
    "revocation_seconds": ("SSE_REVOCATION_SECONDS", 30 * 86_400),
    "revoked_without_redis": ("SSE_REVOKED_WITHOUT_REDIS", "open"),
    "max_topics": ("SSE_MAX_TOPICS", 100),
    "max_connections": ("SSE_MAX_CONNECTIONS", 0),
    "max_connections_per_user": ("SSE_MAX_CONNECTIONS_PER_USER", 0),
    "max_connections_per_address": ("SSE_MAX_CONNECTIONS_PER_ADDRESS", 0),
    "connection_rate_per_address": ("SSE_CONNECTION_RATE_PER_ADDRESS", 0),
    "limits_shared": ("SSE_LIMITS_SHARED", False),
    "limits_without_redis": ("SSE_LIMITS_WITHOUT_REDIS", "open"),
    "trusted_proxies": ("SSE_TRUSTED_PROXIES", ()),
    "metrics_token": ("SSE_METRICS_TOKEN", None),
    "metrics_port": ("SSE_METRICS_PORT", 0),
    "canary_seconds": ("SSE_CANARY_SECONDS", 0),
    "traces_per_second": ("SSE_TRACES_PER_SECOND", 0),
    "tls_cert": ("SSE_TLS_CERT", None),
    "tls_key": ("SSE_TLS_KEY", None),
    "write_timeout_seconds": ("SSE_WRITE_TIMEOUT_SECONDS", 20),
    "drain_seconds": ("SSE_DRAIN_SECONDS", 5),
    "max_stream_seconds": ("SSE_MAX_STREAM_SECONDS", 0),
    "rebalance": ("SSE_REBALANCE", 0),
    "max_message_bytes": ("SSE_MAX_MESSAGE_BYTES", 65536),
    "workers": ("SSE_WORKERS", 1),
    "direct": ("SSE_DIRECT", True),
    "doctor": ("SSE_DOCTOR", False),
    "log_format": ("SSE_LOG_FORMAT", "console"),
    "log_level": ("SSE_LOG_LEVEL", "info"),
    "log_streams": ("SSE_LOG_STREAMS", False),
    "redis_host": ("REDIS_HOST", "127.0.0.1"),
    "redis_port": ("REDIS_PORT", 6379),
    "redis_username": ("REDIS_USERNAME", None),
    "redis_password": ("REDIS_PASSWORD", None),
    "redis_main_db": ("REDIS_MAIN_DB", 1),
    "redis_url": ("REDIS_URL", None),
    "redis_cluster": ("REDIS_CLUSTER", ()),
    "redis_sentinels": ("REDIS_SENTINELS", ()),
    "redis_sentinel_master": ("REDIS_SENTINEL_MASTER", "mymaster"),
    "redis_sentinel_username": ("REDIS_SENTINEL_USERNAME", None),
    "redis_sentinel_password": ("REDIS_SENTINEL_PASSWORD", None),
}


def test_every_setting_has_its_place_here() -> None:
    assert set(DEFAULTS) == set(Settings.model_fields)


@pytest.mark.parametrize("field", DEFAULTS)
def test_the_default_is_the_documented_one(field: str) -> None:
    name, value = DEFAULTS[field]
    assert getattr(load(), field) == value
    assert env_name(field) == name


@pytest.mark.parametrize(
    ("name", "text", "field", "value"),
    [
        ("SSE_HOST", "::1", "host", "::1"),
        ("SSE_PORT", "0", "port", 0),
        ("SSE_ROOT_PATH", "/notify", "root_path", "/notify"),
        ("SSE_ROOT_PATH", "a/b.c/", "root_path", "/a/b.c"),
        ("SSE_ROOT_PATH", "/", "root_path", ""),
        ("SSE_REDIS_CHANNEL", "news", "redis_channel", "news"),
        ("SSE_REDIS_ROUTING", "By-Key", "redis_routing", "by-key"),
        ("SSE_HEARTBEAT_SECONDS", "0.5", "heartbeat_seconds", 0.5),
        ("SSE_BUFFER", "1", "buffer", 1),
        ("SSE_REDIS_STREAM", "events", "redis_stream", "events"),
        ("SSE_STREAM_PARTITIONS", "0", "stream_partitions", 0),
        ("SSE_SLOW_CLIENT", "Disconnect", "slow_client", "disconnect"),
        ("SSE_HISTORY_MESSAGES", "0", "history_messages", 0),
        ("SSE_HISTORY_SECONDS", "0.5", "history_seconds", 0.5),
        ("SSE_HISTORY_BYTES", "0", "history_bytes", 0),
        ("SSE_REPLAY_LIMIT", "0", "replay_limit", 0),
        ("SSE_DRAIN_SECONDS", "0", "drain_seconds", 0),
        ("SSE_REBALANCE", "0.1", "rebalance", 0.1),
        ("SSE_LIMITS_SHARED", "true", "limits_shared", True),
        ("SSE_LIMITS_WITHOUT_REDIS", "Closed", "limits_without_redis", "closed"),
        ("SSE_REVOKED_WITHOUT_REDIS", "Closed", "revoked_without_redis", "closed"),
        ("SSE_EXPLAIN_RECORDS", "0", "explain_records", 0),
        ("SSE_EXPLAIN_BYTES", "0", "explain_bytes", 0),
        ("SSE_REVOCATION_SECONDS", "3600", "revocation_seconds", 3600),
        ("SSE_MAX_STREAM_SECONDS", "86400", "max_stream_seconds", 86400),
        ("REDIS_SENTINELS", "a:26379", "redis_sentinels", ("a:26379",)),
        ("SSE_CORS_ORIGINS", "https://a.example", "cors_origins", ("https://a.example",)),
        ("SSE_AUTH", "None", "auth", "none"),
        ("SSE_JWT_JWKS_URL", "https://a.example/keys", "jwt_jwks_url", "https://a.example/keys"),
        ("SSE_JWT_USER_CLAIM", "email", "jwt_user_claim", "email"),
        ("SSE_JWT_AUDIENCE", "sse, https://b.example", "jwt_audience", ("sse", "https://b.example")),
        ("SSE_JWT_LEEWAY_SECONDS", "0", "jwt_leeway_seconds", 0),
        ("SSE_JWT_PUBLIC_KEY_FILE", "a.pem, b.pem", "jwt_public_key_files", ("a.pem", "b.pem")),
        ("SSE_CORS_HEADERS", "X-One, x_two", "cors_headers", ("X-One", "x_two")),
        ("SSE_ALLOWED_HOSTS", "SSE.example, *.b.example,", "allowed_hosts", ("sse.example", "*.b.example")),
        ("SSE_JWT_QUERY", "true", "jwt_query", True),
        ("SSE_JWT_TOPICS_CLAIM", "may_read", "jwt_topics_claim", "may_read"),
        ("SSE_PUBLIC_TOPICS", " news ,orders/*,, chat/**", "public_topics", ("news", "orders/*", "chat/**")),
        ("SSE_PUBLIC_TOPICS", "news", "public_topics", ("news",)),
        ("SSE_METRICS_PORT", "9100", "metrics_port", 9100),
        ("SSE_CANARY_SECONDS", "2.5", "canary_seconds", 2.5),
        ("SSE_TRACES_PER_SECOND", "100", "traces_per_second", 100),
        ("SSE_MAX_TOPICS", "1", "max_topics", 1),
        ("SSE_MAX_TOPICS", "10000", "max_topics", 10_000),
        ("SSE_PRESENCE", "true", "presence", True),
        ("SSE_REPLY_LISTS", "replies:", "reply_lists", "replies:"),
        ("SSE_STREAM_LENGTH", "1", "stream_length", 1),
        ("SSE_MAX_CONNECTIONS", "10000000", "max_connections", 10_000_000),
        ("SSE_CONNECTION_RATE_PER_ADDRESS", "0.5", "connection_rate_per_address", 0.5),
        (
            "SSE_TRUSTED_PROXIES",
            " 10.0.0.0/8, ::1,127.0.0.1/8 ,",
            "trusted_proxies",
            tuple(map(ip_network, ("10.0.0.0/8", "::1", "127.0.0.0/8"))),
        ),
        ("SSE_WRITE_TIMEOUT_SECONDS", "1", "write_timeout_seconds", 1.0),
        ("SSE_MAX_MESSAGE_BYTES", "64", "max_message_bytes", 64),
        ("SSE_WORKERS", "4", "workers", 4),
        ("SSE_DIRECT", "false", "direct", False),
        ("SSE_LOG_FORMAT", "JSON", "log_format", "json"),
        ("SSE_LOG_LEVEL", "Warning", "log_level", "warning"),
        ("REDIS_HOST", "redis", "redis_host", "redis"),
        ("REDIS_PORT", "7000", "redis_port", 7000),
        ("REDIS_USERNAME", "ann", "redis_username", "ann"),
        ("REDIS_MAIN_DB", "0", "redis_main_db", 0),
    ],
)
def test_the_environment_is_read(
    monkeypatch: pytest.MonkeyPatch, name: str, text: str, field: str, value: Any
) -> None:
    assert getattr(from_env(monkeypatch, name, text), field) == value


@pytest.mark.parametrize("field", DEFAULTS)
def test_an_empty_value_means_unset(monkeypatch: pytest.MonkeyPatch, field: str) -> None:
    name, value = DEFAULTS[field]
    loaded = from_env(monkeypatch, name, "")
    assert getattr(loaded, field) == value
    assert not loaded.redis_is_configured


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("redis://host", "host:6379"),
        ("redis://user:s3cret@host:7000/2", "host:7000"),
        ("rediss://:s3cret@host:7001/", "host:7001"),
        ("unix:///run/redis.sock?db=3", "/run/redis.sock"),
        ("redis://[::1]:7000", "[::1]:7000"),
    ],
)
def test_a_redis_url_stands_for_the_single_settings(
    monkeypatch: pytest.MonkeyPatch, url: str, address: str
) -> None:
    loaded = from_env(monkeypatch, "REDIS_URL", url)
    assert loaded.redis_url is not None
    assert loaded.redis_url.get_secret_value() == url
    assert loaded.redis_address == address
    assert loaded.redis_is_configured


@pytest.mark.parametrize(
    ("text", "sentinels"),
    [
        ("a:26379", ("a:26379",)),
        (" 10.0.0.1:26379 , [::1]:26380,", ("10.0.0.1:26379", "[::1]:26380")),
        ("a,b:26380,[::1],rediss://c", ("a", "b:26380", "[::1]", "rediss://c")),
    ],
)
def test_sentinels_are_a_comma_list_and_stand_for_the_address(
    monkeypatch: pytest.MonkeyPatch, text: str, sentinels: tuple[str, ...]
) -> None:
    loaded = from_env(monkeypatch, "REDIS_SENTINELS", text)
    assert loaded.redis_sentinels == sentinels
    assert loaded.redis_is_configured
    assert "mymaster" in loaded.redis_address
    assert "REDIS_SENTINELS" in loaded.redis_address


def test_a_sentinel_has_the_port_of_sentinels_and_tls_where_it_is_said() -> None:
    at = settings(
        redis_sentinels="a,b:26380,[::1],rediss://c",
        redis_url="rediss://?ssl_cert_reqs=none",
        redis_sentinel_username="eye",
        redis_sentinel_password="pw",
    )
    told = [(str(one), one.tls) for one in at.sentinel_servers]
    assert told[:3] == [("a:26379", None), ("b:26380", None), ("[::1]:26379", None)]
    assert told[3] == ("c:26379", {"ssl_cert_reqs": "none"})
    assert {(one.username, one.password) for one in at.sentinel_servers} == {("eye", "pw")}


def test_a_cluster_is_a_comma_list_and_stands_for_the_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSE_REDIS_ROUTING", "by-key")
    loaded = from_env(monkeypatch, "REDIS_CLUSTER", " a, b:7000 ,[::1],")
    assert loaded.redis_cluster == ("a", "b:7000", "[::1]")
    assert [str(one) for one in loaded.cluster_servers] == ["a:6379", "b:7000", "[::1]:6379"]
    assert loaded.redis_server == loaded.cluster_servers[0]
    assert loaded.redis_is_configured
    assert loaded.redis_address == "a:6379,b:7000,[::1]:6379 (REDIS_CLUSTER)"


def test_all_nodes_of_a_cluster_have_one_login_and_tls_where_it_is_said() -> None:
    at = settings(
        redis_routing="by-key",
        redis_cluster="a,rediss://b,rediss://c?ssl_check_hostname=false",
        redis_url="rediss://ann:pw@?ssl_cert_reqs=none",
    )
    nodes = at.cluster_servers
    assert {(one.username, one.password, one.path) for one in nodes} == {("ann", "pw", None)}
    unchecked = {"ssl_cert_reqs": "none"}
    assert [one.tls for one in nodes] == [unchecked, unchecked, {"ssl_check_hostname": False}]


def test_without_a_url_the_address_is_host_and_port(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_PORT", "7000")
    assert from_env(monkeypatch, "REDIS_HOST", "redis").redis_address == "redis:7000"


@pytest.mark.parametrize(
    ("name", "configured"),
    [
        ("REDIS_HOST", True),
        ("REDIS_URL", True),
        ("REDIS_USERNAME", True),
        ("REDIS_PASSWORD", True),
        ("REDIS_PORT", False),
        ("REDIS_MAIN_DB", False),
        ("SSE_PORT", False),
    ],
)
def test_a_redis_that_was_named_is_never_replaced_by_an_embedded_one(
    monkeypatch: pytest.MonkeyPatch, name: str, configured: bool
) -> None:
    value = {"REDIS_URL": "redis://h"}.get(name, "1")
    assert from_env(monkeypatch, name, value).redis_is_configured is configured


@pytest.mark.parametrize(
    "name",
    [
        "REDIS_PASSWORD",
        "REDIS_URL",
        "REDIS_SENTINEL_PASSWORD",
        "SSE_JWT_SECRET",
        "SSE_JWT_SECRET_PREVIOUS",
        "SSE_PUBLISH_TOKENS",
        "SSE_METRICS_TOKEN",
        "SSE_ADMIN_TOKEN",
    ],
)
def test_no_secret_is_shown(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    if name == "REDIS_SENTINEL_PASSWORD":
        monkeypatch.setenv("REDIS_SENTINELS", "a")
    loaded = from_env(monkeypatch, name, f"redis://u:s3cret{'x' * 32}@h")
    assert "s3cret" not in repr(loaded) + str(loaded) + loaded.redis_address


@pytest.mark.parametrize(
    ("text", "origins"),
    [
        ("*", ("*",)),
        ("null", ("null",)),
        ("https://a.example/", ("https://a.example",)),
        (" https://a.example , http://b.example:8080,", ("https://a.example", "http://b.example:8080")),
    ],
)
def test_origins_are_a_comma_list(
    monkeypatch: pytest.MonkeyPatch, text: str, origins: tuple[str, ...]
) -> None:
    assert from_env(monkeypatch, "SSE_CORS_ORIGINS", text).cors_origins == origins


@pytest.mark.parametrize(
    ("before", "layouts"),
    [
        (None, (("notes", 8),)),
        ("old", (("notes", 8), ("old", 0))),
        ("old/4", (("notes", 8), ("old", 4))),
        ("old/2024/0", (("notes", 8), ("old/2024", 0))),
        ("old/x", (("notes", 8), ("old/x", 0))),
        ("notes", (("notes", 8), ("notes", 0))),
    ],
)
def test_a_stream_in_partitions_and_the_one_before(
    monkeypatch: pytest.MonkeyPatch, before: str | None, layouts: tuple[tuple[str, int], ...]
) -> None:
    monkeypatch.setenv("SSE_REDIS_STREAM", "notes")
    monkeypatch.setenv("REDIS_CLUSTER", "a")  # which is then routed by nothing else
    if before is not None:
        monkeypatch.setenv("SSE_REDIS_STREAM_BEFORE", before)
    loaded = from_env(monkeypatch, "SSE_STREAM_PARTITIONS", "8")
    assert loaded.stream_layouts == layouts
    assert loaded.partitioned
    assert not loaded.by_key
    assert not load().notices


JWT = {"SSE_AUTH": "jwt"}


@pytest.mark.parametrize(
    ("environment", "named"),
    [
        (JWT, "SSE_JWT_SECRET"),
        ({**JWT, "SSE_JWT_SECRET": "s" * 32, "SSE_JWT_PUBLIC_KEY_FILE": "k.pem"}, "only one"),
        ({**JWT, "SSE_JWT_SECRET": "s" * 32, "SSE_JWT_JWKS_URL": "https://a.example"}, "only one"),
        ({**JWT, "SSE_JWT_SECRET": "s3cret" + "s" * 25}, "SSE_JWT_SECRET is too short"),
        ({**JWT, "SSE_JWT_SECRET": "s" * 32, "SSE_JWT_SECRET_PREVIOUS": "s3cret"}, "_PREVIOUS is too short"),
        (
            {**JWT, "SSE_JWT_JWKS_URL": "http://a", "SSE_JWT_SECRET_PREVIOUS": "s" * 32},
            "SSE_JWT_SECRET_PREVIOUS",
        ),
        ({"SSE_JWT_SECRET": "s" * 32}, "SSE_JWT_SECRET: without effect"),
        (
            {"SSE_JWT_COOKIE": "c", "SSE_JWT_AUDIENCE": "a", "SSE_AUTH": "none"},
            "SSE_JWT_AUDIENCE, SSE_JWT_COOKIE",
        ),
        ({"SSE_JWT_QUERY": "false"}, "SSE_AUTH=jwt"),
        ({"SSE_JWT_TOPICS_CLAIM": "topics"}, "SSE_JWT_TOPICS_CLAIM: without effect"),
        ({"SSE_PUBLIC_TOPICS": "news"}, "SSE_PUBLIC_TOPICS: without effect"),
        ({**JWT, "SSE_JWT_SECRET": "s" * 32, "SSE_JWT_USER_CLAIM": "topics"}, "SSE_JWT_TOPICS_CLAIM are one"),
        ({"SSE_PUBLISH_TOKENS": "s3cret-token-one,s3cret-token-one=news"}, "bound to topics in one place"),
        ({"SSE_PUBLISH_TOKENS": "s3cret=orders/with/a/long/name"}, "has a token that is too short"),
        ({"SSE_MAX_TOPICS": "0"}, "a number from 1 to 10000"),
        ({"SSE_PUBLISH_TOKENS": "s3cret"}, "SSE_PUBLISH_TOKENS has a token that is too short"),
        ({"SSE_PUBLISH_TOKENS": "token-number-one,s3cret-and-more"[:-1]}, "16 bytes each"),
        ({"SSE_ADMIN_TOKEN": "s3cret"}, "SSE_ADMIN_TOKEN is too short"),
        ({"SSE_ADMIN_TOKEN": "s3cret of an operator"}, "SSE_ADMIN_TOKEN has characters"),
        (
            {"SSE_ADMIN_TOKEN": "s3cret-token-one", "SSE_PUBLISH_TOKENS": "s3cret-token-one=news"},
            "SSE_ADMIN_TOKEN is one of SSE_PUBLISH_TOKENS",
        ),
        ({"SSE_METRICS_TOKEN": "s3cret"}, "SSE_METRICS_TOKEN is too short: at least 16 bytes"),
        ({"SSE_METRICS_TOKEN": "s3cret-für-prometheus"}, "SSE_METRICS_TOKEN has characters"),
        ({"SSE_METRICS_PORT": "8085"}, "SSE_METRICS_PORT and SSE_PORT are one port"),
        ({"SSE_METRICS_PORT": "65536"}, "a number from 0 to 65535"),
        ({"SSE_CANARY_SECONDS": "-1"}, "seconds, from 0 to 3600"),
        ({"SSE_TRACES_PER_SECOND": "1001"}, "a number from 0 to 1000"),
        ({"SSE_PRESENCE_TOPIC": "who"}, "SSE_PRESENCE_TOPIC has no effect without SSE_PRESENCE=true"),
        ({"SSE_REPLY_LISTS": "trio"}, "SSE_REPLY_LISTS='trio' covers 'trio_sse:'"),
        ({"SSE_REPLY_LISTS": "trio_sse:presence"}, "covers 'trio_sse:'"),
        ({"SSE_REPLY_LISTS": "e", "SSE_REDIS_STREAM": "events"}, "SSE_REPLY_LISTS='e' covers 'events'"),
        ({"SSE_TLS_CERT": "cert.pem"}, "SSE_TLS_KEY"),
        ({"SSE_TLS_KEY": "key.pem"}, "SSE_TLS_CERT"),
        ({"SSE_TLS_CERT": "/no/cert.pem", "SSE_TLS_KEY": "/no/key.pem"}, "do not load"),
        ({"SSE_TLS_CERT": "/dev/null", "SSE_TLS_KEY": "/dev/null"}, "do not load"),
    ],
)
def test_settings_that_contradict_each_other_are_one_line_that_names_them(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], named: str
) -> None:
    (line,) = mistakes(monkeypatch, **environment)
    assert named in line
    assert "\n" not in line
    assert "s3cret" not in line


@pytest.mark.parametrize(
    "environment",
    [
        {**JWT, "SSE_JWT_SECRET": "s" * 32},
        {**JWT, "SSE_JWT_SECRET": "ß" * 16},
        {**JWT, "SSE_JWT_PUBLIC_KEY_FILE": "key.pem"},
        {**JWT, "SSE_JWT_JWKS_URL": "https://a.example/keys"},
        {**JWT, "SSE_JWT_SECRET": "s" * 32, "SSE_JWT_SECRET_PREVIOUS": "t" * 32},
        {"SSE_JWT_SECRET": ""},
    ],
)
def test_one_key_is_right_and_without_auth_none_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str]
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert load().auth == environment.get("SSE_AUTH", "none")


def test_a_certificate_with_its_key_is_https(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert load().scheme == "http"
    cert, key = certificate(tmp_path)
    monkeypatch.setenv("SSE_TLS_CERT", str(cert))
    monkeypatch.setenv("SSE_TLS_KEY", str(key))
    assert load().scheme == "https"
    (line,) = mistakes(monkeypatch, SSE_TLS_KEY=str(cert))
    assert "do not load" in line
    locked = tmp_path / "locked.pem"
    command = ["openssl", "pkcs8", "-topk8", "-in", str(key), "-out", str(locked), "-passout", "pass:secret"]
    subprocess.run(command, check=True)
    (line,) = mistakes(monkeypatch, SSE_TLS_KEY=str(locked))  # and nobody is asked for the password
    assert "a key with a password cannot be used" in line


@pytest.mark.parametrize(
    ("text", "tokens"),
    [("a" * 16, ("a" * 16,)), (f" {'a' * 16} , {'b' * 17},,", ("a" * 16, "b" * 17)), (",", ()), ("", ())],
)
def test_publish_tokens_are_a_comma_list(
    monkeypatch: pytest.MonkeyPatch, text: str, tokens: tuple[str, ...]
) -> None:
    assert from_env(monkeypatch, "SSE_PUBLISH_TOKENS", text).publish_token_list == tokens


A, B = "a" * 16, "dG9rZW4tb25lLXh4"


@pytest.mark.parametrize(
    ("text", "bindings"),
    [
        (A, [(A, None)]),
        (f"{A}=", [(f"{A}=", None)]),
        (f"{B}==", [(f"{B}==", None)]),
        (f"{A}=news", [(A, "news")]),
        (f"{A}=orders/**", [(A, "orders/**")]),
        (f"{A}==orders/*", [(f"{A}=", "orders/*")]),
        (f"{B}===orders/*", [(f"{B}==", "orders/*")]),
        (f"{A}=a=b==", [(A, "a=b==")]),
        (f" {A} = news , {A}=b,{B}", [(A, "news"), (A, "b"), (B, None)]),
        (f"{A}=*\n{B}=x\n", [(A, "*"), (B, "x")]),
    ],
)
def test_a_publish_token_may_be_bound_to_topics(
    monkeypatch: pytest.MonkeyPatch, text: str, bindings: list[tuple[str, str | None]]
) -> None:
    loaded = from_env(monkeypatch, "SSE_PUBLISH_TOKENS", text)
    assert list(loaded.publish_bindings) == bindings
    assert loaded.publish_token_list == tuple(dict.fromkeys(token for token, _ in bindings))


@pytest.mark.parametrize("field", Settings.model_fields)
def test_every_setting_tells_its_meaning_and_what_it_accepts(field: str) -> None:
    described = Settings.model_fields[field]
    assert described.description
    assert isinstance(described.json_schema_extra, dict)
    assert described.json_schema_extra["accepts"]


@pytest.mark.parametrize("name", ["PORT", "HOST", "WORKERS", "BUFFER", "DIRECT", "LOG_LEVEL"])
def test_variables_of_other_programs_are_not_read(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    default = load()
    monkeypatch.setenv(name, "1")
    assert load() == default
