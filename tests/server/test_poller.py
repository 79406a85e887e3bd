"""Many sockets, one task."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from trio_sse.server import poller as poller_module
from trio_sse.server.poller import Poller


class Reader:
    """Reads what comes to one end of a pair, and keeps it. Says what it did in `log`."""

    def __init__(self, poller: Poller, log: list[str], name: str = "") -> None:
        self.near, self.far = socket.socketpair()
        self.near.setblocking(False)
        self.received = b""
        self.error: Exception | None = None
        self._poller = poller
        self._log = log
        self._name = name
        poller.watch(self.near.fileno(), self)

    def readable(self) -> None:
        self._log.append(self._name)
        if self.error is not None:
            raise self.error
        self.received += os.read(self.near.fileno(), 3)

    def cut(self) -> None:
        self._poller.forget(self.near.fileno())
        self.near.close()

    def close(self) -> None:
        self.near.close()
        self.far.close()


@pytest.fixture
def log() -> list[str]:
    """Who was told that something came."""
    return []


@pytest.fixture
def errors() -> list[Exception]:
    return []


@pytest.fixture
def poller(errors: list[Exception]) -> Iterator[Poller]:
    poller = Poller(errors.append)
    yield poller
    poller.close()


async def test_each_is_told_of_its_own_until_nothing_is_left(
    poller: Poller, log: list[str], nursery: trio.Nursery
) -> None:
    one, other = Reader(poller, log, "one"), Reader(poller, log, "other")
    nursery.start_soon(poller.run)
    one.far.send(b"1234567")
    await wait_all_tasks_blocked()
    assert one.received == b"1234567", "what is left is told again"
    assert other.received == b""
    other.far.send(b"x")
    await wait_all_tasks_blocked()
    assert other.received == b"x"
    for reader in (one, other):
        poller.forget(reader.near.fileno())
        poller.forget(reader.near.fileno())
        reader.close()


async def test_what_is_left_is_told_in_the_same_turn(
    poller: Poller, log: list[str], nursery: trio.Nursery
) -> None:
    reader = Reader(poller, log)
    reader.far.send(b"1234567")
    nursery.start_soon(poller.run)
    while not log:
        await trio.lowlevel.checkpoint()
    assert reader.received == b"1234567"
    reader.cut()
    reader.close()


async def test_one_may_take_the_place_of_another(
    poller: Poller, log: list[str], nursery: trio.Nursery
) -> None:
    before, after = Reader(poller, log, "before"), Reader(poller, log, "after")
    poller.watch(before.near.fileno(), after)
    after.near.setblocking(False)
    nursery.start_soon(poller.run)
    before.far.send(b"x")
    with trio.move_on_after(0.01):
        while not log:
            await trio.lowlevel.checkpoint()
    assert log[0] == "after"
    poller.forget(before.near.fileno())
    poller.forget(after.near.fileno())
    before.close()
    after.close()


async def test_an_error_of_one_ends_it_alone(
    poller: Poller, log: list[str], errors: list[Exception], nursery: trio.Nursery
) -> None:
    broken, other = Reader(poller, log), Reader(poller, log)
    broken.error = ValueError()
    nursery.start_soon(poller.run)
    broken.far.send(b"x")
    other.far.send(b"x")
    await wait_all_tasks_blocked()
    assert errors == [broken.error]
    with pytest.raises(ConnectionResetError):  # it was closed with what it had not read
        broken.far.recv(1)
    assert other.received == b"x"
    other.cut()
    broken.close()
    other.close()


async def test_a_crowd_gives_others_their_turn(
    poller: Poller, log: list[str], nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(poller_module, "BUDGET_SECONDS", 0)
    readers = [Reader(poller, log, str(number)) for number in range(5)]
    for reader in readers:
        reader.far.send(b"x")
    nursery.start_soon(poller.run)
    while len(log) < len(readers):
        before = len(log)
        await trio.lowlevel.checkpoint()
        assert len(log) - before <= 2
    assert sorted(log) == ["0", "1", "2", "3", "4"], "nobody is told twice before everybody was told"
    for reader in readers:
        reader.cut()
        reader.close()


async def test_closed_it_cuts_all(log: list[str]) -> None:
    poller = Poller(lambda _: None)
    readers = [Reader(poller, log) for _ in range(3)]
    poller.close()
    for reader in readers:
        assert reader.far.recv(1) == b""
        reader.close()
