"""Origins of pages and names of hosts, written as browsers write them."""

from __future__ import annotations

import re
from collections.abc import Collection
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address

import idna

_ORIGIN = re.compile(r"([a-z][a-z0-9+.-]*)://(\*\.)?([^\s/?#@,:*\[\]]+|\[[0-9a-f:.]+\])(?::([0-9]{1,5}))?/?")
_HOST = re.compile(r"(\*\.)?([^\s/?#@,:*\[\]]+|\[[0-9a-f:.]+\])")
_DEFAULT_PORTS = {"http": 80, "https": 443}
_ASCII_HOST = re.compile(r"[a-z0-9._~-]+")
_LABELS = r"(?:[a-z0-9_-]+\.)+"


def normal_origin(text: str) -> str:
    """An origin as a browser sends it (RFC 6454, 6.2): lower case, no default port, a host in ASCII.

    `https://*.example.com` is a pattern. Any scheme is accepted: apps and extensions have their own. Raises
    ValueError.
    """
    if text.lower() == "null":
        return "null"
    match = _ORIGIN.fullmatch(text.lower())
    if match is None:
        raise ValueError("not an origin")
    scheme, wildcard, host, port = match.groups()
    if port is not None and not 0 < int(port) <= 65535:
        raise ValueError("not a port")
    shown = f":{int(port)}" if port is not None and int(port) != _DEFAULT_PORTS.get(scheme) else ""
    return f"{scheme}://{wildcard or ''}{_ascii(host)}{shown}"


def normal_host(text: str) -> str:
    """A host name as in `Host`, without a port. `*.example.com` is a pattern. Raises ValueError."""
    match = _HOST.fullmatch(text.lower())
    if match is None:
        raise ValueError("not a name of a host")
    host = _ascii(match[2]).removesuffix(".")
    if "" in host.split("."):
        raise ValueError("not a name of a host")
    return (match[1] or "") + host


def _ascii(host: str) -> str:
    """The host as browsers write it (WHATWG URL, "host parsing")."""
    if host[0] == "[":
        return f"[{IPv6Address(host[1:-1]).compressed}]"
    if not host.isascii():
        try:
            host = idna.encode(host, uts46=True).decode()
        except idna.IDNAError as error:
            raise ValueError("not a name of a host") from error
    if not _ASCII_HOST.fullmatch(host):
        raise ValueError("not a name of a host")
    if re.fullmatch(r"0x[0-9a-f]*|[0-9]+", host.rstrip(".").rpartition(".")[2]):
        return str(IPv4Address(host))
    return host


@lru_cache(maxsize=256)
def _pattern(pattern: str) -> re.Pattern[str]:
    before, _, after = pattern.partition("*.")
    return re.compile(re.escape(before) + _LABELS + re.escape(after), re.ASCII)


def is_listed(text: str, patterns: Collection[str]) -> bool:
    """Whether an origin or a name is one of these. `*.` stands for one label or more.

    A match has only letters, digits and a few marks, so it is safe in a header.
    """
    text = text.lower() if text.isascii() else ""
    return text in patterns or any(
        "*." in pattern and _pattern(pattern).fullmatch(text) is not None for pattern in patterns
    )


def is_allowed_host(field: str, names: Collection[str]) -> bool:
    """Whether a request with this `Host` may be answered.

    A page whose own name was made to point here (DNS rebinding) can send only that name. So addresses,
    `localhost`, which is not looked up in DNS, and requests without a `Host` are always allowed.
    """
    if "*" in names or not field:
        return True
    match = re.fullmatch(r"([^\[\]:]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]*)?", field.strip())
    if match is None:
        return False
    host = match[1].lower().removesuffix(".")
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        ip_address(host.strip("[]"))
    except ValueError:
        return is_listed(host, names)
    return True


def is_same_host(origin: str, field: str) -> bool:
    """Whether `origin` has the host and port of the request's `Host`. A proxy may have changed the scheme."""
    scheme, _, host = origin.lower().partition("://")
    port = _DEFAULT_PORTS.get(scheme)
    return port is not None and bool(host) and host == field.strip().lower().removesuffix(f":{port}")
