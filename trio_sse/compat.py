"""What is changed in a library so that it runs where this package runs: `PATCHES` has all of it.

To be imported before anything that imports trio_asyncio; `trio_sse/__init__.py` does. Nothing is changed on a
Python that needs none of it.
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
from dataclasses import dataclass
from types import ModuleType
from typing import Any


@dataclass(frozen=True, slots=True)
class Patch:
    what: str
    library: str
    """Name and version it was found in."""
    since: tuple[int, int]
    """The first Python that needs it."""
    why: str
    test: str
    """The test that fails when it is no longer needed."""


_NEEDED = "tests/integration/test_libraries.py::"

PATCHES = (
    Patch(
        what="the import raises no DeprecationWarning",
        library="trio-asyncio 0.16",
        since=(3, 12),
        why="It derives from asyncio.AbstractChildWatcher (deprecated in 3.12), and gets and sets the policy "
        "of event loops (deprecated in 3.14). Where warnings are errors it cannot be imported.",
        test=_NEEDED + "test_importing_trio_asyncio_warns",
    ),
    Patch(
        what="asyncio has AbstractChildWatcher and events.BaseDefaultEventLoopPolicy during the import",
        library="trio-asyncio 0.16",
        since=(3, 14),
        why="It derives from both. 3.14 has the first no longer, and the second with an underscore.",
        test=_NEEDED + "test_trio_asyncio_derives_from_what_python_no_longer_has",
    ),
    Patch(
        what="the loop is the interpreter's running loop while it runs something",
        library="trio-asyncio 0.16",
        since=(3, 14),
        why="A task written in C steps under no other, and does not ask the functions that trio-asyncio puts "
        "in the place of asyncio's.",
        test=_NEEDED + "test_trio_asyncio_does_not_tell_the_interpreter_which_loop_runs",
    ),
)


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
    """For an import only: others may take the presence of a name for an older Python."""
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
    """Let the loop be the interpreter's running loop whenever one of the two methods that run callbacks has
    control, and not while it waits: other tasks of Trio, and other loops, have their turn then."""
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
        except BaseException as error:  # noqa: BLE001  (it is for the coroutine)
            step, value = coroutine.throw, error


prepare()
