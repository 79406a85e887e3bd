"""The client's address: that of the socket's peer, or the one a trusted proxy's header has. Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Mapping
from functools import lru_cache

from trio_sse.settings import UNIX, Proxy

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def client_address(peer: str, headers: Mapping[bytes, bytes], trusted: tuple[Proxy, ...]) -> str:
    """The address that limits count by: an IPv4 address, or the /64 of an IPv6 address.

    This is the peer's address, unless the peer is a trusted proxy. Then it is the first address from the
    right of `Forwarded` (RFC 7239) or `X-Forwarded-For` that is not a trusted proxy: a client could have
    written anything further left. A proxy writes one of the two headers and passes the other on unchanged, so
    if they disagree, the peer's address counts. `headers` has lower-case names; lines of one name are joined
    by commas. A peer at a Unix socket is UNIX: it has no address, and is trusted if `trusted` has UNIX.
    """
    address: Address | str | None = UNIX if peer == UNIX else parse(peer)
    if address is None:
        return peer
    if trusted and _is_trusted(address, trusted):
        found = {_behind(address, hops, trusted) for hops in _hops(headers)}
        if len(found) == 1:
            address = found.pop()
    return address if isinstance(address, str) else _counted(address)


def _behind(address: Address | str, hops: list[str], trusted: tuple[Proxy, ...]) -> Address | str:
    for hop in reversed(hops):
        behind = parse(hop)
        if behind is None:
            break
        address = behind
        if not _is_trusted(address, trusted):
            break
    return address


def parse(text: str) -> Address | None:
    """Read an address as sockets and headers write it: with a port, in brackets, IPv4 in IPv6. None if `text`
    has none."""
    text = text.strip().strip('"')
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def _hops(headers: Mapping[bytes, bytes]) -> Iterator[list[str]]:
    """The addresses in each of the two headers that the request has."""
    if forwarded := headers.get(b"forwarded"):
        hops = []
        for element in forwarded.decode("latin-1").split(","):
            pairs = (pair.partition("=") for pair in element.split(";"))
            hops.append(next((value for name, _, value in pairs if name.strip().lower() == "for"), ""))
        yield hops
    if forwarded_for := headers.get(b"x-forwarded-for"):
        yield forwarded_for.decode("latin-1").split(",")


def _is_trusted(address: Address | str, trusted: tuple[Proxy, ...]) -> bool:
    if isinstance(address, str):
        return address in trusted
    return any(address in proxy for proxy in trusted if not isinstance(proxy, str))


@lru_cache(maxsize=4096)
def _counted(address: Address) -> str:
    if isinstance(address, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((address, 64), strict=False))
    return str(address)
