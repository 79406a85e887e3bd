"""What trio-asyncio needs on Python 3.12 and later (see `patches`).

Import this before anything that imports trio_asyncio; `trio_sse/__init__.py` does so. A Python that needs
nothing of it stays unchanged.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import sys
import types
import warnings
from _asyncio import _get_running_loop, _set_running_loop
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterator
from types import ModuleType
from typing import Any


def prepare() -> None:
    """Import trio_asyncio with what it needs on this Python."""
    if "trio_asyncio" in sys.modules:
        return
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning, module=r"trio_asyncio\b")
        if sys.version_info < (3, 14):
            import trio_asyncio
        else:
            with names_of_older_pythons():
                import trio_asyncio
    if sys.version_info >= (3, 14):
        tell_running_loop(trio_asyncio.BaseTrioEventLoop)


@contextlib.contextmanager
def names_of_older_pythons() -> Iterator[None]:
    """Names of older Pythons, there during an import only: other code may check for them to tell an older
    Python."""
    watcher = type("AbstractChildWatcher", (), {})
    policy = vars(asyncio.events).get("_BaseDefaultEventLoopPolicy")
    missing: list[tuple[ModuleType, str, object]] = [
        (asyncio, "AbstractChildWatcher", watcher),
        (asyncio.events, "BaseDefaultEventLoopPolicy", policy),
    ]
    for module, name, value in missing:
        setattr(module, name, value)
    try:
        yield
    finally:
        for module, name, _ in missing:
            delattr(module, name)


def tell_running_loop(loop_class: Any) -> None:
    """Make the loop the interpreter's running loop while one of its two methods that run callbacks executes,
    but not while that method waits: other Trio tasks and other loops run then."""
    for name in ("_main_loop_one", "_io_task"):
        setattr(loop_class, name, _as_running_loop(getattr(loop_class, name)))


def _as_running_loop(method: Callable[..., Coroutine[Any, Any, Any]]) -> Callable[..., Awaitable[Any]]:
    @functools.wraps(method)
    async def run(loop: asyncio.AbstractEventLoop, *args: Any, **kwargs: Any) -> Any:
        return await _drive(loop, method(loop, *args, **kwargs))

    return run


@types.coroutine
def _drive(loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, Any]) -> Generator[Any, Any, Any]:
    """`yield from coroutine`, with `loop` as the running loop of each step."""
    step: Callable[[Any], Any] = coroutine.send
    value: Any = None
    while True:
        # A loop of trio-asyncio can run inside of another one, as under Hypercorn's asyncio worker.
        outer = _get_running_loop()
        _set_running_loop(loop)
        try:
            yielded = step(value)
        except StopIteration as stop:
            return stop.value
        finally:
            _set_running_loop(outer)
        try:
            value = yield yielded
            step = coroutine.send
        except BaseException as error:  # noqa: BLE001  (the coroutine gets it)
            step, value = coroutine.throw, error


prepare()
