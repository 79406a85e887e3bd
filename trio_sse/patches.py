"""All patches of libraries: what is replaced, where, why, and which test fails when a patch can go.

One policy holds for all. If a library lacks a name that a patch replaces, that patch is left out. One log
line says so, and the service runs without the patch: slower, or with the library's fault.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import structlog

log = structlog.stdlib.get_logger("trio_sse.patches")


@dataclass(frozen=True, slots=True)
class Patch:
    what: str
    where: str
    """The module of this package that applies it."""
    library: str
    """Name and version of the library that needs it."""
    why: str
    test: str
    """The test that fails when it is no longer needed, or no longer possible."""
    since: tuple[int, int] = (3, 11)
    """The first Python that needs it."""


_NEEDED = "tests/integration/test_libraries.py::"

PATCHES = (
    Patch(
        what="the import raises no DeprecationWarning",
        where="compat",
        library="trio-asyncio 0.16",
        since=(3, 12),
        why="It derives from asyncio.AbstractChildWatcher (deprecated in 3.12), and gets and sets the policy "
        "of event loops (deprecated in 3.14). Where warnings are errors it cannot be imported.",
        test=_NEEDED + "test_importing_trio_asyncio_warns",
    ),
    Patch(
        what="asyncio has AbstractChildWatcher and events.BaseDefaultEventLoopPolicy during the import",
        where="compat",
        library="trio-asyncio 0.16",
        since=(3, 14),
        why="It derives from both. Python 3.14 no longer has the first; the second got an underscore.",
        test=_NEEDED + "test_trio_asyncio_derives_from_what_python_no_longer_has",
    ),
    Patch(
        what="the loop is the interpreter's running loop while it runs something",
        where="compat",
        library="trio-asyncio 0.16",
        since=(3, 14),
        why="Tasks written in C run under no other loop, and do not call the functions that trio-asyncio "
        "puts in the place of asyncio's.",
        test=_NEEDED + "test_trio_asyncio_does_not_tell_the_interpreter_which_loop_runs",
    ),
    Patch(
        what="TCPServer and raise_shutdown in hypercorn.trio.run and hypercorn.asyncio.run",
        where="server.front",
        library="hypercorn 0.18",
        why="Streams are served on their own sockets; an error of one connection ends that connection"
        " only; streams are drained while the worker still answers.",
        test=_NEEDED + "test_the_seams",
    ),
    Patch(
        what="trio.serve_listeners and asyncio.start_server, as hypercorn.trio.run and "
        "hypercorn.asyncio.run see them",
        where="server.front",
        library="hypercorn 0.18",
        why="The server's own listening sockets are known; without free descriptors accepting goes on, with"
        " one log line a minute.",
        test=_NEEDED + "test_the_seams",
    ),
    Patch(
        what="what passes connections on to TCPServer is called once without one",
        where="server.front",
        library="hypercorn 0.18",
        why="It alone knows what connections are served with. So Trio reads all of them, from the first on,"
        " under the asyncio worker too.",
        test=_NEEDED + "test_connections_are_passed_on_unseen",
    ),
    Patch(
        what="h11.Connection, as hypercorn.protocol.h11 sees it",
        where="server.http1",
        library="hypercorn 0.18, h11 0.16",
        why="h11 bounds only incomplete heads. A head of 12,800 fields blocks all connections for 50 ms.",
        test=_NEEDED + "test_the_seams",
    ),
    Patch(
        what="H2Protocol in hypercorn.protocol, and h2's connection and streams beneath",
        where="server.http2",
        library="hypercorn 0.18, h2 4",
        why="An error of one request ended all streams of an HTTP/2 connection, an old connection fell "
        "silent, and writers did not wait for a closed window.",
        test=_NEEDED + "test_hypercorn_ends_an_http2_connection_for_its_age",
    ),
    Patch(
        what="H11Protocol in hypercorn.protocol",
        where="server.upgrades",
        library="hypercorn 0.18",
        why="With `Upgrade: h2c` requests bypassed the rules of a proxy.",
        test=_NEEDED + "test_hypercorn_upgrades_to_h2c",
    ),
    Patch(
        what="create_ssl_context of hypercorn.config.Config",
        where="server.certificates",
        library="hypercorn 0.18",
        why="A renewed certificate is loaded without a restart. One session ticket is made, not two. No"
        " handshake comes within a stream.",
        test=_NEEDED + "test_the_context_of_tls_is_asked_for_once_after_the_start",
    ),
    Patch(
        what="the last `send` of a response is not cancelled; one over HTTP/2 has a deadline",
        where="web.app",
        library="quart-trio 0.12, hypercorn 0.18",
        why="Hypercorn reports http.disconnect from inside that `send`; quart-trio cancels it, and"
        " the connection stays open.",
        test=_NEEDED + "test_a_response_that_has_ended_leaves_its_connection_open",
    ),
    Patch(
        what="_create_logger in hypercorn.logging",
        where="logs.libraries",
        library="hypercorn 0.18",
        why="Its lines, the access log too, have a format of their own, wait for whoever reads them, and pass"
        " on control characters. It makes its handlers when it first says something.",
        test=_NEEDED + "test_hypercorn_makes_its_loggers_when_it_first_says_something",
    ),
    Patch(
        what="_join_exited in hypercorn.run",
        where="cli",
        library="hypercorn 0.18",
        why="The exit code of a worker that failed is lost.",
        test=_NEEDED + "test_the_exit_code_of_a_failed_worker_is_lost",
    ),
    Patch(
        what="signal in hypercorn.run",
        where="cli",
        library="hypercorn 0.18",
        why="SIGHUP ends all workers.",
        test=_NEEDED + "test_a_hangup_ends_the_workers_of_hypercorn",
    ),
    Patch(
        what="_decode_base64url_segment, in a subclass of PyJWS",
        where="access.quick_jwt",
        library="pyjwt 2.15",
        why="It looks at each letter of a token in Python: a third of the time of verifying one with HS256. "
        "A PyJWT without that name does not call it.",
        test=_NEEDED + "test_pyjwt_looks_at_each_letter_of_a_token",
    ),
)


@contextlib.contextmanager
def standing_in(places: Mapping[Any, Mapping[str, object]], without: str) -> Iterator[None]:
    """Replace names of modules or classes while the scope is open. If one of them is missing, replace none
    and log `without`: what the service does instead."""
    missing = [name for place, names in places.items() for name in names if not hasattr(place, name)]
    if missing:
        log.warning(f"a library has changed: {without}", missing=", ".join(missing))
        yield
        return
    own = {place: {name: getattr(place, name) for name in names} for place, names in places.items()}
    _set(places)
    try:
        yield
    finally:
        _set(own)


def _set(places: Mapping[Any, Mapping[str, object]]) -> None:
    for place, names in places.items():
        for name, value in names.items():
            setattr(place, name, value)


def with_own(module: ModuleType, **own: object) -> ModuleType:
    """A copy of `module` for one other module, with these names replaced. `module` itself stays as it is."""
    seen = ModuleType(module.__name__)
    vars(seen).update(vars(module), **own)
    return seen
