"""REDIS_… settings that are fine alone: what ends the start, what is said, what is nobody's business."""

from __future__ import annotations

import os
from collections.abc import Iterator
from unittest import mock

import pytest

from trio_sse.settings import SettingsError, load

URL = {"REDIS_URL": "redis://ann:s3cret@h:7000/3"}
SENTINELS = {"REDIS_SENTINELS": "a,b"}
STREAM = {"SSE_REDIS_STREAM": "events"}
BY_KEY = {"SSE_REDIS_ROUTING": "by-key"}
CLUSTER = {"REDIS_CLUSTER": "a,b", **BY_KEY}
PARTS = {**STREAM, "SSE_STREAM_PARTITIONS": "8"}
BEFORE = "SSE_REDIS_STREAM_BEFORE"


@pytest.fixture(autouse=True)
def _empty_environment() -> Iterator[None]:
    with mock.patch.dict(os.environ, clear=True):
        yield


@pytest.mark.parametrize(
    ("environment", "named"),
    [
        ({**URL, "REDIS_HOST": "other"}, "REDIS_HOST"),
        ({**URL, "REDIS_PORT": "6379"}, "REDIS_PORT"),
        ({**URL, "REDIS_USERNAME": "bob"}, "REDIS_USERNAME"),
        ({**URL, "REDIS_PASSWORD": "oth3r"}, "REDIS_PASSWORD"),
        ({"REDIS_URL": "redis://h", "REDIS_PASSWORD": "oth3r"}, "REDIS_PASSWORD"),
        ({"REDIS_URL": "unix:///r.sock", "REDIS_HOST": "h"}, "REDIS_HOST"),
        ({**URL, **STREAM, "REDIS_MAIN_DB": "1"}, "REDIS_MAIN_DB"),
        ({**URL, "SSE_PUBLISH_TOKENS": "a" * 32, "REDIS_MAIN_DB": "1"}, "REDIS_MAIN_DB"),
        ({"REDIS_URL": "redis://h", **STREAM, "REDIS_MAIN_DB": "1"}, "REDIS_MAIN_DB"),
        ({"REDIS_URL": "redis://h", "SSE_PRESENCE": "true", "REDIS_MAIN_DB": "1"}, "REDIS_MAIN_DB"),
        ({"REDIS_URL": "redis://h", "SSE_REPLY_LISTS": "r:", "REDIS_MAIN_DB": "1"}, "REDIS_MAIN_DB"),
        ({**URL, **SENTINELS}, "REDIS_SENTINELS and REDIS_URL"),
        ({"REDIS_URL": "unix:///r.sock", **SENTINELS}, "REDIS_SENTINELS and REDIS_URL"),
        ({"REDIS_URL": "redis://:s3cret@/3", **SENTINELS, "REDIS_PASSWORD": "oth3r"}, "REDIS_PASSWORD"),
        ({**SENTINELS, "REDIS_HOST": "h"}, "REDIS_HOST"),
        ({**SENTINELS, "REDIS_PORT": "7000"}, "REDIS_PORT"),
        ({"REDIS_URL": "unix:///r.sock", **CLUSTER}, "REDIS_CLUSTER and REDIS_URL"),
        ({"REDIS_URL": "redis://:s3cret@/", **CLUSTER, "REDIS_PASSWORD": "oth3r"}, "REDIS_PASSWORD"),
        ({"REDIS_URL": "redis://:s3cret@/3"}, "it has no host"),
        ({"REDIS_SENTINEL_MASTER": "front"}, "REDIS_SENTINEL_MASTER"),
        ({"REDIS_SENTINEL_USERNAME": "eye"}, "REDIS_SENTINEL_USERNAME"),
        ({"REDIS_SENTINEL_PASSWORD": "s3cret"}, "REDIS_SENTINEL_PASSWORD"),
        ({**BY_KEY, **STREAM}, "SSE_REDIS_STREAM"),
        ({"REDIS_CLUSTER": "a,b", "SSE_REDIS_ROUTING": "shared"}, "REDIS_CLUSTER is routed by key"),
        ({**CLUSTER, **STREAM}, "SSE_REDIS_STREAM"),
        ({**CLUSTER, **SENTINELS}, "REDIS_CLUSTER and REDIS_SENTINELS"),
        ({**CLUSTER, **URL}, "REDIS_CLUSTER and REDIS_URL"),
        ({**CLUSTER, "REDIS_HOST": "h"}, "REDIS_HOST has no effect beside REDIS_CLUSTER"),
        ({**CLUSTER, "REDIS_PORT": "7000"}, "REDIS_PORT has no effect beside REDIS_CLUSTER"),
        ({**CLUSTER, "REDIS_SENTINEL_MASTER": "front"}, "REDIS_SENTINEL_MASTER"),
        ({**CLUSTER, "REDIS_URL": "redis://:s3cret@", "REDIS_PASSWORD": "oth3r"}, "REDIS_PASSWORD"),
        ({"SSE_STREAM_PARTITIONS": "8"}, "no effect without SSE_REDIS_STREAM"),
        ({**PARTS, **BY_KEY}, "SSE_STREAM_PARTITIONS has none"),
        ({**PARTS, **CLUSTER}, "SSE_STREAM_PARTITIONS has none"),
        ({"REDIS_CLUSTER": "a", **STREAM}, "or set SSE_STREAM_PARTITIONS"),
        ({**STREAM, BEFORE: "old"}, "SSE_REDIS_STREAM_BEFORE has no effect"),
        ({**PARTS, BEFORE: "old/8"}, "must be another"),
        ({**PARTS, BEFORE: "events/4"}, "has the keys of SSE_REDIS_STREAM"),
        ({**PARTS, BEFORE: "old/2024"}, "write old/2024/0"),
        ({**PARTS, BEFORE: "old", "SSE_REPLY_LISTS": "old"}, "SSE_REPLY_LISTS"),
        ({**PARTS, "SSE_REPLY_LISTS": "events:"}, "SSE_REPLY_LISTS"),
        ({**URL, **PARTS, "REDIS_MAIN_DB": "1"}, "REDIS_MAIN_DB"),
        ({**PARTS, "REDIS_CLUSTER": "a", "SSE_REDIS_STREAM": "{x}notes"}, "all its partitions"),
        ({**PARTS, "REDIS_CLUSTER": "a", "REDIS_HOST": "h"}, "REDIS_HOST has no effect beside REDIS_CLUSTER"),
    ],
)
def test_what_would_have_no_effect_ends_the_start_with_one_line(
    environment: dict[str, str], named: str
) -> None:
    os.environ.update(environment)
    with pytest.raises(SettingsError) as caught:
        load()
    (line,) = caught.value.lines
    assert named in line
    assert "s3cret" not in line
    assert "oth3r" not in line


@pytest.mark.parametrize("nodes", ["a,b:7000", "rediss://a,rediss://b:7000"])
@pytest.mark.parametrize("url", [None, "redis://:pw@/", "rediss://u:pw@/?ssl_check_hostname=false"])
def test_a_cluster_has_login_and_tls_of_the_url_without_an_address(nodes: str, url: str | None) -> None:
    """Where either says TLS, no password leaves in the clear."""
    os.environ.update({"REDIS_CLUSTER": nodes, **({"REDIS_URL": url} if url else {})})
    settings = load()
    assert [str(server) for server in settings.cluster_servers] == ["a:6379", "b:7000"]
    assert settings.redis_server == settings.cluster_servers[0]
    for server in settings.cluster_servers:
        assert server.password == ("pw" if url else None)
        assert (server.tls is not None) == ("rediss" in nodes or "rediss" in (url or ""))
        assert ("ssl_check_hostname" in (server.tls or {})) == ("rediss" in (url or ""))


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({**URL, "REDIS_HOST": "h", "REDIS_PORT": "7000"}, ["REDIS_HOST, REDIS_PORT: no effect"]),
        ({**URL, "REDIS_PASSWORD": "s3cret", "REDIS_USERNAME": "ann"}, ["REDIS_PASSWORD, REDIS_USERNAME"]),
        ({**URL, **STREAM, "REDIS_MAIN_DB": "3"}, ["REDIS_MAIN_DB"]),
        ({**URL, "REDIS_MAIN_DB": "1"}, ["REDIS_MAIN_DB: no effect beside REDIS_URL; a channel"]),
        ({**URL, "REDIS_MAIN_DB": "1", "REDIS_HOST": "h"}, ["REDIS_HOST", "REDIS_MAIN_DB"]),
        (URL, []),
        ({"SSE_LIMITS_SHARED": "true"}, ["SSE_LIMITS_SHARED: no effect"]),
        ({"SSE_LIMITS_SHARED": "true", "SSE_MAX_CONNECTIONS_PER_USER": "5"}, []),
        ({"SSE_LIMITS_WITHOUT_REDIS": "closed"}, ["SSE_LIMITS_WITHOUT_REDIS: no effect"]),
        ({"SSE_EXPLAIN_RECORDS": "5"}, ["SSE_EXPLAIN_RECORDS: no effect without SSE_ADMIN_TOKEN"]),
        ({"SSE_ADMIN_TOKEN": "x" * 16, "SSE_EXPLAIN_BYTES": "5"}, []),
        (
            {"SSE_ADMIN_TOKEN": "x" * 16, "SSE_REVOKED_WITHOUT_REDIS": "closed"},
            ["SSE_REVOKED_WITHOUT_REDIS: no effect without SSE_AUTH=jwt"],
        ),
        ({"SSE_REBALANCE": "0.1"}, ["SSE_REBALANCE without SSE_REDIS_STREAM"]),
        ({"SSE_REBALANCE": "0.1", **STREAM}, []),
        ({"REDIS_URL": "rediss://:s3cret@/3", **SENTINELS, "REDIS_SENTINEL_MASTER": "front"}, []),
        ({"REDIS_HOST": "h", "REDIS_PORT": "7", "REDIS_PASSWORD": "s3cret", "REDIS_MAIN_DB": "7"}, []),
        ({**CLUSTER, "REDIS_USERNAME": "ann", "REDIS_PASSWORD": "s3cret"}, []),
        ({**CLUSTER, "REDIS_URL": "rediss://:s3cret@"}, []),
        ({**BY_KEY, **SENTINELS}, []),
        ({**PARTS, **SENTINELS}, []),
        ({**PARTS, "REDIS_CLUSTER": "a,b", BEFORE: "events"}, []),
        ({**PARTS, "SSE_REDIS_ROUTING": "shared", BEFORE: "old/4", "SSE_REBALANCE": "0.1"}, []),
        ({**SENTINELS, "REDIS_USERNAME": "ann", "REDIS_PASSWORD": "s3cret", "REDIS_MAIN_DB": "7"}, []),
    ],
)
def test_what_is_harmless_is_said_in_one_line(environment: dict[str, str], said: list[str]) -> None:
    os.environ.update(environment)
    lines = load().notices
    assert len(lines) == len(said)
    for line, start in zip(lines, said, strict=True):
        assert line.startswith(start)
        assert "s3cret" not in line


@pytest.mark.parametrize(
    ("name", "listed", "covers"),
    [
        ("SSE_CORS_ORIGINS", "https://*.com", True),
        ("SSE_CORS_ORIGINS", "https://*.co.uk:8443,https://a.example", True),
        ("SSE_CORS_ORIGINS", "https://*.рф", True),
        ("SSE_ALLOWED_HOSTS", "*.net", True),
        ("SSE_CORS_ORIGINS", "https://*.example.com,http://*.localhost:3000,https://*.co.example", False),
        ("SSE_CORS_ORIGINS", "*", False),
    ],
)
def test_a_pattern_for_everybody_s_names_is_said_in_one_line(name: str, listed: str, covers: bool) -> None:
    os.environ[name] = listed
    assert [name in line for line in load().notices] == [True] * covers
