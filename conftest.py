"""Fixtures of all tests: a real Valkey, the service as a process, and a deadline for every test."""

from __future__ import annotations

import functools
import inspect
import signal
from collections.abc import Awaitable, Callable, Generator, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import trio

from tests.support.ports import free_port
from tests.support.process import Service, Services
from tests.support.tools import tool
from tests.support.variants import VARIANTS, Variant
from trio_sse import embedded

DEADLINE_SECONDS = 90
"""For a test of the integration kind, on a busy machine. Far more than any needs."""


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "slow: takes more than a few seconds, by all variants together")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        real = item.get_closest_marker("integration") or item.get_closest_marker("browser")
        if real and isinstance(item, pytest.Function) and inspect.iscoroutinefunction(item.obj):
            item.obj = _with_deadline(item.obj)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Beside a failure stands what the services of the test say: of one in CI nothing else is left."""
    report = yield
    if report.failed and report.when == "call":
        for value in getattr(item, "funcargs", {}).values():
            if isinstance(value, Services):
                report.sections += [("service", said) for said in value.tell()]
    return report


def _with_deadline(test: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
    @functools.wraps(test)
    async def bounded(*args: Any, **kwargs: Any) -> None:
        with trio.fail_after(DEADLINE_SECONDS):
            await test(*args, **kwargs)

    return bounded


@pytest.fixture(autouse=True)
def _deadline(request: pytest.FixtureRequest) -> Iterator[None]:
    """For tests that block instead of awaiting, and for all else that may hang."""
    node = request.node
    if not (node.get_closest_marker("integration") or node.get_closest_marker("browser")):
        yield
        return

    def too_long(_signal: int, _frame: FrameType | None) -> None:
        raise TimeoutError(f"the test took more than {DEADLINE_SECONDS + 15} s")

    before = signal.signal(signal.SIGALRM, too_long)
    signal.alarm(DEADLINE_SECONDS + 15)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@pytest.fixture(scope="session")
def valkey() -> Iterator[int]:
    """The port of a real Valkey that all tests share."""
    with embedded.valkey(free_port()) as port:
        yield port


@pytest.fixture
def start(tmp_path: Path, valkey: int) -> Iterator[Services]:
    """Start services: `start(variant, SSE_BUFFER="1")`. All end with the test."""
    services = Services(tmp_path, valkey)
    yield services
    services.close()


@pytest.fixture(scope="module")
def module_services(tmp_path_factory: pytest.TempPathFactory, valkey: int) -> Iterator[Services]:
    """As `start`, for services that all tests of a module share."""
    services = Services(tmp_path_factory.mktemp("module"), valkey)
    yield services
    services.close()


@pytest.fixture(scope="session")
def shared_services(
    tmp_path_factory: pytest.TempPathFactory, valkey: int
) -> Iterator[Callable[[Variant], Service]]:
    services = Services(tmp_path_factory.mktemp("shared"), valkey)

    @functools.cache
    def shared(variant: Variant) -> Service:
        return services(variant)

    yield shared
    services.close()


@pytest.fixture(params=VARIANTS, ids=str)
def served(request: pytest.FixtureRequest, shared_services: Callable[[Variant], Service]) -> Service:
    """A running service, by each of the commands. Tests share it: leave it running, without connections."""
    return shared_services(request.param)


@pytest.fixture(scope="session")
def chromium() -> str:
    """The path of a Chromium. Where there is none the test is skipped, except in CI."""
    return tool("chromium", "chromium-browser", "google-chrome")
