"""What is changed in libraries: nothing where it is not needed, and nothing that others see."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from _asyncio import _get_running_loop
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked
from trio_asyncio import BaseTrioEventLoop, aio_as_trio, open_loop, trio_as_aio

from trio_sse import compat

ROOT = Path(__file__).parent.parent


def test_an_older_python_is_left_as_it_is() -> None:
    changed = hasattr(BaseTrioEventLoop._main_loop_one, "__wrapped__")
    assert changed == (sys.version_info >= (3, 14))


def test_others_do_not_take_a_newer_python_for_an_older_one() -> None:
    assert hasattr(asyncio, "AbstractChildWatcher") == (sys.version_info < (3, 14))
    assert hasattr(asyncio.events, "BaseDefaultEventLoopPolicy") == (sys.version_info < (3, 14))


def test_the_names_are_there_for_as_long_as_they_are_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(asyncio, "AbstractChildWatcher", raising=False)
    monkeypatch.delattr(asyncio.events, "BaseDefaultEventLoopPolicy", raising=False)

    def derive() -> None:
        type("Watcher", (vars(asyncio)["AbstractChildWatcher"],), {})
        assert "BaseDefaultEventLoopPolicy" in vars(asyncio.events)
        raise ImportError

    with pytest.raises(ImportError), compat.names_of_older_pythons():
        derive()
    assert "AbstractChildWatcher" not in vars(asyncio)
    assert "BaseDefaultEventLoopPolicy" not in vars(asyncio.events)


def test_importing_the_package_warns_of_nothing() -> None:
    command = [sys.executable, "-W", "error", "-c", "import trio_sse"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


class Loop:
    """With what the loops of trio-asyncio have."""

    def __init__(self) -> None:
        self.seen: list[object] = []
        self.wake = trio.Event()

    async def _main_loop_one(self, error: BaseException | None = None) -> str:
        self.seen.append(_get_running_loop())
        try:
            await self.wake.wait()
        finally:
            self.seen.append(_get_running_loop())
        if error is not None:
            raise error
        return "done"

    async def _io_task(self, inner: Loop) -> None:
        self.seen.append(_get_running_loop())
        async with trio.open_nursery() as nursery:
            nursery.start_soon(inner._main_loop_one)
        self.seen.append(_get_running_loop())


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> type[Loop]:
    for name in ("_main_loop_one", "_io_task"):
        monkeypatch.setattr(Loop, name, vars(Loop)[name])
    compat.tell_running_loop(Loop)
    return Loop


@asynccontextmanager
async def waiting(*loops: Loop) -> AsyncIterator[None]:
    """The loops have begun, and wait; on leaving they go on."""
    await wait_all_tasks_blocked()
    assert _get_running_loop() is None
    yield
    for loop in loops:
        loop.wake.set()


async def test_a_loop_is_the_running_one_in_its_own_steps_only(told: type[Loop]) -> None:
    one, two = told(), told()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(one._main_loop_one)
        nursery.start_soon(two._main_loop_one)
        async with waiting(one, two):
            pass
    assert one.seen == [one, one]
    assert two.seen == [two, two]
    assert _get_running_loop() is None


async def test_what_a_step_returns_and_raises_comes_through(told: type[Loop]) -> None:
    loop = told()
    loop.wake.set()
    assert await loop._main_loop_one() == "done"
    with pytest.raises(LookupError):
        await loop._main_loop_one(LookupError())
    with trio.CancelScope() as scope:
        scope.cancel()
        await told()._main_loop_one()
    assert scope.cancelled_caught
    assert _get_running_loop() is None


async def test_a_task_that_a_step_starts_has_its_own(told: type[Loop]) -> None:
    outer, inner = told(), told()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(outer._io_task, inner)
        async with waiting(inner):
            pass
    assert outer.seen == [outer, outer]
    assert inner.seen == [inner, inner]


async def test_asyncio_and_trio_take_turns(valkey: int) -> None:
    """Tasks, timers, sockets and cancellation of asyncio, with Trio called from within, on this Python."""

    async def on_trio() -> object:
        await trio.lowlevel.checkpoint()
        return _get_running_loop()

    async def client() -> list[Any]:
        loop = asyncio.get_running_loop()
        reader, writer = await asyncio.open_connection("127.0.0.1", valkey)
        writer.write(b"PING\r\n")
        await writer.drain()
        async with asyncio.timeout(30):
            pong = await reader.readline()
        writer.close()
        await writer.wait_closed()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.001):
                await asyncio.Event().wait()
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(asyncio.sleep(0.001, number)) for number in range(3)]
        current = asyncio.current_task()
        assert current is not None
        return [
            pong,
            [task.result() for task in tasks],
            current.get_loop() is loop,
            await trio_as_aio(on_trio)(),
        ]

    async with open_loop(), trio.open_nursery() as nursery:
        nursery.start_soon(aio_as_trio(asyncio.sleep), 3600)
        assert await aio_as_trio(client)() == [b"+PONG\r\n", [0, 1, 2], True, None]
        assert _get_running_loop() is None
        nursery.cancel_scope.cancel()
