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
MODULES = sorted(
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
    for path in PACKAGE.rglob("*.py")
    if path.stem != "__init__"
)

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


WITHOUT_TESTS = {"version", "web.serving"}
"""A constant, and one line that all tests of `web` use."""


@pytest.mark.parametrize("module", sorted(set(MODULES) - WITHOUT_TESTS))
def test_every_module_has_its_tests(module: str) -> None:
    *folders, name = module.split(".")
    assert Path(__file__).parent.joinpath(*folders, f"test_{name}.py").exists()


@functools.cache
def imports(module: str) -> frozenset[str]:
    """What a module imports when it is loaded: modules of this package by their names in it (`delivery.hub`),
    anything else by its first name, such as `trio`."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(PACKAGE.joinpath(*module.split(".")).with_suffix(".py").read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {
                name if name.removeprefix("trio_sse.") in MODULES else node.module or "" for name in names
            }
    ours = {name.removeprefix("trio_sse.") for name in found if name.startswith("trio_sse.")}
    return frozenset(ours | {name.partition(".")[0] for name in found if not name.startswith("trio_sse")})


@functools.cache
def reach(module: str) -> frozenset[str]:
    """`imports`, and what the modules of this package among them import in turn."""
    found: set[str] = set()
    new = {module}
    while new:
        found |= new
        new = set().union(*(imports(name) for name in new & set(MODULES))) - found
    return frozenset(found)


def folder(module: str) -> str:
    """`delivery` of `delivery.hub`, `top` of a module outside of all folders."""
    return module.partition(".")[0] if "." in module else "top"


def part_of(name: str) -> str:
    """The folder of what is imported; of a module outside of all folders its own name."""
    return name.partition(".")[0]


SHARED = {"counters", "http_answers", "patches", "settings", "sockets"}
"""What everybody may know."""

BELOW = {
    "settings": set[str](),
    "logs": set[str](),
    "delivery": set[str](),
    "access": {"delivery", "descriptors", "version"},
    "broker": {"delivery"},
    "admin": {"access", "broker", "delivery"},
    "metrics": {"version"},
    "tracing": {"delivery", "version"},
    "server": {"access", "delivery", "service"},
    "web": {"access", "admin", "broker", "delivery", "server", "service", "version"},
    "commands": {"access", "broker", "delivery", "logs", "options", "server", "version"},
}
"""For each folder what it may import beside itself and SHARED. Imports point downwards."""

FOREIGN = {"quart", "quart_trio", "redis", "hypercorn", "trio_asyncio", "h11", "h2", "asyncio"}
MAY_KNOW = {
    "settings": set[str](),
    "logs": {"hypercorn"},
    "delivery": {"asyncio"},
    "access": set[str](),
    "broker": {"redis", "trio_asyncio", "asyncio"},
    "admin": set[str](),
    "metrics": set[str](),
    "tracing": set[str](),
    "server": {"hypercorn", "trio_asyncio", "h11", "h2", "asyncio"},
    "web": {"quart", "quart_trio"},
    "commands": {"redis", "asyncio"},
}
"""For each folder which of FOREIGN it may import."""


@pytest.mark.parametrize("module", [module for module in MODULES if folder(module) != "top"])
def test_a_folder_imports_what_is_below_it(module: str) -> None:
    own = folder(module)
    ours = {part_of(name) for name in imports(module) if name in MODULES or name in BELOW}
    assert ours <= BELOW[own] | {own} | SHARED
    assert imports(module) & FOREIGN <= MAY_KNOW[own]


@pytest.mark.parametrize(
    "module", [module for module in MODULES if folder(module) in ("server", "access", "delivery")]
)
def test_the_fast_way_loads_no_quart(module: str) -> None:
    assert not reach(module) & {"quart", "quart_trio"}


PURE = ("sse", "messages", "event_ids", "sources", "history", "notices")


@pytest.mark.parametrize("module", [f"delivery.{name}" for name in PURE])
def test_pure_modules_do_no_io(module: str) -> None:
    allowed = {"msgspec"} | set(sys.stdlib_module_names) - {
        "asyncio",
        "socket",
        "os",
        "logging",
        "threading",
        "subprocess",
    }
    assert {name for name in reach(module) if name not in MODULES} <= allowed


def test_only_the_settings_read_the_environment_and_know_how() -> None:
    assert {folder(module) for module in MODULES if "pydantic_settings" in imports(module)} == {"settings"}


def test_nothing_imports_in_a_circle() -> None:
    for module in MODULES:
        for below in imports(module) & set(MODULES):
            assert module not in reach(below), f"{module} and {below}"


def test_no_import_is_for_the_type_checker_alone() -> None:
    """It would hide an arrow that points upwards."""
    for module in MODULES:
        assert "TYPE_CHECKING" not in PACKAGE.joinpath(*module.split(".")).with_suffix(".py").read_text()
