"""What an error of Redis means: one line that names what cures it."""

from __future__ import annotations

import ssl
from typing import Any

import pytest
from redis import exceptions as refused
from redis._parsers.base import BaseParser

from tests.support.inside import settings
from trio_sse.broker.errors import NoMasterError, PartlyError, ReplicaError, advice, of_redis
from trio_sse.settings import Settings


def parsed(said: str) -> Exception:
    """An error as redis-py makes it of what Redis says."""
    error: Exception = BaseParser.parse_error(said)  # type: ignore[no-untyped-call]
    return error


SINGLE = settings()
URL = settings(redis_url="redis://h")
TLS = settings(redis_url="rediss://h")


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("NOAUTH Authentication required.", "REDIS_USERNAME, REDIS_PASSWORD"),
        ("WRONGPASS invalid username-password pair", "REDIS_USERNAME, REDIS_PASSWORD"),
        ("ERR invalid password", "REDIS_USERNAME, REDIS_PASSWORD"),
        ("ERR AUTH <password> called without any password configured for the default user.", "leave it out"),
        ("NOPERM this user has no permissions to run 'ping'", "SSE_REDIS_CHANNEL"),
        ("ERR DB index is out of range", "REDIS_MAIN_DB"),
        ("ERR SELECT is not allowed in cluster mode", "REDIS_MAIN_DB"),
        ("WRONGTYPE Operation against a key", "SSE_REDIS_STREAM"),
        ("MOVED 9643 127.0.0.1:7001", "REDIS_HOST"),
        ("ASK 9643 127.0.0.1:7001", "REDIS_HOST"),
        ("CROSSSLOT Keys in request don't hash to the same slot", "SSE_REDIS_STREAM"),
        ("ERR Script attempted to access a non local key in a cluster node", "SSE_REDIS_STREAM"),
        ("TRYAGAIN Multiple keys request during rehashing of slot", "tries again"),
        ("CLUSTERDOWN Hash slot not served", "CLUSTER INFO"),
        ("LOADING Redis is loading the dataset in memory", "tries again"),
        ("MASTERDOWN Link with MASTER is down", "REDIS_HOST"),
        ("READONLY You can't write against a read only replica.", "REDIS_SENTINELS"),
        ("OOM command not allowed when used memory > 'maxmemory'.", "maxmemory"),
        ("MISCONF Redis is configured to save RDB snapshots", "disk"),
        ("NOREPLICAS Not enough good replicas to write.", "min-replicas-to-write"),
        ("BUSY Redis is busy running a script.", "SCRIPT KILL"),
        ("ERR max number of clients reached", "maxclients"),
        ("ERR unknown command 'XINFO'", "Redis 5"),
        ("ERR something else", "REDIS_HOST"),
    ],
)
def test_what_redis_says_becomes_one_line_with_its_code_and_the_cure(said: str, told: str) -> None:
    line = advice(parsed(said), SINGLE)
    assert line.startswith(said.removeprefix("ERR "))
    assert told in line.removeprefix(said.removeprefix("ERR "))
    assert "\n" not in line
    assert "{" not in line


BY_KEY = settings(redis_routing="by-key", redis_channel="n")
CLUSTER = settings(redis_cluster="h:7000", redis_channel="n")


@pytest.mark.parametrize(
    ("said", "told", "where"),
    [
        ("NOPERM No permissions to access a channel", "channels &n:* (SSE_REDIS_CHANNEL)", BY_KEY),
        ("ERR ACL failure in script: No permissions to access a channel", "REDIS_USERNAME", BY_KEY),
        ("ERR This instance has cluster support disabled", "REDIS_CLUSTER names a Redis that is", CLUSTER),
        ("ERR unknown command 'SSUBSCRIBE', with args", "REDIS_CLUSTER takes Redis 7", CLUSTER),
        ("CLUSTERDOWN The cluster is down", "the cluster at REDIS_CLUSTER is not complete", CLUSTER),
        ("READONLY You can't write against a read only replica.", "REDIS_CLUSTER", CLUSTER),
        ("ERR something else", "REDIS_CLUSTER", CLUSTER),
    ],
)
def test_by_key_and_in_a_cluster_its_own_settings_are_named(said: str, told: str, where: Settings) -> None:
    line = advice(parsed(said), where)
    assert told in line
    assert "REDIS_STREAM" not in line
    assert "REDIS_HOST" not in line or "cluster support" in said


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (OSError("Connect call failed"), "cluster-announce-ip"),
        (refused.ConnectionError("Connection closed by server."), "REDIS_CLUSTER=rediss://"),
        (ssl.SSLError("certificate verify failed"), "REDIS_CLUSTER: ssl_ca_certs"),
        (refused.InvalidResponse("Protocol error, got 'H' as reply type byte"), "rediss:// in REDIS_CLUSTER"),
    ],
)
def test_errors_of_the_network_name_the_cluster(error: Exception, told: str) -> None:
    line = advice(error, CLUSTER)
    assert told in line
    assert "REDIS_HOST" not in line
    assert "REDIS_URL" not in line
    assert "{" not in line


def test_what_was_published_in_part_is_said_with_the_reason() -> None:
    line = advice(PartlyError(parsed("NOPERM No permissions to access a channel")), BY_KEY)
    assert line.startswith("a part was published, then: NOPERM No permissions")
    assert "REDIS_USERNAME" in line


def test_protected_mode_is_told_in_short() -> None:
    said = (
        "DENIED Redis is running in protected mode because x. In this mode\r\n 1) Just disable " + "y" * 900
    )
    line = advice(parsed(said), SINGLE)
    assert line.startswith("DENIED Redis is running in protected mode because x (")
    assert len(line) < 300


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (refused.AuthenticationError("no"), "REDIS_USERNAME, REDIS_PASSWORD"),
        (ssl.SSLError("wrong version number"), "rediss://"),
        (refused.ConnectionError("SSL handshake failed"), "rediss://"),
        (refused.ConnectionError("Connection closed by server."), "REDIS_URL=rediss://"),
        (refused.InvalidResponse("Protocol error, got 'H' as reply type byte"), "is no Redis"),
        (OSError(111, "refused"), "REDIS_HOST, REDIS_PORT or REDIS_URL"),
        (TimeoutError(), "TimeoutError (REDIS_HOST"),
        (NoMasterError("all are away (REDIS_SENTINELS)"), "all are away (REDIS_SENTINELS)"),
        (ReplicaError("10.0.0.1:6379"), "REDIS_SENTINELS"),
    ],
)
def test_what_the_way_to_redis_says_names_the_setting(error: Exception, told: str) -> None:
    assert told in advice(error, SINGLE)


@pytest.mark.parametrize(
    "error",
    [
        refused.AuthenticationError("no"),
        OSError(111, "refused"),
        parsed("ERR DB index is out of range"),
        parsed("READONLY You can't write against a read only replica."),
    ],
)
def test_beside_a_url_it_is_the_url_that_cures(error: Exception) -> None:
    line = advice(error, URL)
    assert "REDIS_URL" in line
    for name in ("REDIS_HOST", "REDIS_PASSWORD", "REDIS_MAIN_DB"):
        assert name not in line


@pytest.mark.parametrize(
    ("text", "option"),
    [
        ("certificate verify failed: unable to get local issuer certificate", "ssl_ca_certs"),
        (
            "certificate verify failed: Hostname mismatch, certificate is not valid for 'h'",
            "ssl_check_hostname",
        ),
        ("certificate verify failed: IP address mismatch", "ssl_check_hostname"),
        ("Connection reset by peer", "ssl_certfile"),
        ("no answer for 5 s", "without TLS"),
    ],
)
def test_with_tls_the_option_of_the_url_is_named(text: str, option: str) -> None:
    assert option in advice(refused.ConnectionError(text), TLS)


def test_the_tls_error_behind_a_connection_error_is_seen() -> None:
    error: Any = refused.ConnectionError("it failed")
    error.__cause__ = ssl.SSLError("bad certificate")
    assert "rediss://" in advice(error, SINGLE)


def test_a_long_text_is_cut() -> None:
    assert len(advice(refused.ResponseError("x" * 5000), SINGLE)) < 500


def test_of_the_redis_of_the_settings_the_address_is_told_too() -> None:
    error = refused.ConnectionError("it failed")
    assert of_redis(error, SINGLE) == f"Redis at {SINGLE.redis_address}: {advice(error, SINGLE)}"
