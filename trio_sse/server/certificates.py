"""The certificate that new connections get: taken up anew when its files change, or when SIGHUP asks for it.

Connections that are open keep theirs, so no stream ends. Relies on Hypercorn's workers to ask
`Config.create_ssl_context` for their context after the lifespan start-up, once.
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
"""Between two looks at the files. A renewal is no hurry; a look costs a few microseconds."""

_make = Config.create_ssl_context


class RenewableContext(ssl.SSLContext):
    """Every handshake goes by `current`, which may be exchanged.

    Loading another pair into one context is not the same: it keeps the old one beside it where their keys are
    of different kinds, and has lost the old one where the new one does not load.
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
        """Stand in the place of what makes a context for Hypercorn."""

        def create_ssl_context(config: Config) -> ssl.SSLContext | None:
            return self.context(config)

        ours = {"create_ssl_context": create_ssl_context}
        with standing_in({Config: ours}, "a renewed certificate needs a restart"):
            yield

    def context(self, config: Config) -> ssl.SSLContext | None:
        """The context that `config` asks for, kept up with its files from now on. None: no TLS."""
        seen = _state(config)
        made = _make(config)
        if made is None:
            return None
        self._config, self._seen = config, seen
        self._context = RenewableContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.current = made
        return self._context

    async def watch(self) -> None:
        """Look at the files now and then, until cancelled."""
        while True:
            await trio.sleep(WATCH_SECONDS)
            if self._context is not None and _state(self._config) != self._seen:
                self._renew(self._context)

    async def listen(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Take up the files at each SIGHUP, until cancelled. Without TLS a SIGHUP does nothing."""
        with trio.open_signal_receiver(signal.SIGHUP) as received:
            task_status.started()
            async for _ in received:
                if self._context is None:
                    log.info("SIGHUP: there is no certificate to take up (SSE_TLS_CERT)")
                else:
                    self._renew(self._context)

    def _renew(self, context: RenewableContext) -> None:
        config = copy.copy(self._config)
        # With a password, though none is right: OpenSSL would ask on the terminal for that of the key.
        config.keyfile_password = config.keyfile_password or ""
        self._seen = _state(config)
        try:
            made = _make(config)
            assert made is not None
        except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
            log.error(
                "the new certificate does not load, the old one goes on (SSE_TLS_CERT, SSE_TLS_KEY)",
                certificate=config.certfile,
                key=config.keyfile,
                error=str(error),
            )
        else:
            context.current = made
            log.info("new connections get the new certificate", certificate=config.certfile)


def _state(config: Config) -> list[tuple[int, ...] | None]:
    """What changes with the files, whether they are written to, replaced, or behind a link that is."""
    return [_file_state(path) for path in (config.certfile, config.keyfile, config.ca_certs)]


def _file_state(path: str | None) -> tuple[int, ...] | None:
    try:
        found = os.stat(path) if path is not None else None
    except OSError:
        return None
    return found and (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def hangup_is_unattended() -> bool:
    """Whether SIGHUP would end this process, or is ignored."""
    in_main_thread = threading.current_thread() is threading.main_thread()
    return in_main_thread and signal.getsignal(signal.SIGHUP) in (signal.SIG_DFL, signal.SIG_IGN)
