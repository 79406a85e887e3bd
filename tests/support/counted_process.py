"""Starts a command in a process that can be counted: on SIGUSR1 it writes to COUNTS_DIRECTORY what it holds.

    python -P counted_process.py …/bin/hypercorn trio_sse:app

Worker processes import this file again, so that each can be asked. The service itself knows nothing of it.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import signal
import sys
from collections import Counter
from importlib.metadata import entry_points
from pathlib import Path

import trio

import trio_sse.asgi
from trio_sse.delivery.asgi_source import AsgiOutlet
from trio_sse.delivery.connection import Connection
from trio_sse.delivery.outlet import SocketOutlet
from trio_sse.service import Service
from trio_sse.settings import Settings

_services: list[Service] = []


def _remember(settings: Settings) -> Service:
    service = Service(settings)
    _services.append(service)
    (_directory() / "serving").write_text(str(os.getpid()))
    return service


def _count(*_: object) -> None:
    [service] = _services
    gc.collect()
    objects = gc.get_objects()
    types = Counter(map(type, objects))

    def of(*kinds: type) -> int:
        return sum(number for kind, number in types.items() if issubclass(kind, kinds))

    hub, history, resumer = service.hub, service.history, service.resumer
    counts = {
        "tasks": of(trio.lowlevel.Task),
        "asyncio tasks": of(asyncio.Task),
        "nurseries": of(trio.Nursery),
        "Connection objects": of(Connection),
        "memory channels": of(trio.MemorySendChannel, trio.MemoryReceiveChannel),
        "outlets": of(SocketOutlet, AsgiOutlet),
        "connections in the hub": len(hub),
        "users in the hub": len(hub.users),
        "deliveries that wait": len(hub._for_target) + bool(hub._for_all),
        "bytes that wait": hub.pending_bytes,
        "messages in the history": len(history),
        "users in the history": history.indexed,
        "log entries in the history": len(history._entry_ids),
        "bytes in the history": history._bytes,
        "pending replays": len(resumer.pending),
        "deferred replays": len(resumer.deferred),
        "lifetimes": len(service.lifetimes),
    }
    result = {
        "counts": counts,
        "totals": service.counters.snapshot(),
        "tasks": [_where(each) for each in objects if isinstance(each, trio.lowlevel.Task)],
        "blocks": sys.getallocatedblocks(),
        "types": {f"{kind.__module__}.{kind.__qualname__}": number for kind, number in types.items()},
    }
    unfinished = _directory() / "unfinished"
    unfinished.write_text(json.dumps(result))
    unfinished.rename(_directory() / "counts")


def _where(task: trio.lowlevel.Task) -> str:
    """Which functions of which modules the task waits in, the outermost first."""
    frames = [frame.f_code for frame, _ in task.iter_await_frames()]
    return " > ".join(f"{Path(code.co_filename).stem}.{code.co_qualname}" for code in frames)


def _directory() -> Path:
    return Path(os.environ["COUNTS_DIRECTORY"])


signal.signal(signal.SIGUSR1, _count)
vars(trio_sse.asgi)["Service"] = _remember

if __name__ == "__main__":
    del sys.argv[0]
    [command] = entry_points(group="console_scripts", name=Path(sys.argv[0]).name)
    sys.exit(command.load()())
