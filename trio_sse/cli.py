"""The `trio-sse` command."""

from __future__ import annotations

import contextlib
import json
import logging
import multiprocessing
import os
import shlex
import signal
import socket
import sys
from collections.abc import Iterator
from functools import partial
from typing import Any

import click
import hypercorn.run
import hypercorn.trio
import trio
from hypercorn.config import Config

from trio_sse import check, check_by_key, check_partitions, embedded, options
from trio_sse.access.admission import Admission
from trio_sse.access.publishers import Publishers
from trio_sse.asgi import Application
from trio_sse.broker import announcer
from trio_sse.commands.explain import explain
from trio_sse.commands.listen import listen
from trio_sse.commands.publish import publish
from trio_sse.commands.route import route
from trio_sse.commands.token import token
from trio_sse.logs import configure
from trio_sse.patches import standing_in
from trio_sse.server.listening import ListenError, listening, place, urls
from trio_sse.server.metrics_port import metrics_listener
from trio_sse.settings import Settings
from trio_sse.sockets import MAX_BACKLOG
from trio_sse.tracing import extra
from trio_sse.version import __version__


class _ServeByDefault(click.Group):
    """Plain `trio-sse`, and `trio-sse --port 9000`, mean `trio-sse serve …`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        own = {name for parameter in self.get_params(ctx) for name in parameter.opts}
        if not args or (
            args[0] not in self.commands and args[0].split("=")[0] not in own and args[0][:1] == "-"
        ):
            args = ["serve", *args]
        return super().parse_args(ctx, args)


@click.group(
    cls=_ServeByDefault, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.version_option(__version__, prog_name="trio-sse")
def main() -> None:
    """Redis in, Server-Sent Events out.

    Without a command it serves. Settings come from the environment; an option overrides it. Passwords,
    secrets and tokens have no options, but each can be read from a file: REDIS_PASSWORD_FILE and so on.
    """


@main.command()
@options.for_settings()
def serve(**given: str | None) -> None:
    """Serve (what plain `trio-sse` does).

    If no Redis is configured and none answers on 127.0.0.1 and REDIS_PORT, an embedded Valkey is started.
    """
    with _hangups_ignored():
        settings = options.read(given, _more_checks)
        configure(settings)
        with _redis(settings), _listeners(settings) as listeners:
            sys.exit(_serve(settings, listeners))


@main.command("check")
@options.for_settings()
def check_command(**given: str | None) -> None:
    """Test settings, port, Redis and channel, and say what to change. Exit code 1 if anything is wrong."""
    settings = options.read(given, _more_checks)
    sys.exit(check.run(settings))


def _more_checks(settings: Settings) -> None:
    Admission(settings)  # reads the key file
    Publishers(settings)
    announcer.check(settings)
    extra.check(settings)


main.add_command(explain)
main.add_command(publish)
main.add_command(route)
main.add_command(listen)
main.add_command(token)


@contextlib.contextmanager
def _hangups_ignored() -> Iterator[None]:
    """Ignore SIGHUP before and after the service runs. While it runs, SIGHUP reloads the certificate
    (`certificates`)."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGHUP, before)


@contextlib.contextmanager
def _redis(settings: Settings) -> Iterator[None]:
    if settings.redis_is_configured or embedded.is_answering(settings.redis_port):
        yield
        return
    with contextlib.ExitStack() as stack:
        try:
            port = stack.enter_context(embedded.valkey(settings.redis_port))
        except (embedded.EmbeddedError, OSError) as error:
            reason = str(error).splitlines()[0]
            options.fail(
                f"no Redis on 127.0.0.1:{settings.redis_port}, and the embedded Valkey did not start: "
                f"{reason} (start one, or set REDIS_HOST or REDIS_URL)"
            )
        command, python = _how_to_send(settings, port)
        click.echo(
            f"No Redis on 127.0.0.1:{port}, so an embedded Valkey was started there for trying out. Try:\n"
            f"  redis-cli -p {port} {command}\n"
            f"  {shlex.quote(sys.executable)} -c {shlex.quote(f'import json, redis; redis.Redis{python}')}"
            + "".join(_how_to_watch(settings)),
            err=True,
        )
        yield


def _how_to_send(settings: Settings, port: int) -> tuple[str, str]:
    """The rest of a command of redis-cli, and of a line of Python."""
    if settings.partitioned:
        name, payload = check_partitions.sample(settings)
        command = shlex.join(["-n", str(settings.redis_database), "XADD", name, "*", "payload", payload])
        entry = f"{{'payload': json.dumps({payload})}}"
        return command, f"(port={port}, db={settings.redis_database}).xadd({json.dumps(name)}, {entry})"
    name, payload = check_by_key.sample(settings)
    python = f"(port={port}).publish({json.dumps(name)}, json.dumps({payload}))"
    return f"PUBLISH {shlex.quote(name)} {shlex.quote(payload)}", python


def _how_to_watch(settings: Settings) -> Iterator[str]:
    for way in urls(settings)[:1]:
        browser = "" if way.unix else f"{way.url}{settings.root_path}/ or: "
        yield f"\nand watch {browser}{way.curl(f'{settings.root_path}/sse')}"


@contextlib.contextmanager
def _listeners(settings: Settings) -> Iterator[list[socket.socket]]:
    with contextlib.ExitStack() as stack:
        try:
            listeners = stack.enter_context(listening(settings))
        except ListenError as error:
            options.fail(f"cannot listen on {place(settings)}: {error}")
        try:
            # Each worker makes one of its own, and none of them would hear that the port is taken.
            with metrics_listener(settings) or contextlib.nullcontext():
                pass
        except OSError as error:
            options.fail(
                f"cannot listen on port {settings.metrics_port}: {error.strerror or error} (SSE_METRICS_PORT)"
            )
        yield listeners


def _serve(settings: Settings, listeners: list[socket.socket]) -> int:
    config = Config()
    config.bind = [f"fd://{listener.detach()}" for listener in listeners]
    config.backlog = MAX_BACKLOG
    config.errorlog = logging.getLogger("trio_sse.hypercorn")
    config.worker_class = "trio"
    config.certfile, config.keyfile = settings.tls_cert, settings.tls_key
    config.ssl_handshake_timeout = 10
    config.workers = settings.workers
    config.application_path = "trio_sse.asgi:worker"
    if settings.workers > 1:
        return _run_workers(config)
    application = Application(settings, signals=(signal.SIGINT, signal.SIGTERM))
    stop = application.stop_requested
    try:
        trio.run(partial(hypercorn.trio.serve, application, config, shutdown_trigger=stop))  # type: ignore[arg-type]
    except Exception:
        if not application.crashed:  # else it was logged where it happened
            raise
        return 1
    return 0


def _run_workers(config: Config) -> int:
    """Run worker processes.

    Hypercorn 0.18 loses the exit code of a failed worker, and ends all workers at SIGHUP. Both are corrected
    here. tests/integration/test_libraries.py fails when this is no longer needed.
    """
    codes: list[int] = []
    join_exited = getattr(hypercorn.run, "_join_exited", None)

    def join_and_keep(processes: list[Any]) -> int:
        assert join_exited is not None  # standing_in() checked it
        codes.append(join_exited(processes))
        return codes[-1]

    ours = {"_join_exited": join_and_keep, "signal": _WorkersSignals}
    with standing_in({hypercorn.run: ours}, "a failed worker may exit with 0, and SIGHUP ends all"):
        hypercorn.run.run(config)
    return 1 if any(codes) else 0


class _WorkersSignals:
    """The part of `signal` that Hypercorn's main process sees. It has no SIGHUP, so Hypercorn sets no
    handler."""

    SIGINT, SIGTERM, SIG_IGN = signal.SIGINT, signal.SIGTERM, signal.SIG_IGN

    @staticmethod
    def signal(number: signal.Signals, handler: Any) -> None:
        """Set the handler; with that of SIGINT, also one for SIGHUP. Both are ignored while workers start,
        and workers inherit that. After that, SIGHUP is passed on to the workers."""
        signal.signal(number, handler)
        if number == signal.SIGINT:
            ours = handler if handler == signal.SIG_IGN else _hang_up_workers
            signal.signal(signal.SIGHUP, ours)


def _hang_up_workers(*_: object) -> None:
    for worker in multiprocessing.active_children():
        if worker.pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(worker.pid, signal.SIGHUP)
