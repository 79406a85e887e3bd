"""The services and peers that can be measured."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable

import builds
import commands
from builds import program
from services import Client, Service


def _needs(*modules: str) -> Callable[[], str]:
    def missing() -> str:
        absent = [m for m in modules if importlib.util.find_spec(m) is None]
        return f"Python package not installed: {', '.join(absent)}" if absent else ""

    return missing


def _command_missing() -> str:
    return _needs("trio_sse")() or ("" if program("trio-sse") else "command not installed: trio-sse")


OURS = _needs("trio_sse", "hypercorn")
GO, GO_MISSING = builds.built(builds.go_service, "go")
RUST, RUST_MISSING = builds.built(builds.rust_service, "cargo")
NODE, NODE_MISSING = builds.built(builds.node_service, "node", "npm")
CENTRIFUGO, CENTRIFUGO_MISSING = builds.built(builds.centrifugo, "go")
CENTRIFUGO_CLIENT = Client(
    path=commands.CENTRIFUGO_PATH,
    token_path=commands.CENTRIFUGO_TOKEN_PATH,
    token_header="",
    mark='"connect":',
    id='"offset":',
    epoch='"epoch":"',
    resume=commands.CENTRIFUGO_RESUME_PATH,
)


def _centrifugo(name: str, title: str, engine: str) -> Service:
    return Service(
        name,
        title,
        commands.centrifugo(CENTRIFUGO, engine),
        CENTRIFUGO_MISSING,
        ready="/healthz",
        client=CENTRIFUGO_CLIENT,
        publish="centrifugo",
        peer=True,
        env={"GOMAXPROCS": "1"},
        can=frozenset({"tls", "tokens", "resume"}),
    )


SERVICES = (
    Service("trio-sse", "trio-sse", commands.trio_sse, _command_missing),
    Service("hypercorn-trio", "hypercorn -k trio", commands.hypercorn("-k", "trio"), OURS),
    Service("hypercorn", "hypercorn (plain)", commands.hypercorn(), OURS),
    Service("quart", "Quart route", commands.hypercorn("-k", "trio"), OURS, env={"SSE_DIRECT": "false"}),
    Service(
        "trio-sse-2",
        "trio-sse, 2 workers",
        commands.trio_sse,
        _command_missing,
        workers=2,
        env={"SSE_WORKERS": "2"},
    ),
    Service(
        "hypercorn-trio-2",
        "hypercorn -k trio -w 2",
        commands.hypercorn("-k", "trio", "-w", "2"),
        OURS,
        workers=2,
    ),
    Service("hypercorn-2", "hypercorn -w 2 (plain)", commands.hypercorn("-w", "2"), OURS, workers=2),
    Service(
        "go",
        "Go net/http",
        commands.binary(GO),
        GO_MISSING,
        ready="/healthz",
        peer=True,
        stats=True,
        env={"GOMAXPROCS": "1"},
        can=frozenset({"tls", "tokens"}),
    ),
    Service(
        "rust",
        "Rust axum",
        commands.binary(RUST),
        RUST_MISSING,
        ready="/healthz",
        peer=True,
        stats=True,
        can=frozenset({"tokens"}),
    ),
    Service(
        "node",
        "Node http",
        commands.node(NODE),
        NODE_MISSING,
        ready="/healthz",
        peer=True,
        stats=True,
        can=frozenset({"tls", "tokens"}),
    ),
    _centrifugo("centrifugo", "Centrifugo", "memory"),
    _centrifugo("centrifugo-redis", "Centrifugo, Redis engine", "redis"),
    Service(
        "nchan",
        "nginx + nchan",
        commands.nginx,
        lambda: "" if commands.nchan_module() else "nginx with the nchan module is not installed",
        ready="/healthz",
        client=Client(mark=": hi"),
        about="/status",
        publish="nchan",
        peer=True,
        can=frozenset({"tls", "resume"}),
    ),
    Service(
        "sse-starlette",
        "sse-starlette",
        commands.uvicorn,
        _needs("sse_starlette", "uvicorn", "uvloop", "httptools", "redis", "hiredis", "jwt"),
        ready="/healthz",
        peer=True,
        stats=True,
        can=frozenset({"tls", "tokens"}),
    ),
)
