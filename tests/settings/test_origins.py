"""Origins and hosts, as browsers write them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_sse.settings.origins import is_allowed_host, is_listed, normal_host, normal_origin


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("https://a.example", "https://a.example"),
        ("HTTPS://A.Example:443/", "https://a.example"),
        ("http://a.example:80", "http://a.example"),
        ("http://a.example:443", "http://a.example:443"),
        ("https://a.example:0443", "https://a.example"),
        ("https://Bücher.example", "https://xn--bcher-kva.example"),
        ("https://faß.example", "https://xn--fa-hia.example"),
        ("https://例え.テスト:8443", "https://xn--r8jz45g.xn--zckzah:8443"),
        ("https://XN--Bcher-kva.example", "https://xn--bcher-kva.example"),
        ("http://[0:0:0::1]:3000", "http://[::1]:3000"),
        ("http://127.0.0.1:80", "http://127.0.0.1"),
        ("http://my_app.example", "http://my_app.example"),
        ("https://*.Example.com:443", "https://*.example.com"),
        ("capacitor://localhost", "capacitor://localhost"),
        ("ionic://localhost", "ionic://localhost"),
        ("tauri://localhost", "tauri://localhost"),
        ("app://obsidian.md", "app://obsidian.md"),
        ("chrome-extension://abcdefghijklmnop", "chrome-extension://abcdefghijklmnop"),
        ("moz-extension://6B5A-11", "moz-extension://6b5a-11"),
        ("NULL", "null"),
    ],
)
def test_an_origin_is_written_as_browsers_write_it(text: str, normal: str) -> None:
    assert normal_origin(text) == normal
    assert normal_origin(normal) == normal


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a.example",
        "https://",
        "https:///",
        "https://a/b",
        "https://a?b",
        "https://u@a",
        "https://a:99999",
        "https://a:0",
        "https://a b",
        "https://a%20b",
        "https://*",
        "*://a",
        "https://a.*",
        "https://*a.example",
        "https://*.*.a",
        "https://[::g]",
        "https://1.2.3.4.5",
        "http://0x7f.1",
        "http://127.1",
        "https://a\r\n",
        "file://",
        "https://☃\ufffd",
    ],
)
def test_what_is_no_origin_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        normal_origin(text)


@pytest.mark.parametrize("text", [".", "..", "a..", ".a", "a..b", "*..", "*."])
def test_a_name_with_a_part_that_is_empty_is_no_host(text: str) -> None:
    with pytest.raises(ValueError):
        normal_host(text)
    assert normal_host("a.b.") == "a.b"


@given(st.text())
def test_no_text_makes_it_raise_anything_else(text: str) -> None:
    for normal in (normal_origin, normal_host):
        try:
            found = normal(f"https://{text}" if normal is normal_origin else text)
        except ValueError:
            continue
        assert normal(found) == found
        assert found.isascii()
        assert found.isprintable()


PATTERNS = ("https://*.example.com", "https://b.example:8443", "capacitor://localhost")


@pytest.mark.parametrize(
    "origin",
    [
        "https://a.example.com",
        "https://a.b.example.com",
        "https://A.example.com",
        "https://b.example:8443",
        "capacitor://localhost",
    ],
)
def test_an_origin_of_a_pattern_is_listed(origin: str) -> None:
    assert is_listed(origin, PATTERNS)


@pytest.mark.parametrize(
    "origin",
    [
        "",
        "https://example.com",
        "https://.example.com",
        "https://evilexample.com",
        "http://a.example.com",
        "https://a.example.com:444",
        "https://a.example.com.evil",
        "https://evil/.example.com",
        "https://u@a.example.com",
        "https://a.example.com\n",
        "https://a\r\n.example.com",
        "https://é.example.com",
        "https://b.example",
        "null",
        "capacitor://localhost.evil",
    ],
)
def test_no_other_is(origin: str) -> None:
    assert not is_listed(origin, PATTERNS)


@pytest.mark.parametrize(
    "host",
    [
        "sse.example",
        "SSE.example:8085",
        "sse.example.",
        "a.b.example",
        "127.0.0.1:8085",
        "[::1]:8085",
        "10.1.2.3",
        "localhost",
        "app.localhost:3000",
        "",
    ],
)
def test_a_host_that_is_listed_or_cannot_be_another_s_is_allowed(host: str) -> None:
    assert is_allowed_host(host, ("sse.example", "*.b.example"))


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "b.example",
        "sse.example.evil",
        "evil.example:8085",
        "127.0.0.1.evil.example",
        "a b",
        "[::1",
        "evil@sse.example",
        "localhost.evil.example",
        "2130706433",
        "sse.example, evil.example",
        "\xff",
    ],
)
def test_any_other_host_is_not(host: str) -> None:
    assert not is_allowed_host(host, ("sse.example", "*.b.example"))
    assert is_allowed_host(host, ("*",))
