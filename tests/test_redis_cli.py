"""The redis-cli command that reaches a Redis. tests/test_check.py runs some."""

from __future__ import annotations

import ssl

import pytest

from trio_sse.redis_cli import command
from trio_sse.settings.redis_url import RedisServer


@pytest.mark.parametrize(
    ("server", "line"),
    [
        (RedisServer("h"), "redis-cli -h h -p 6379 GET 'a b'"),
        (RedisServer("::1", 7, database=3), "redis-cli -h ::1 -p 7 -n 3 GET 'a b'"),
        (RedisServer(path="/r s", database=0), "redis-cli -s '/r s' GET 'a b'"),
        (
            RedisServer("h", username="an n", password="s3cret"),
            """redis-cli -h h -p 6379 --user 'an n' -a "$P" GET 'a b'""",
        ),
        (
            RedisServer("h", tls={"ssl_ca_certs": "/ca", "ssl_certfile": "/c", "ssl_keyfile": "/k"}),
            "redis-cli -h h -p 6379 --tls --cacert /ca --cert /c --key /k GET 'a b'",
        ),
        (
            RedisServer("h", tls={"ssl_cert_reqs": "none", "ssl_min_version": ssl.TLSVersion.TLSv1_3}),
            "redis-cli -h h -p 6379 --tls --insecure GET 'a b'",
        ),
    ],
)
def test_all_that_is_configured_is_in_the_line_but_the_password(server: RedisServer, line: str) -> None:
    assert command(server, "GET", "a b", password='"$P"') == line
