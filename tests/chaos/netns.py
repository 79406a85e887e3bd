"""A network of its own for some clients, with a cable that can be cut. Needs root and the command `ip`."""

from __future__ import annotations

import contextlib
import ctypes
import os
import random
import shutil
import socket
import subprocess
from collections.abc import Iterator
from functools import partial

import trio

from tests.chaos.bench import LeftOutError
from tests.chaos.client import Dial

_CLONE_NEWNET = 0x40000000


class Cable:
    """Between this machine, where it is `host`, and the namespace `name`."""

    def __init__(self, name: str, host: str) -> None:
        self.name = name
        self.host = host

    def cut(self) -> None:
        """What is sent is gone, and nobody is told."""
        _ip("-n", self.name, "link", "set", "sse1", "down")

    def mend(self) -> None:
        _ip("-n", self.name, "link", "set", "sse1", "up")

    def to(self, port: int) -> Dial:
        """Connections that begin in the namespace, and so go through the cable."""
        return partial(self._dial, port)

    async def _dial(self, port: int) -> trio.SocketStream:
        sock = _socket_in(self.name)
        sock.setblocking(False)
        ours = trio.socket.from_stdlib_socket(sock)
        try:
            with trio.fail_after(2):
                await ours.connect((self.host, port))
        except trio.TooSlowError:
            ours.close()
            raise TimeoutError from None
        except BaseException:
            ours.close()
            raise
        return trio.SocketStream(ours)


@contextlib.contextmanager
def namespace() -> Iterator[Cable]:
    """Make a namespace with a cable to it; both are gone afterwards. Raises LeftOutError."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        raise LeftOutError("needs root and the command `ip`")
    number = random.randrange(16_384)
    name, outside = f"trio-sse-{os.getpid()}-{number}", f"sse{number}"
    # 198.18.0.0/15 is for tests of networks (RFC 2544): four addresses for each cable.
    first = (198 << 24) + (18 << 16) + 4 * number
    host, guest = (socket.inet_ntoa((first + one).to_bytes(4, "big")) for one in (1, 2))
    try:
        try:
            _ip("netns", "add", name)
            _ip("link", "add", outside, "type", "veth", "peer", "name", "sse1", "netns", name)
            _ip("addr", "add", f"{host}/30", "dev", outside)
            _ip("link", "set", outside, "up")
            _ip("-n", name, "addr", "add", f"{guest}/30", "dev", "sse1")
            _ip("-n", name, "link", "set", "sse1", "up")
        except subprocess.CalledProcessError as error:
            raise LeftOutError(f"no network namespace here: {error.stderr.decode().strip()}") from None
        yield Cable(name, host)
    finally:
        for words in (("link", "del", outside), ("netns", "del", name)):
            with contextlib.suppress(subprocess.CalledProcessError):
                _ip(*words)


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, timeout=10)


def _socket_in(name: str) -> socket.socket:
    """A socket belongs to the namespace its thread was in when it was made, wherever the thread goes."""
    libc = ctypes.CDLL(None, use_errno=True)
    with open("/proc/thread-self/ns/net") as home, open(f"/run/netns/{name}") as there:
        _enter(libc, there.fileno())
        try:
            return socket.socket()
        finally:
            _enter(libc, home.fileno())


def _enter(libc: ctypes.CDLL, fd: int) -> None:
    if libc.setns(fd, _CLONE_NEWNET):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
