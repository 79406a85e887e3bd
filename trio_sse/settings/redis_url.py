"""Address and login of a Redis, and the URL that has them. Pure."""

from __future__ import annotations

import re
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

MAX_DATABASE = 65535


class RedisURLError(ValueError):
    """The URL cannot be used. The text says why, in one line, without anything secret."""


@dataclass(frozen=True, slots=True)
class RedisServer:
    """Address and login of a server. If `host` is empty, Sentinels name the address."""

    host: str = ""
    port: int = 6379
    path: str | None = None
    """Of a Unix socket."""
    username: str | None = None
    password: str | None = None
    database: int | None = None
    client_name: str | None = None
    tls: Mapping[str, Any] | None = None
    """None: no TLS. Else the arguments for redis-py's `SSLConnection`."""

    def __str__(self) -> str:
        """For log lines and errors, without a password."""
        if self.path is not None:
            return self.path
        return f"{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"


def parse(text: str, *, default_port: int = 6379, host_needed: bool = True) -> RedisServer:
    """Read redis://, rediss:// or unix://. Raises RedisURLError.

    redis-py's `from_url` passes every option to the connection: an unknown one is a TypeError there, and
    some, such as `encoding`, change every reply.
    """
    text = text.strip()
    if any(ord(letter) < 0x20 or ord(letter) == 0x7F for letter in text):
        raise RedisURLError("it has control characters")  # urlsplit would drop them silently
    parts = urlsplit(text)
    if parts.scheme not in ("redis", "rediss", "unix"):
        raise RedisURLError("")
    if parts.scheme == "unix":
        host, port, path, database = "", 0, _socket_path(parts), None
    else:
        host, port, path = unquote(parts.hostname or ""), parts.port or default_port, None
        database = _database(parts)
        if parts.port == 0 or not (host or not host_needed):
            raise RedisURLError("it has no host" if not host else "port 0 is none")
    if parts.fragment:
        raise RedisURLError("it has a #, which in a password is written %23")
    # Last: a piece of a password with a ? in it must not be taken for an option and shown.
    options = _options(parts)
    tls = {name: value for name, value in options.items() if name.startswith("ssl_")}
    if tls and parts.scheme != "rediss":
        raise RedisURLError(f"{next(iter(tls))} is for TLS, which is rediss:// and not {parts.scheme}://")
    return RedisServer(
        host=host,
        port=port,
        path=path,
        username=_once(unquote(parts.username or ""), options, "username"),
        password=_once(unquote(parts.password or ""), options, "password"),
        database=_once(database, options, "db"),
        client_name=options.get("client_name"),
        tls=_loadable(tls) if parts.scheme == "rediss" else None,
    )


def has_secret(text: str) -> bool:
    """Whether a password may be in it, even if the URL is wrong."""
    before, at, _ = text.partition("://")[2].rpartition("@")
    names = {name for name, _ in parse_qsl(text.partition("?")[2], keep_blank_values=True)}
    return bool(at and ":" in before) or not names.isdisjoint({"password", "ssl_password"})


def _socket_path(parts: SplitResult) -> str:
    if parts.hostname:
        raise RedisURLError("unix:// takes an absolute path, such as unix:///run/redis.sock")
    if parts.path in ("", "/"):
        raise RedisURLError("it has no path")
    return unquote(parts.path)


def _database(parts: SplitResult) -> int | None:
    if not re.fullmatch(r"/?[0-9]*", parts.path):
        raise RedisURLError("what follows the host is no database number")
    return _number(parts.path[1:]) if parts.path[1:] else None


def _once(value: Any, options: Mapping[str, Any], name: str) -> Any:
    """The value in the address, or in the option of that name. Raises RedisURLError if they differ."""
    given = options.get(name)
    if value in (None, ""):
        return given
    if given is not None and given != value:
        raise RedisURLError(f"{name} is given twice, with different values")
    return value


def _options(parts: SplitResult) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, text in parse_qsl(parts.query, keep_blank_values=True):
        read = _OPTIONS.get(name)
        if read is None:
            shown = repr(name) if re.fullmatch("[A-Za-z0-9_.-]{1,40}", name) else "in it"
            raise RedisURLError(f"the option {shown} is unknown; known are {', '.join(sorted(_OPTIONS))}")
        try:
            value = read(text)
        except ValueError as error:
            why = f" ({error})" if isinstance(error, RedisURLError) else ""
            raise RedisURLError(f"the option {name} has a value that is not accepted{why}") from None
        if found.setdefault(name, value) != value:
            raise RedisURLError(f"{name} is given twice, with different values")
    return found


def _loadable(tls: dict[str, Any]) -> dict[str, Any]:
    """The TLS options, after a try: a missing file is an error at the start."""
    context = ssl.create_default_context()
    cert, key = tls.get("ssl_certfile"), tls.get("ssl_keyfile")
    if key and not cert:
        raise RedisURLError("ssl_keyfile needs ssl_certfile")
    try:
        # An empty password keeps OpenSSL from asking for one on the terminal.
        if cert:
            context.load_cert_chain(cert, key, password=tls.get("ssl_password", ""))
        if tls.get("ssl_ca_certs") or tls.get("ssl_ca_path"):
            context.load_verify_locations(tls.get("ssl_ca_certs"), tls.get("ssl_ca_path"))
        if "ssl_ciphers" in tls:
            context.set_ciphers(tls["ssl_ciphers"])
    except OSError as error:  # ssl.SSLError is one
        files = ", ".join(name for name in tls if name not in ("ssl_cert_reqs", "ssl_check_hostname"))
        raise RedisURLError(f"{files}: {error.strerror or error}") from None
    return tls


def _word(text: str) -> str:
    if not text:
        raise RedisURLError("it is empty")
    return text


def _name(text: str) -> str:
    if not re.fullmatch(r"[!-~]+", text):  # what CLIENT SETNAME takes
        raise RedisURLError("printable ASCII without spaces")
    return text


def _number(text: str) -> int:
    if not re.fullmatch("[0-9]{1,9}", text) or int(text) > MAX_DATABASE:
        raise RedisURLError(f"a database is a number from 0 to {MAX_DATABASE}")
    return int(text)


def _protocol(text: str) -> int:
    if text != "2":
        raise RedisURLError("RESP 2 is spoken here: leave it out")
    return 2


def _truth(text: str) -> bool:
    word = text.lower()
    if word not in ("true", "false", "yes", "no", "1", "0", "on", "off"):
        raise RedisURLError("true or false")
    return word in ("true", "yes", "1", "on")


def _verification(text: str) -> str:
    """`CERT_REQUIRED` is how other clients of Redis write it."""
    word = text.lower().removeprefix("cert_")
    if word not in ("none", "optional", "required"):
        raise RedisURLError("none, optional or required")
    return word


def _version(text: str) -> ssl.TLSVersion:
    versions = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}
    version = versions.get(text.lower().removeprefix("tlsv").replace("_", "."))
    if version is None:
        raise RedisURLError("1.2 or 1.3")
    return version


_OPTIONS: dict[str, Callable[[str], Any]] = {
    "client_name": _name,
    "db": _number,
    "password": _word,
    "protocol": _protocol,
    "ssl_ca_certs": _word,
    "ssl_ca_path": _word,
    "ssl_cert_reqs": _verification,
    "ssl_certfile": _word,
    "ssl_check_hostname": _truth,
    "ssl_ciphers": _word,
    "ssl_keyfile": _word,
    "ssl_min_version": _version,
    "ssl_password": _word,
    "username": _word,
}
