"""The services and peers that can be measured, and the command of each."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from services import HERE, Place, Service

PEERS = HERE / "peers"


def program(name: str) -> str | None:
    """A command beside this Python, on the PATH, or (for go) where its own installer puts it."""
    beside = Path(sys.executable).parent / name
    if beside.exists():
        return str(beside)
    return shutil.which(name) or (shutil.which(name, path="/usr/local/go/bin") if name == "go" else None)


def nchan_module() -> Path | None:
    """The nchan module file of the installed nginx."""
    nginx = program("nginx")
    if not nginx:
        return None
    built = subprocess.run([nginx, "-V"], capture_output=True, text=True).stderr
    match = re.search(r"--modules-path=(\S+)", built)
    module = Path(match[1]) / "ngx_nchan_module.so" if match else None
    return module if module and module.exists() else None


def _needs(*modules: str) -> Callable[[], str]:
    def missing() -> str:
        absent = [m for m in modules if importlib.util.find_spec(m) is None]
        return f"Python package not installed: {', '.join(absent)}" if absent else ""

    return missing


def _go_command(place: Place) -> list[str]:
    binary = place.folder / "go_service"
    if not binary.exists():
        go = program("go")
        assert go
        subprocess.run([go, "build", "-o", binary, PEERS / "go_service.go"], check=True, cwd=place.folder)
    return [str(binary)]


def _nginx_command(place: Place) -> list[str]:
    nginx, folder = program("nginx"), place.folder / "nginx"
    assert nginx
    folder.mkdir(exist_ok=True)
    for path in (place.folder, folder):
        path.chmod(0o755)  # the worker may run as another user
    text = (PEERS / "nchan.conf").read_text()
    values = {
        "MODULE": nchan_module(),
        "FILES": min(place.files, 65536),
        "FOLDER": folder,
        "PORT": place.port,
        "HEARTBEAT": place.heartbeat,
    }
    for key, value in values.items():
        text = text.replace(f"@{key}@", str(value))
    (folder / "nchan.conf").write_text(text)
    return [nginx, "-p", str(folder), "-c", str(folder / "nchan.conf")]


def _uvicorn_command(place: Place) -> list[str]:
    options = "--loop uvloop --http httptools --backlog 4096 --no-access-log --log-level warning"
    words = [*options.split(), "--port", str(place.port), "starlette_service:app"]
    return [sys.executable, "-m", "uvicorn", "--app-dir", str(PEERS), *words]


def _hypercorn(*options: str) -> Callable[[Place], list[str]]:
    return lambda place: [
        program("hypercorn") or "hypercorn",
        *options,
        "-b",
        f"127.0.0.1:{place.port}",
        "trio_sse:app",
    ]


def _trio_sse(place: Place) -> list[str]:
    return [program("trio-sse") or "trio-sse"]


def _command_missing() -> str:
    return _needs("trio_sse")() or ("" if program("trio-sse") else "command not installed: trio-sse")


OURS = _needs("trio_sse", "hypercorn")
SERVICES = (
    Service("trio-sse", "trio-sse", _trio_sse, _command_missing),
    Service("hypercorn-trio", "hypercorn -k trio", _hypercorn("-k", "trio"), OURS),
    Service("hypercorn", "hypercorn (plain)", _hypercorn(), OURS),
    Service("quart", "Quart route", _hypercorn("-k", "trio"), OURS, env={"SSE_DIRECT": "false"}),
    Service(
        "trio-sse-2", "trio-sse, 2 workers", _trio_sse, _command_missing, workers=2, env={"SSE_WORKERS": "2"}
    ),
    Service(
        "hypercorn-trio-2", "hypercorn -k trio -w 2", _hypercorn("-k", "trio", "-w", "2"), OURS, workers=2
    ),
    Service("hypercorn-2", "hypercorn -w 2 (plain)", _hypercorn("-w", "2"), OURS, workers=2),
    Service(
        "go",
        "Go net/http",
        _go_command,
        lambda: "" if program("go") else "go is not installed",
        ready="/healthz",
        peer=True,
        stats=True,
        env={"GOMAXPROCS": "1"},
    ),
    Service(
        "nchan",
        "nginx + nchan",
        _nginx_command,
        lambda: "" if nchan_module() else "nginx with the nchan module is not installed",
        ready="/healthz",
        mark=": hi",
        about="/status",
        publish="nchan",
        peer=True,
    ),
    Service(
        "sse-starlette",
        "sse-starlette",
        _uvicorn_command,
        _needs("sse_starlette", "uvicorn", "uvloop", "httptools", "redis", "hiredis"),
        ready="/healthz",
        peer=True,
        stats=True,
    ),
)
