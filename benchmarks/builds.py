"""Building the peers that a toolchain makes: into a cache folder, once, before anything is measured."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).resolve().parent
PEERS = HERE / "peers"
CACHE = HERE / ".cache"  # may be removed at any time; then the next run builds anew
BUILD_SECONDS = 900
CENTRIFUGO = "github.com/centrifugal/centrifugo/v6"
CENTRIFUGO_VERSION = "v6.9.1"
INSTALLERS = {"go": "/usr/local/go/bin", "cargo": str(Path.home() / ".cargo" / "bin")}


def program(name: str) -> str | None:
    """A command beside this Python, on the PATH, or where its own installer puts it."""
    beside = Path(sys.executable).parent / name
    if beside.exists():
        return str(beside)
    return shutil.which(name) or (shutil.which(name, path=INSTALLERS[name]) if name in INSTALLERS else None)


def _run(words: list[str], folder: Path, env: dict[str, str] | None = None) -> None:
    """Run a step of a build. Raises RuntimeError with the last line that it printed."""
    print(f"... building: {Path(words[0]).name} {' '.join(words[1:3])}", file=sys.stderr, flush=True)
    try:
        subprocess.run(
            words,
            cwd=folder,
            env=os.environ | (env or {}),
            check=True,
            timeout=BUILD_SECONDS,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
    except subprocess.CalledProcessError as error:
        lines = error.stdout.decode(errors="replace").strip().splitlines() or ["no output"]
        raise RuntimeError(lines[-1]) from None
    except subprocess.TimeoutExpired:
        raise RuntimeError(f"took more than {BUILD_SECONDS} s") from None


def _copied(name: str) -> Path:
    """The sources of a peer, in the cache, where its tools may write beside them."""
    return Path(shutil.copytree(PEERS / name, CACHE / name, dirs_exist_ok=True))


def go_service() -> Path:
    binary = CACHE / "go_service"
    _run([_tool("go"), "build", "-o", str(binary), str(PEERS / "go_service.go")], CACHE)
    return binary


def centrifugo() -> Path:
    folder = CACHE / f"centrifugo-{CENTRIFUGO_VERSION}"
    binary = folder / "centrifugo"
    if not binary.exists():
        folder.mkdir(exist_ok=True)
        _run([_tool("go"), "install", f"{CENTRIFUGO}@{CENTRIFUGO_VERSION}"], folder, {"GOBIN": str(folder)})
    return binary


def rust_service() -> Path:
    folder = _copied("rust")
    target = folder / "target"
    _run([_tool("cargo"), "build", "--release", "--quiet", "--target-dir", str(target)], folder)
    return target / "release" / "rust_service"


def node_service() -> Path:
    wanted = (PEERS / "node" / "package.json").read_text()
    installed = CACHE / "node" / "node_modules" / "package.json"  # a copy of what was asked for
    folder = _copied("node")
    if not installed.exists() or installed.read_text() != wanted:
        _run([_tool("npm"), "install", "--no-audit", "--no-fund", "--no-package-lock"], folder)
        installed.write_text(wanted)
    return folder / "node_service.js"


def _tool(name: str) -> str:
    found = program(name)
    assert found  # `missing` has looked
    return found


def built(build: Callable[[], Path], *tools: str) -> tuple[Callable[[], Path], Callable[[], str]]:
    """(what gives the built file, what says why there is none or ""): built at the first call of either."""

    @functools.cache
    def once() -> Path:
        CACHE.mkdir(exist_ok=True)
        return build()

    def missing() -> str:
        absent = [t for t in tools if not program(t)]
        if absent:
            return f"{' and '.join(absent)} not installed"
        try:
            once()
        except (RuntimeError, OSError) as error:
            return f"could not be built: {error}"
        return ""

    return once, missing
