"""REDIS_URL: what is taken, and what is refused in one line."""

from __future__ import annotations

import contextlib
import ssl
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.valkeys import certificate
from trio_sse.settings.redis_url import RedisServer, RedisURLError, has_secret, parse


@pytest.mark.parametrize(
    ("url", "server"),
    [
        ("redis://h", RedisServer("h")),
        (" REDIS://h:7000/ \n", RedisServer("h", 7000)),
        ("redis://h/3", RedisServer("h", database=3)),
        ("redis://h?db=3", RedisServer("h", database=3)),
        ("redis://h/3?db=3", RedisServer("h", database=3)),
        ("redis://[::1]:7000", RedisServer("::1", 7000)),
        ("redis://ann:p%40%2F%23%25@h", RedisServer("h", username="ann", password="p@/#%")),
        ("redis://:p@ss@h", RedisServer("h", password="p@ss")),
        ("redis://h?username=ann&password=p%26", RedisServer("h", username="ann", password="p&")),
        ("redis://h?client_name=sse&protocol=2", RedisServer("h", client_name="sse")),
        ("unix:///run/r.sock?db=2", RedisServer(port=0, path="/run/r.sock", database=2)),
        ("unix://ann:p%20w@/r", RedisServer(port=0, path="/r", username="ann", password="p w")),
        ("rediss://h", RedisServer("h", tls={})),
        ("rediss://h?ssl_cert_reqs=CERT_NONE", RedisServer("h", tls={"ssl_cert_reqs": "none"})),
        ("rediss://h?ssl_check_hostname=False", RedisServer("h", tls={"ssl_check_hostname": False})),
        ("rediss://h?ssl_min_version=1.3", RedisServer("h", tls={"ssl_min_version": ssl.TLSVersion.TLSv1_3})),
    ],
)
def test_what_means_something_is_taken(url: str, server: RedisServer) -> None:
    assert parse(url) == server


@pytest.mark.parametrize(
    ("url", "named"),
    [
        ("redis://h?ssl_cert_reqs=none", "rediss://"),
        ("unix:///s?ssl_cert_reqs=none", "rediss://"),
        ("redis://h?timeout=20", "'timeout' is unknown; known are client_name, db"),
        ("redis://h?foo=bar", "'foo'"),
        ("redis://h?encoding=utf-16", "'encoding'"),
        ("redis://h?decode_responses=true", "'decode_responses'"),
        ("redis://h?protocol=3", "protocol"),
        ("redis://h?DB=1", "'DB'"),
        ("redis://h?db=x", "db"),
        ("redis://h?db=-1", "db"),
        ("redis://h?db=65536", "db"),
        ("redis://h?db=", "db"),
        ("redis://h/3?db=4", "twice"),
        ("redis://h?db=3&db=4", "twice"),
        ("redis://:a@h?password=b", "twice"),
        ("redis://h?client_name=a%20b", "client_name"),
        ("redis://h?client_name=a%0Ab", "client_name"),
        ("redis://h/3/4", "database"),
        ("redis://h/%33", "database"),
        ("redis://h\t:1", "control"),
        ("redis://h#1", "%23"),
        ("unix://run/r.sock", "absolute"),
        ("unix:///", "path"),
        ("rediss://h?ssl_cert_reqs=perhaps", "ssl_cert_reqs"),
        ("rediss://h?ssl_check_hostname=perhaps", "ssl_check_hostname"),
        ("rediss://h?ssl_min_version=9", "ssl_min_version"),
        ("rediss://h?ssl_ca_certs=/no/such.pem", "ssl_ca_certs"),
        ("rediss://h?ssl_ca_certs=/dev/null", "ssl_ca_certs"),
        ("rediss://h?ssl_certfile=/no/such.pem", "ssl_certfile"),
        ("rediss://h?ssl_keyfile=/no/such.pem", "ssl_certfile"),
        ("rediss://h?ssl_ciphers=nonsense", "ssl_ciphers"),
    ],
)
def test_the_rest_is_refused_in_one_line_that_names_it(url: str, named: str) -> None:
    with pytest.raises(RedisURLError) as caught:
        parse(url)
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "url", ["redis://:pa?s3cret=1@h", "redis://u?s3cret@h:1", "redis://:s3cret#@h", "redis://h?s3cret@=1"]
)
def test_no_piece_of_a_password_is_taken_for_an_option_and_shown(url: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse(url)
    assert not isinstance(caught.value, RedisURLError) or "s3cret" not in str(caught.value)


def test_files_of_tls_are_tried_at_the_start(tmp_path: Path) -> None:
    cert, key = certificate(tmp_path)
    options = {"ssl_ca_certs": str(cert), "ssl_certfile": str(cert), "ssl_keyfile": str(key)}
    url = "rediss://h?" + "&".join(f"{name}={value}" for name, value in options.items())
    assert parse(url).tls == options
    with pytest.raises(RedisURLError):
        parse(f"rediss://h?ssl_certfile={cert}&ssl_keyfile={cert}")


def test_an_address_is_told_without_a_password() -> None:
    told = [str(parse(url)) for url in ("redis://u:s3cret@h", "redis://[::1]:7", "unix://:s3cret@/r.sock")]
    assert told == ["h:6379", "[::1]:7", "/r.sock"]


@pytest.mark.parametrize(
    ("url", "secret"),
    [
        ("redis://h:6379/1", False),
        ("redis://ann@h", False),
        ("rediss://h?ssl_cert_reqs=none", False),
        ("", False),
        ("redis://:pw@h", True),
        ("redis://u:p@w@h", True),
        ("redis://:p/w@h", True),
        ("unix://:pw@/s", True),
        ("redis://h?password=pw", True),
        ("redis://h?pass%77ord=pw", True),
        ("rediss://h?ssl_password=pw", True),
    ],
)
def test_a_password_is_seen(url: str, secret: bool) -> None:
    assert has_secret(url) is secret


@given(st.sampled_from(["redis://", "rediss://", "unix://", ""]), st.text())
def test_any_text_is_taken_or_refused(scheme: str, rest: str) -> None:
    with contextlib.suppress(ValueError):
        taken = parse(scheme + rest)
        assert taken.host or taken.path
