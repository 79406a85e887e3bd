"""How each service is started: its command line, and the file of settings where it reads one."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

from builds import PEERS, program
from services import Place

KEPT_SECONDS = 300  # by the peers, for clients that come back; the default of SSE_HISTORY_SECONDS


def trio_sse(place: Place) -> list[str]:
    return [program("trio-sse") or "trio-sse"]


def hypercorn(*options: str) -> Callable[[Place], list[str]]:
    def command(place: Place) -> list[str]:
        tls = (
            ["--certfile", str(place.mode.tls[0]), "--keyfile", str(place.mode.tls[1])]
            if place.mode.tls
            else []
        )
        at = f"127.0.0.1:{place.port}"
        return [program("hypercorn") or "hypercorn", *options, *tls, "-b", at, "trio_sse:app"]

    return command


def uvicorn(place: Place) -> list[str]:
    options = "--loop uvloop --http httptools --backlog 4096 --no-access-log --log-level warning"
    words = [*options.split(), "--port", str(place.port), "starlette_service:app"]
    if place.mode.tls:
        words += ["--ssl-certfile", str(place.mode.tls[0]), "--ssl-keyfile", str(place.mode.tls[1])]
    return [sys.executable, "-m", "uvicorn", "--app-dir", str(PEERS), *words]


def binary(path: Callable[[], Path]) -> Callable[[Place], list[str]]:
    return lambda _: [str(path())]


def node(script: Callable[[], Path]) -> Callable[[Place], list[str]]:
    return lambda _: [program("node") or "node", str(script())]


def nchan_module() -> Path | None:
    """The nchan module file of the installed nginx."""
    nginx = program("nginx")
    if not nginx:
        return None
    built = subprocess.run([nginx, "-V"], capture_output=True, text=True).stderr
    match = re.search(r"--modules-path=(\S+)", built)
    module = Path(match[1]) / "ngx_nchan_module.so" if match else None
    return module if module and module.exists() else None


def nginx(place: Place) -> list[str]:
    nginx, folder = program("nginx"), place.folder / "nginx"
    assert nginx
    folder.mkdir(exist_ok=True)
    for path in (place.folder, folder):
        path.chmod(0o755)  # the worker may run as another user
    text = (PEERS / "nchan.conf").read_text()
    tls, inner = place.mode.tls, f"listen 127.0.0.1:{place.inner};"
    values = {
        "MODULE": nchan_module(),
        "FILES": min(place.files, 65536),
        "FOLDER": folder,
        "PORT": place.port,
        "HEARTBEAT": place.mode.heartbeat,
        "SSL": "ssl" if tls else "",
        "TLS": f"ssl_certificate {tls[0]}; ssl_certificate_key {tls[1]}; {inner}" if tls else "",
    }
    for key, value in values.items():
        text = text.replace(f"@{key}@", str(value))
    (folder / "nchan.conf").write_text(text)
    return [nginx, "-p", str(folder), "-c", str(folder / "nchan.conf")]


def _asks(request: str) -> str:
    """The path of a Centrifugo client: its request is JSON in the query, open where load.c fills it."""
    words = re.split(r"(<\w+>)", request)
    return "/sse?cf_connect=" + "".join(
        f"{{{w[1:-1]}}}" if w.startswith("<") else quote(w, safe=":,") for w in words
    )


# A client asks for the channel that is the user's number, or has a token that names it.
CENTRIFUGO_PATH = _asks('{"subs":{"<user>":{}}}')
CENTRIFUGO_TOKEN_PATH = _asks('{"token":"<token>"}')
CENTRIFUGO_RESUME_PATH = _asks('{"subs":{"<user>":{"recover":true,"epoch":"<epoch>","offset":<id>}}}')


def centrifugo(path: Callable[[], Path], engine: str) -> Callable[[Place], list[str]]:
    """Its own settings file: uni_sse, the HTTP API, one channel per user; `engine` is memory or redis."""

    def command(place: Place) -> list[str]:
        settings: dict[str, Any] = json.loads((PEERS / "centrifugo.json").read_text())
        mode, server, client = place.mode, settings["http_server"], settings["client"]
        server["port"] = place.port
        client["ping_interval"] = f"{mode.heartbeat}s"
        settings["engine"] = {"type": engine, "redis": {"address": f"127.0.0.1:{place.redis_port}"}}
        if mode.tls:
            server |= {"tls_external": True, "internal_port": str(place.inner)}
            server["tls"] = {"enabled": True, "cert_pem": str(mode.tls[0]), "key_pem": str(mode.tls[1])}
        if mode.secret:
            client["insecure"] = False
            client["token"] = {"hmac_secret_key": mode.secret}
        if mode.history:
            kept = {"history_size": mode.history, "history_ttl": f"{KEPT_SECONDS}s", "force_recovery": True}
            settings["channel"] = {"without_namespace": kept}
        file = place.folder / f"centrifugo-{engine}.json"
        file.write_text(json.dumps(settings, indent=1))
        return [str(path()), "-c", str(file)]

    return command
