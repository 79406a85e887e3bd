"""Whose address limits count by, and that nobody can choose another."""

from __future__ import annotations

from ipaddress import ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_sse.access.addresses import client_address, parse
from trio_sse.settings import UNIX, Proxy

PROXIES = (ip_network("10.0.0.0/8"), ip_network("fd00::/8"), ip_network("127.0.0.1/32"))


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("192.0.2.1", "192.0.2.1"),
        (" 192.0.2.1\t", "192.0.2.1"),
        ("192.0.2.1:4711", "192.0.2.1"),
        ('"192.0.2.1:4711"', "192.0.2.1"),
        ("2001:db8::1", "2001:db8::1"),
        ("[2001:db8::1]", "2001:db8::1"),
        ("[2001:db8::1]:4711", "2001:db8::1"),
        ('"[2001:DB8::1]:4711"', "2001:db8::1"),
        ("fe80::1%eth0", "fe80::1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("[::ffff:192.0.2.1]:80", "192.0.2.1"),
        ("", None),
        ("unknown", None),
        ("_hidden", None),
        ("localhost", None),
        ("192.0.2", None),
        ("192.0.2.256", None),
        ("192.0.2.1.", None),
        ("0x7f.1", None),
        ("2130706433", None),
        ("١٩٢.0.2.1", None),
        ("[", None),
        ("]", None),
        (":::", None),
        ("1:2:3", None),
        ("2001:db8::1\r\nx", None),
    ],
)
def test_an_address_as_it_stands_in_sockets_and_headers(text: str, address: str | None) -> None:
    found = parse(text)
    assert (str(found) if found else None) == address


@pytest.mark.parametrize(
    ("peer", "counted"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::1", "2001:db8:1:2::/64"),
        ("::1", "::/64"),
        ("", ""),  # a Unix socket has none
        ("/run/x.sock", "/run/x.sock"),
    ],
)
def test_ipv4_counts_by_address_and_ipv6_by_what_one_customer_has(peer: str, counted: str) -> None:
    assert client_address(peer, {}, ()) == counted


@pytest.mark.parametrize("name", [b"x-forwarded-for", b"forwarded"])
def test_without_trusted_proxies_headers_are_not_read(name: bytes) -> None:
    headers = {name: b"for=192.0.2.9" if name == b"forwarded" else b"192.0.2.9"}
    assert client_address("127.0.0.1", headers, ()) == "127.0.0.1"
    assert client_address("192.0.2.1", headers, PROXIES) == "192.0.2.1", "the peer is no proxy of ours"


@pytest.mark.parametrize(
    ("value", "counted"),
    [
        (b"192.0.2.1", "192.0.2.1"),
        (b"192.0.2.66, 192.0.2.1", "192.0.2.1"),
        (b"192.0.2.66, 192.0.2.1, 10.0.0.7", "192.0.2.1"),
        (b"192.0.2.66,192.0.2.1,10.0.0.7,10.0.0.8", "192.0.2.1"),
        (b"192.0.2.1:4711, [fd00::1]:80", "192.0.2.1"),
        (b"2001:db8:1:2:3::4, 10.0.0.7", "2001:db8:1:2::/64"),
        (b"10.0.0.9", "10.0.0.9"),
        (b"10.0.0.9, 10.0.0.8", "10.0.0.9"),  # all are proxies: the farthest
        (b"192.0.2.66, unknown, 10.0.0.8", "10.0.0.8"),  # nobody knows who is behind that
        (b"192.0.2.66, \xff\xfe", "127.0.0.1"),
        (b"192.0.2.66,", "127.0.0.1"),
        (b"", "127.0.0.1"),
        (b",,,", "127.0.0.1"),
    ],
)
def test_x_forwarded_for_is_read_from_the_right_past_trusted_proxies(value: bytes, counted: str) -> None:
    assert client_address("127.0.0.1", {b"x-forwarded-for": value}, PROXIES) == counted


@pytest.mark.parametrize(
    ("value", "counted"),
    [
        (b"for=192.0.2.1", "192.0.2.1"),
        (b'For="[2001:db8:1:2::4]:4711";proto=https;by=10.0.0.1', "2001:db8:1:2::/64"),
        (b"for=192.0.2.66, by=x; FOR = 192.0.2.1 ;host=y, for=10.0.0.8", "192.0.2.1"),
        (b"for=192.0.2.66, for=unknown", "127.0.0.1"),
        (b"for=192.0.2.66, for=_hidden", "127.0.0.1"),
        (b"for=192.0.2.66, proto=https", "127.0.0.1"),
        (b'for="192.0.2.66, for=192.0.2.1', "192.0.2.1"),  # a quote that is never closed swallows nothing
        (b"192.0.2.66", "127.0.0.1"),
    ],
)
def test_forwarded_is_read_from_the_right_too(value: bytes, counted: str) -> None:
    assert client_address("127.0.0.1", {b"forwarded": value}, PROXIES) == counted


def test_a_header_that_the_proxy_only_passed_on_gives_nobody_another_address() -> None:
    """nginx, HAProxy and most load balancers append to X-Forwarded-For, and leave Forwarded as it came."""
    spoofed = {
        client_address(
            "10.0.0.1",
            {b"x-forwarded-for": b"192.0.2.1", b"forwarded": b"for=198.51.100.%d" % number},
            PROXIES,
        )
        for number in range(3)
    }
    assert len(spoofed) == 1


def test_a_proxy_that_speaks_ipv4_over_ipv6_is_trusted_as_what_it_is() -> None:
    headers = {b"x-forwarded-for": b"192.0.2.1"}
    assert client_address("::ffff:10.0.0.1", headers, PROXIES) == "192.0.2.1"


WRITTEN = st.sampled_from(
    [b"192.0.2.66", b"10.0.0.9", b"for=1.2.3.4", b'"', b'for="', b";", b"[", b"::1", b"unknown", b" ", b"\t"]
)
BY_CLIENTS = st.lists(WRITTEN | st.binary().map(lambda junk: junk.replace(b",", b"")), max_size=5)


@given(BY_CLIENTS, st.booleans())
def test_what_a_client_writes_left_of_its_address_changes_nothing(made_up: list[bytes], rfc: bool) -> None:
    name, own = (b"forwarded", b"for=192.0.2.1") if rfc else (b"x-forwarded-for", b"192.0.2.1")
    headers = {name: b", ".join([*made_up, own, own.replace(b"192.0.2.1", b"10.0.0.8")])}
    assert client_address("10.0.0.1", headers, PROXIES) == "192.0.2.1"


@given(st.text(), st.binary(), st.binary())
def test_no_bytes_make_it_raise(peer: str, forwarded: bytes, x_forwarded_for: bytes) -> None:
    for headers in ({b"forwarded": forwarded}, {b"x-forwarded-for": x_forwarded_for}):
        assert isinstance(client_address(peer, headers, PROXIES), str)
        assert isinstance(client_address("10.0.0.1", headers, PROXIES), str)


@pytest.mark.parametrize(
    ("trusted", "forwarded_for", "counted"),
    [
        ((UNIX,), b"192.0.2.1", "192.0.2.1"),
        ((UNIX,), b"203.0.113.9, 192.0.2.1", "192.0.2.1"),
        ((UNIX, *PROXIES), b"192.0.2.1, 10.0.0.1", "192.0.2.1"),
        ((UNIX,), b"192.0.2.1, unix", UNIX),
        ((UNIX,), b"", UNIX),
        (PROXIES, b"192.0.2.1", UNIX),
        ((), b"192.0.2.1", UNIX),
    ],
)
def test_a_proxy_at_a_unix_socket(trusted: tuple[Proxy, ...], forwarded_for: bytes, counted: str) -> None:
    assert client_address(UNIX, {b"x-forwarded-for": forwarded_for}, trusted) == counted


def test_a_peer_with_an_address_is_not_trusted_because_unix_sockets_are() -> None:
    assert client_address("192.0.2.7", {b"x-forwarded-for": b"192.0.2.1"}, (UNIX,)) == "192.0.2.7"
