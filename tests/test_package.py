"""The shape of the package: what importing it does, who may import whom, each module with its tests."""

from __future__ import annotations

import ast
import functools
import subprocess
import sys
from pathlib import Path

import pytest

import trio_sse

PACKAGE = Path(trio_sse.__file__).parent
MODULES = sorted(path.stem for path in PACKAGE.glob("*.py") if path.stem != "__init__")

IMPORTING = """
import os, sys

class Environment(dict):
    def seen(self, name):
        if str(name).upper().startswith(("SSE_", "REDIS_")):
            sys.exit(f"read {name}")
    def __getitem__(self, name): self.seen(name); return super().__getitem__(name)
    def get(self, name, *default): self.seen(name); return super().get(name, *default)
    def __contains__(self, name): self.seen(name); return super().__contains__(name)
    def items(self): self.all_seen(sys._getframe(1)); return super().items()
    def copy(self): self.all_seen(sys._getframe(1)); return dict(self)
    def all_seen(self, frame):
        if "wsgiref" not in frame.f_code.co_filename:  # the standard library's, for CGI
            sys.exit(f"all read by {frame.f_code}")

def audit(event, arguments):
    if event in ("socket.connect", "socket.bind", "socket.getaddrinfo"):
        sys.exit(f"{event} {arguments}")
    if event == "subprocess.Popen" and "trio_sse" in str(arguments):
        sys.exit(f"{event} {arguments}")
    if event == "open" and str(arguments[0]).endswith(".html"):
        sys.exit(f"opened {arguments[0]}")

os.environ = Environment(os.environ)
sys.addaudithook(audit)
import trio_sse
sys.exit(0 if callable(vars(trio_sse)["app"]) else "no app")
"""


def test_importing_it_opens_nothing_and_reads_no_setting() -> None:
    done = subprocess.run([sys.executable, "-c", IMPORTING], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_it_offers_the_application_and_its_version_and_nothing_else() -> None:
    assert trio_sse.__all__ == ["__version__", "app"]
    assert trio_sse.__version__.count(".") == 2


@pytest.mark.parametrize("module", MODULES)
def test_every_module_has_its_tests(module: str) -> None:
    assert (Path(__file__).parent / f"test_{module}.py").exists()


@functools.cache
def imports(module: str) -> frozenset[str]:
    """What a module imports when it is loaded: `trio_sse.hub` as that, anything else by its first name."""
    found: set[str] = set()
    for node in ast.parse((PACKAGE / f"{module}.py").read_text()).body:
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module == "trio_sse":
            names = [f"trio_sse.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        else:
            continue
        found |= {".".join(name.split(".")[: 2 if name.startswith("trio_sse") else 1]) for name in names}
    return frozenset(found)


@functools.cache
def reach(module: str) -> frozenset[str]:
    """`imports`, and what the modules of this package among them import in turn."""
    found: set[str] = set()
    new = {f"trio_sse.{module}"}
    while new:
        found |= new
        inside = {name.partition(".")[2] for name in new if name.startswith("trio_sse.")} & set(MODULES)
        new = set().union(*map(imports, inside)) - found
    return frozenset(found)


PURE = {"wire", "messages", "metrics", "positions", "history", "events"}


@pytest.mark.parametrize("module", sorted(PURE))
def test_pure_modules_know_nothing_but_each_other(module: str) -> None:
    allowed = {f"trio_sse.{name}" for name in PURE} | {"msgspec"} | set(sys.stdlib_module_names)
    forbidden = {"asyncio", "socket", "os", "logging", "threading", "subprocess"}
    assert reach(module) <= allowed - forbidden


@pytest.mark.parametrize("module", ["handshake", "addresses"])
def test_reading_a_request_does_no_io(module: str) -> None:
    assert not reach(module) & {"trio", "quart", "redis", "socket", "asyncio", "h11", "hypercorn"}


@pytest.mark.parametrize("module", ["hub", "connection", "outlet", "flusher", "batch", "receipts"])
def test_the_hub_knows_no_quart_and_no_redis(module: str) -> None:
    assert not reach(module) & {"quart", "quart_trio", "redis", "trio_asyncio", "hypercorn"}


def test_routes_know_no_redis() -> None:
    assert not reach("routes") & {"redis", "trio_asyncio", "trio_sse.subscriber"}


def test_few_know_redis_and_all_of_them_are_below_the_subscriber_or_publish() -> None:
    know = {module for module in MODULES if "redis" in imports(module)}
    assert know == {
        "redis_errors",
        "redis_link",
        "redis_stream",
        "lookup",
        "subscriber",
        "publisher",
        "check",
    }
    above = {"trio_sse.publisher", "trio_sse.check"}
    assert {f"trio_sse.{module}" for module in know} <= reach("subscriber") | above


@pytest.mark.parametrize("module", ["gate", "auth", "limits", "addresses", "handshake", "open_stream"])
def test_who_may_have_a_stream_is_decided_without_redis_and_without_quart(module: str) -> None:
    assert not reach(module) & {"redis", "trio_asyncio", "quart", "quart_trio", "hypercorn"}


def test_where_clients_go_on_is_decided_without_redis() -> None:
    """`replays` hands questions over by an asyncio.Event: nothing else of asyncio, and no loop."""
    assert not reach("replays") & {"redis", "trio_asyncio", "quart", "quart_trio", "hypercorn"}
    tree = ast.walk(ast.parse((PACKAGE / "replays.py").read_text()))
    names = [node for node in tree if isinstance(node, ast.Attribute)]
    used = {node.attr for node in names if isinstance(node.value, ast.Name) and node.value.id == "asyncio"}
    assert used == {"Event"}


def test_only_the_settings_know_how_settings_are_read() -> None:
    assert [module for module in MODULES if "pydantic_settings" in imports(module)] == ["settings"]


def test_nothing_imports_in_a_circle() -> None:
    for module in MODULES:
        for below in imports(module) & {f"trio_sse.{name}" for name in MODULES}:
            assert f"trio_sse.{module}" not in reach(below.partition(".")[2])
