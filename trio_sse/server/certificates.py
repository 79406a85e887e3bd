"""The certificate for new connections. It is loaded again when its files change, and at SIGHUP.

Open connections keep theirs, so no stream ends. This relies on Hypercorn's workers calling
`Config.create_ssl_context` once, after the lifespan start-up.
"""

from __future__ import annotations

import contextlib
import copy
import os
import signal
import ssl
import threading
from collections.abc import Iterator
from typing import Any

import structlog
import trio
from hypercorn.config import Config

from trio_sse.patches import standing_in

log = structlog.stdlib.get_logger("trio_sse.server.certificates")

WATCH_SECONDS = 5.0
"""Seconds between two checks of the files. A renewal is not urgent; a check takes a few microseconds."""

TICKETS = 1
"""Session tickets for each client. OpenSSL would make two. One resumes one handshake, and making it takes a
tenth of one."""

_of_hypercorn = Config.create_ssl_context


class RenewableContext(ssl.SSLContext):
    """A context whose handshakes use `current`, which may be replaced.

    Loading another pair into the same context is different: if their keys are of different kinds, the old
    pair stays beside the new one; if the new pair does not load, the old one is lost.
    """

    current: ssl.SSLContext

    def wrap_bio(self, *args: Any, **kwargs: Any) -> ssl.SSLObject:
        return self.current.wrap_bio(*args, **kwargs)


class Certificates:
    """The certificate of one worker."""

    def __init__(self) -> None:
        self._config = Config()
        self._context: RenewableContext | None = None
        self._seen: object = None

    @contextlib.contextmanager
    def installed(self) -> Iterator[None]:
        """Replace the method that makes Hypercorn's context while the scope is open."""

        def create_ssl_context(config: Config) -> ssl.SSLContext | None:
            return self.context(config)

        ours = {"create_ssl_context": create_ssl_context}
        with standing_in({Config: ours}, "a renewed certificate needs a restart"):
            yield

    def context(self, config: Config) -> ssl.SSLContext | None:
        """The context for `config`, which follows its files from now on. None without TLS."""
        seen = _state(config)
        made = _make(config)
        if made is None:
            return None
        self._config, self._seen = config, seen
        self._context = RenewableContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.current = made
        return self._context

    async def watch(self) -> None:
        """Check the files every WATCH_SECONDS, until cancelled."""
        while True:
            await trio.sleep(WATCH_SECONDS)
            if self._context is not None and _state(self._config) != self._seen:
                self._renew(self._context)

    async def listen(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Load the files at each SIGHUP, until cancelled. Without TLS a SIGHUP is only logged."""
        with trio.open_signal_receiver(signal.SIGHUP) as received:
            task_status.started()
            async for _ in received:
                if self._context is None:
                    log.info("SIGHUP: there is no certificate to load (SSE_TLS_CERT)")
                else:
                    self._renew(self._context)

    def _renew(self, context: RenewableContext) -> None:
        config = copy.copy(self._config)
        # With an empty password OpenSSL does not ask for the key's password on the terminal.
        config.keyfile_password = config.keyfile_password or ""
        self._seen = _state(config)
        try:
            made = _make(config)
            assert made is not None
        except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
            log.error(
                "the new certificate does not load, the old one stays (SSE_TLS_CERT, SSE_TLS_KEY)",
                certificate=config.certfile,
                key=config.keyfile,
                error=str(error),
            )
        else:
            context.current = made
            log.info("new connections get the new certificate", certificate=config.certfile)


def _make(config: Config) -> ssl.SSLContext | None:
    made = _of_hypercorn(config)
    if made is not None:
        made.num_tickets = TICKETS
        # Else a write may have to wait for what the client says (TLS 1.2).
        made.options |= ssl.OP_NO_RENEGOTIATION
    return made


def _state(config: Config) -> list[tuple[int, ...] | None]:
    """A value that changes when a file is written or replaced, also behind a link."""
    return [_file_state(path) for path in (config.certfile, config.keyfile, config.ca_certs)]


def _file_state(path: str | None) -> tuple[int, ...] | None:
    try:
        found = os.stat(path) if path is not None else None
    except OSError:
        return None
    return found and (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def hangup_is_unattended() -> bool:
    """Whether SIGHUP has no handler: it would end this process, or is ignored."""
    in_main_thread = threading.current_thread() is threading.main_thread()
    return in_main_thread and signal.getsignal(signal.SIGHUP) in (signal.SIG_DFL, signal.SIG_IGN)
