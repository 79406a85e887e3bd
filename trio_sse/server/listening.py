"""The sockets that `trio-sse` listens on: a TCP port, a Unix socket, or sockets that were handed over."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import socket
import stat
from collections.abc import Iterator
from typing import NamedTuple

from trio_sse.settings import Settings
from trio_sse.sockets import MAX_BACKLOG

UNIX_MODE = 0o666
"""Mode of a Unix socket. As with a TCP port, everybody who can reach it may connect; its directory limits who
can."""

_FIRST_HANDED = 3  # sd_listen_fds(3)


class ListenError(Exception):
    """This address cannot be listened on. The text says why, and which settings to look at."""


class Url(NamedTuple):
    """How to reach the service from this machine."""

    url: str
    """Without a path."""
    unix: str | None = None
    """The Unix socket to connect to, whatever host the URL has."""

    def curl(self, path: str) -> str:
        unix = f"--unix-socket {self.unix} " if self.unix else ""
        return f"curl -N {unix}{self.url}{path}"


def place(settings: Settings) -> str:
    """Where the service listens, as text for messages."""
    if handed := _handed(settings.host):
        return f"descriptor {', '.join(map(str, handed))} (handed over)"
    return settings.host if _kind(settings.host) else f"{settings.host}:{settings.port}"


def is_handed(settings: Settings) -> bool:
    """Whether the sockets are handed over at the start of the process."""
    return bool(_handed(settings.host)) or _kind(settings.host) == "fd"


def urls(settings: Settings) -> list[Url]:
    """How to reach the service, the most likely URL first. Empty if its sockets are handed over."""
    if is_handed(settings):
        return []
    if _kind(settings.host) == "unix":
        return [Url(f"{settings.scheme}://localhost", _path(settings.host))]
    host = settings.host.strip("[]")
    hosts = [f"[{host}]" if ":" in host else host]
    if _is_any(host):
        hosts = ["127.0.0.1", "[::1]"] if ":" in host else ["127.0.0.1"]
    return [Url(f"{settings.scheme}://{host}:{settings.port}") for host in hosts]


@contextlib.contextmanager
def listening(settings: Settings) -> Iterator[list[socket.socket]]:
    """The listening sockets of these settings. A Unix socket is removed at the end. Raises ListenError.

    Sockets of systemd (LISTEN_FDS) override SSE_HOST and SSE_PORT, but not `fd://`.
    """
    with contextlib.ExitStack() as stack:
        try:
            if handed := _handed(settings.host):
                for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"):  # not for child processes
                    os.environ.pop(name, None)
                sockets = [_adopt(fd) for fd in handed]
            elif _kind(settings.host) == "fd":
                raise ListenError(f"{settings.host!r} is not a descriptor such as fd://3 (SSE_HOST)")
            elif _kind(settings.host) == "unix":
                sockets = [stack.enter_context(_unix(_path(settings.host)))]
            else:
                sockets = [tcp_listener(settings.host, settings.port)]
        except (OSError, UnicodeError) as error:
            reason = getattr(error, "strerror", None) or error
            names = "SSE_HOST" if _kind(settings.host) else "SSE_HOST, SSE_PORT"
            raise ListenError(f"{reason} ({names})") from error
        for sock in sockets:
            stack.enter_context(sock)
        yield sockets


def is_tcp(settings: Settings) -> bool:
    """Whether SSE_HOST is an address or a host name."""
    return _kind(settings.host) is None


def _kind(host: str) -> str | None:
    return next((kind for kind in ("unix", "fd") if host.startswith((f"{kind}:", f"{kind}://"))), None)


def _path(host: str) -> str:
    return host.removeprefix("unix:").removeprefix("//")


def _is_any(host: str) -> bool:
    """Whether `host` means all addresses of the machine."""
    try:
        return ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return False


def _handed(host: str) -> list[int]:
    """The descriptors of sockets that were handed over."""
    if _kind(host) == "fd":
        number = host.removeprefix("fd://")
        return [int(number)] if number.isascii() and number.isdigit() else []
    if os.environ.get("LISTEN_PID") != str(os.getpid()):
        return []
    count = os.environ.get("LISTEN_FDS", "")
    count = count if count.isascii() and count.isdigit() else "0"
    return list(range(_FIRST_HANDED, _FIRST_HANDED + int(count)))


def tcp_listener(host: str, port: int, *, reuse_port: bool = False) -> socket.socket:
    """A listening socket at an address or a host name, which may have brackets. With `reuse_port` others of
    this user may listen there too. Raises OSError, or UnicodeError for a name that is none."""
    host = host.strip("[]")
    family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0][0]
    both = family == socket.AF_INET6 and _is_any(host) and socket.has_dualstack_ipv6()
    listener = socket.create_server((host, port), family=family, reuse_port=reuse_port, dualstack_ipv6=both)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


@contextlib.contextmanager
def _unix(path: str) -> Iterator[socket.socket]:
    if not path:
        raise ListenError("no path, as in unix:/run/trio_sse/socket (SSE_HOST)")
    _remove_stale(path)
    listener = socket.socket(socket.AF_UNIX)
    try:
        before = os.umask(0o777 & ~UNIX_MODE)  # so that it has this mode from the start
        try:
            listener.bind(path)
        finally:
            os.umask(before)
        listener.listen(MAX_BACKLOG)
        made = _identity(path)
    except BaseException:
        listener.close()
        raise
    try:
        yield listener
    finally:
        with contextlib.suppress(OSError):
            if _identity(path) == made:  # otherwise another process has made a new one
                os.unlink(path)


def _remove_stale(path: str) -> None:
    """Remove a socket that nobody listens on, left by a process that was killed."""
    try:
        if not stat.S_ISSOCK(os.stat(path).st_mode):
            raise ListenError(f"{path} exists and is not a socket (SSE_HOST)")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)  # with a full backlog it would wait
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
            return
        except BlockingIOError:
            pass
    raise ListenError(f"another process listens on {path} (SSE_HOST)")


def _identity(path: str) -> tuple[int, int]:
    found = os.stat(path)
    return found.st_dev, found.st_ino


def _adopt(fd: int) -> socket.socket:
    try:
        sock = socket.socket(fileno=fd)
    except OSError as error:
        raise ListenError(f"descriptor {fd}: {error.strerror} (SSE_HOST, LISTEN_FDS)") from error
    if sock.type != socket.SOCK_STREAM:
        sock.detach()
        raise ListenError(f"descriptor {fd} is no stream socket (SSE_HOST, LISTEN_FDS)")
    try:
        sock.listen(MAX_BACKLOG)
    except OSError as error:  # it is a connection
        sock.detach()
        raise ListenError(
            f"descriptor {fd} does not listen: {error.strerror} (SSE_HOST, LISTEN_FDS)"
        ) from error
    return sock
