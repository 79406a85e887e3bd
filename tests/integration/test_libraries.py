"""What this package relies on and works around in the libraries below it, as they behave today.

When one of these fails after an upgrade, its docstring says what to look at, and often what to delete.
"""

from __future__ import annotations

import asyncio
import inspect
import signal
import subprocess
import sys
from _asyncio import _get_running_loop
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import h2.config
import h2.connection
import h2.events
import h2.exceptions
import h11
import hypercorn.asyncio.run
import hypercorn.logging
import hypercorn.protocol.h11
import hypercorn.run
import hypercorn.trio.run
import jwt
import pytest
import trio
from hypercorn.config import Config
from hypercorn.events import Closed, RawData
from hypercorn.protocol.events import EndBody
from hypercorn.protocol.h2 import BUFFER_HIGH_WATER, H2Protocol, StreamBuffer
from hypercorn.protocol.h11 import H2CProtocolRequiredError, H11Protocol
from hypercorn.trio.worker_context import EventWrapper, WorkerContext
from redis.asyncio import Connection
from trio.testing import wait_all_tasks_blocked
from trio_asyncio import BaseTrioEventLoop, aio_as_trio, open_loop

from tests.support.client import connect
from tests.support.hostile import attacks, launch
from tests.support.inside import http2_protocol
from tests.support.process import Services
from tests.support.variants import Variant
from trio_sse.server.http1 import bounded_heads

pytestmark = pytest.mark.integration

LIFESPAN = """
async def lifespan(receive, send):
    while True:
        message = await receive()
        await send({"type": message["type"] + ".complete"})
        if message["type"] == "lifespan.shutdown":
            return
"""

PLAIN = (
    LIFESPAN
    + """
async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await lifespan(receive, send)
    elif scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})
"""
)

QUART = """
from quart import Response
from quart_trio import QuartTrio

app = QuartTrio(__name__)

@app.get("/")
async def stream():
    async def parts():
        yield b"the only part"
    return Response(parts())
"""

FAILING = """
async def app(scope, receive, send):
    await receive()
    await send({"type": "lifespan.startup.failed", "message": "on purpose"})
"""


def hypercorn_trio(tmp_path: Path, source: str) -> Variant:
    (tmp_path / "tiny.py").write_text(source)
    return Variant("tiny", ("hypercorn", "-k", "trio", "tiny:app"), {"PYTHONPATH": str(tmp_path)})


@pytest.mark.parametrize("module", [hypercorn.trio.run, hypercorn.asyncio.run])
@pytest.mark.parametrize("name", ["TCPServer", "raise_shutdown"])
def test_the_seams(module: object, name: str) -> None:
    """`front.Front` replaces these module-level names, which must be used after `wait_for_startup`.

    If this fails the front may never be called, an error of one connection ends the process again, or a stop
    does not drain: find the new place, or ask Hypercorn for a hook.
    """
    assert callable(vars(module)[name])
    source = inspect.getsource(vars(module)["worker_serve"])
    assert name in source.split("wait_for_startup", 1)[1]
    assert name not in source.split("wait_for_startup", 1)[0]


@pytest.mark.parametrize(
    ("module", "name", "own", "called"),
    [
        (hypercorn.trio.run, "trio", trio, "trio.serve_listeners,"),
        (hypercorn.asyncio.run, "asyncio", asyncio, "await asyncio.start_server("),
    ],
)
def test_servers_accept_by_a_name_that_is_looked_up_after_the_start(
    module: ModuleType, name: str, own: object, called: str
) -> None:
    """`Doors` stands in for `trio` and `asyncio` there, to accept in their place: out of descriptors, too.

    If this fails, find what the workers accept by now.
    """
    assert vars(module)[name] is own
    function = vars(module)["worker_serve"]
    assert function.__globals__ is vars(module)
    assert name not in (*function.__code__.co_varnames, *function.__code__.co_freevars)
    before, after = inspect.getsource(function).split("wait_for_startup", 1)
    assert called in after
    assert called not in before


def test_connections_are_passed_on_unseen() -> None:
    """`Front` calls what passes them on with None, to learn what `TCPServer` gets beside a connection. If
    this fails, None may not get there."""
    under_asyncio = inspect.getsource(vars(hypercorn.asyncio.run)["worker_serve"])
    callback = under_asyncio.split("async def _server_callback(", 1)[1].split("servers = []", 1)[0]
    body = callback.split(":\n", 1)[1]
    assert body.count("reader") == body.count("writer") == 1
    assert "TCPServer(app, loop, config, context, lifespan_state, reader, writer)" in body
    under_trio = inspect.getsource(vars(hypercorn.trio.run)["worker_serve"])
    handler = " ".join(under_trio.split("trio.serve_listeners,", 1)[1].split())
    assert handler.startswith("partial( TCPServer, app, config, context, ")


def test_asyncio_goes_on_accepting_out_of_descriptors() -> None:
    """Up to its backlog of failures, each with a traceback in the log. If this fails, look whether
    `Doors._start_server` is needed still."""
    source = inspect.getsource(vars(asyncio.selector_events.BaseSelectorEventLoop)["_accept_connection"])
    assert "for _ in range(backlog" in source
    wanting = source.split("errno.EMFILE", 1)[1].split("else:", 1)[0]
    assert "call_exception_handler" in wanting
    assert "return" not in wanting
    assert "break" not in wanting


def test_trio_logs_a_traceback_out_of_descriptors() -> None:
    """If this fails, look whether `accepting.PatientListener` need catch errors still."""
    source = inspect.getsource(sys.modules[trio.serve_listeners.__module__ + "._highlevel_serve_listeners"])
    wanting = source.split("if exc.errno in ACCEPT_CAPACITY_ERRNOS", 1)[1].split("else:", 1)[0]
    assert "LOGGER.error(" in wanting
    assert "exc_info=" in wanting


async def test_heads_are_read_by_an_h11_that_is_looked_up_for_each_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """`http1.bounded_heads` stands in for `h11` there. If this fails, heads are unbounded in later
    requests: find where Hypercorn makes its connections now."""
    made = []

    class Noted(h11.Connection):
        def __init__(self, *arguments: Any, **named: Any) -> None:
            made.append((arguments, named))
            super().__init__(*arguments, **named)

    nobody: Any = None
    context: Any = WorkerContext(None)
    with bounded_heads():
        monkeypatch.setattr(vars(hypercorn.protocol.h11)["h11"], "Connection", Noted)
        config = Config()
        H11Protocol(nobody, config, context, nobody, nobody, True, None, None, nobody)
    assert made == [((h11.SERVER,), {"max_incomplete_event_size": config.h11_max_incomplete_size})]
    assert vars(hypercorn.protocol.h11)["h11"] is h11


def test_h11_takes_a_complete_head_of_any_number_of_fields() -> None:
    """If this fails, look whether `http1.BoundedConnection` is needed still."""
    parser = h11.Connection(h11.SERVER, max_incomplete_event_size=1000)
    parser.receive_data(b"GET / HTTP/1.1\r\nHost: x\r\n" + b"a: b\r\n" * 1000 + b"\r\n")
    event = parser.next_event()
    assert isinstance(event, h11.Request)
    assert len(event.headers) == 1001


def test_a_worker_that_ends_has_the_others_ended() -> None:
    """`Stopping.listen` ignores a second SIGTERM in a worker, because the main process sends one to all that
    are left when the first has ended. If this fails, it may count as "at once" there too."""
    source = inspect.getsource(hypercorn.run.run)
    assert "process.terminate()" in source.split("_join_exited(processes)", 1)[1]


def test_a_hangup_ends_the_workers_of_hypercorn() -> None:
    """`cli._WorkersSignals` hides SIGHUP from `hypercorn.run`, which looks `signal` up there. If this fails,
    see whether it is still needed, and whether SIGINT is still ignored while workers start."""
    source = inspect.getsource(hypercorn.run.run)
    assert vars(hypercorn.run)["signal"] is signal
    assert 'if hasattr(signal, "SIGHUP"):' in source
    assert source.index("signal.signal(signal.SIGINT, signal.SIG_IGN)") < source.index("_populate(processes")


@pytest.mark.parametrize("module", [hypercorn.trio.run, hypercorn.asyncio.run])
def test_the_context_of_tls_is_asked_for_once_after_the_start(module: object) -> None:
    """`certificates.Certificates` stands in the place of `Config.create_ssl_context` from the start-up on."""
    source = inspect.getsource(vars(module)["worker_serve"])
    assert source.split("wait_for_startup", 1)[1].count("config.create_ssl_context()") == 1


async def test_one_malformed_request_ends_the_trio_worker(start: Services, tmp_path: Path) -> None:
    """pgjones/hypercorn#203. If this fails, `front._Entered` is needed no more for Hypercorn's own sake."""
    service = start(hypercorn_trio(tmp_path, PLAIN), ready="/")
    service.traceback_expected = True
    dead = trio.Event()

    async def attacker() -> None:
        for attack in attacks(seed=1, count=2000):
            try:
                await launch(service.port, attack)
            except OSError:
                dead.set()
                return

    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(attacker)
    assert dead.is_set()
    assert "BusyResourceError" in service.log
    with pytest.raises(OSError, match="refused"):
        await connect(service.port)


async def test_a_response_that_has_ended_leaves_its_connection_open(start: Services, tmp_path: Path) -> None:
    """If this fails, delete `service._HTTPConnection`: quart-trio and Hypercorn close it by themselves."""
    service = start(hypercorn_trio(tmp_path, QUART), ready="/")
    async with await connect(service.port) as transport:
        http = h11.Connection(h11.CLIENT)
        request = h11.Request(method="GET", target="/", headers=[("host", "x"), ("connection", "close")])
        await transport.send_all((http.send(request) or b"") + (http.send(h11.EndOfMessage()) or b""))
        while not isinstance(event := http.next_event(), h11.EndOfMessage):
            if event is h11.NEED_DATA:
                http.receive_data(await transport.receive_some(65536))
        with trio.move_on_after(1) as patience:
            assert await transport.receive_some(65536) == b""
        assert patience.cancelled_caught, "the server has closed the connection"


def test_the_exit_code_of_a_failed_worker_is_lost(start: Services, tmp_path: Path) -> None:
    """If this fails, delete what `cli._run_workers` does beside `hypercorn.run.run`, and expect code != 0 of
    every command in test_cli.py and test_supervisor_crash.py."""
    service = start(hypercorn_trio(tmp_path, FAILING), ready=None)
    service.traceback_expected = True
    stopped = service.wait()
    assert "on purpose" in service.log
    assert stopped.code == 0


async def test_replies_of_redis_py(valkey: int) -> None:
    """`Subscriber._read` takes the replies of a subscribed RESP 2 connection by position."""

    async def talk() -> list[object]:
        connection = Connection(host="127.0.0.1", port=valkey, protocol=2)
        other = Connection(host="127.0.0.1", port=valkey, protocol=2)
        replies: list[object] = []
        try:
            await connection.send_command("SUBSCRIBE", "libraries")
            await connection.read_response()
            await other.send_command("PUBLISH", "libraries", "payload")
            replies.append(await connection.read_response(disable_decoding=True))
            await connection.send_command("PING", check_health=False)
            replies.append(await connection.read_response(disable_decoding=True))
        finally:
            await connection.disconnect(nowait=True)
            await other.disconnect(nowait=True)
        return replies

    async with open_loop():
        replies = await aio_as_trio(talk)()
    assert replies == [[b"message", b"libraries", b"payload"], [b"pong", b""]]


async def test_a_writer_waits_for_no_http2_window() -> None:
    """If this fails, delete `http2_bounds.BoundedStreamBuffer.pop`: Hypercorn bounds what piles up itself."""
    buffer = StreamBuffer(EventWrapper)
    for _ in range(10):
        with trio.fail_after(5):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(buffer.push, bytes(BUFFER_HIGH_WATER))
                await wait_all_tasks_blocked()
                await buffer.pop(0)
    assert len(buffer.buffer) == 10 * BUFFER_HIGH_WATER


async def test_the_end_of_an_http2_connection_is_not_told_to_those_who_wait_for_it() -> None:
    """If this fails, `http2_lasting.LastingProtocol.handle` need close no buffers."""
    protocol = http2_protocol(H2Protocol, StreamBuffer)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(protocol.stream_send, EndBody(stream_id=1))
        await wait_all_tasks_blocked()
        await protocol.handle(Closed())
        await wait_all_tasks_blocked()
        assert nursery.child_tasks
        nursery.cancel_scope.cancel()


def imported_by_itself(*options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *options, "-c", "import trio_asyncio"]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.skipif(sys.version_info < (3, 12), reason="Python 3.12 is the first that warns")
def test_importing_trio_asyncio_warns() -> None:
    """If this fails, `compat` needs to ignore no warnings."""
    done = imported_by_itself("-W", "error::DeprecationWarning")
    assert done.returncode != 0


@pytest.mark.skipif(sys.version_info < (3, 14), reason="Python 3.13 still has it")
def test_trio_asyncio_derives_from_what_python_no_longer_has() -> None:
    """If this fails, delete `compat.names_of_older_pythons`."""
    done = imported_by_itself()
    assert done.returncode != 0
    assert "AbstractChildWatcher" in done.stderr or "BaseDefaultEventLoopPolicy" in done.stderr


@pytest.mark.skipif(sys.version_info < (3, 14), reason="tasks of Python 3.13 do not look at it")
async def test_trio_asyncio_does_not_tell_the_interpreter_which_loop_runs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """If this fails, delete `compat.tell_running_loop`."""
    for name in ("_main_loop_one", "_io_task"):
        monkeypatch.setattr(BaseTrioEventLoop, name, getattr(BaseTrioEventLoop, name).__wrapped__)
    told: list[Any] = []
    async with open_loop() as loop:
        loop.call_soon(lambda: told.append(_get_running_loop()))
        await loop.synchronize()
    assert told == [None]


REQUEST = [(":method", "GET"), (":path", "/"), (":scheme", "https"), (":authority", "x")]


def h2_pair() -> tuple[h2.connection.H2Connection, h2.connection.H2Connection]:
    """A client that may do wrong, and a server with one stream open, both by h2 alone."""
    config = h2.config.H2Configuration(validate_outbound_headers=False, normalize_outbound_headers=False)
    client = h2.connection.H2Connection(config)
    server = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, header_encoding=None))
    client.initiate_connection()
    server.initiate_connection()
    client.send_headers(1, REQUEST)
    server.receive_data(client.data_to_send())
    return client, server


def test_a_malformed_request_ends_its_connection_in_h2() -> None:
    """RFC 9113, 8.1.1. If this fails, delete `http2_frames._ContainedStream`."""
    client, server = h2_pair()
    client.send_headers(3, REQUEST[1:])
    with pytest.raises(h2.exceptions.ProtocolError):
        server.receive_data(client.data_to_send())


def test_a_stream_too_many_ends_its_connection_in_h2() -> None:
    """RFC 9113, 5.1.2; pgjones/hypercorn#335. If this fails, delete `http2_frames._Advertised`."""
    client, server = h2_pair()
    for stream_id in range(3, 203, 2):
        client.send_headers(stream_id, REQUEST)
    with pytest.raises(h2.exceptions.TooManyStreamsError):
        server.receive_data(client.data_to_send())


@pytest.mark.parametrize("side", ["the client", "the server"])
def test_a_goaway_ends_all_streams_in_h2(side: str) -> None:
    """RFC 9113, 6.8. If this fails, delete `http2_frames._GoingOn`."""
    client, server = h2_pair()
    if side == "the client":
        client.close_connection()
        server.receive_data(client.data_to_send())
    else:
        server.close_connection()
    with pytest.raises(h2.exceptions.ProtocolError):
        server.send_headers(1, [(":status", "200")])


def test_a_stream_that_depends_on_itself_ends_its_connection_in_h2() -> None:
    """If this fails, delete `http2_frames.ServerConnection._receive_priority_frame`."""
    _, server = h2_pair()
    with pytest.raises(h2.exceptions.ProtocolError):
        server.receive_data(b"\0\0\x05\x02\0\0\0\0\x01" + b"\0\0\0\x01" + b"\x01")


async def test_data_of_a_stream_that_hypercorn_has_left_is_an_error() -> None:
    """If this fails, look whether `http2_protocol` is needed: Hypercorn contains what one stream does."""
    protocol = http2_protocol(H2Protocol, StreamBuffer)
    data = h2.events.DataReceived(stream_id=3, data=b"x", flow_controlled_length=1)
    with pytest.raises(KeyError):
        await protocol._handle_events([data])
    request = h2.events.RequestReceived(
        stream_id=5, headers=[(b":method", b"CONNECT"), (b":authority", b"x")]
    )
    with pytest.raises(UnboundLocalError):
        await protocol._handle_events([request])


def test_hypercorn_ends_an_http2_connection_for_its_age() -> None:
    """If this fails, look whether streams go on after that, and whether rapid reset is bounded by something
    else: then `http2_bounds.Waste` and `http2_lasting` may go."""
    assert "keep_alive_max_requests" in inspect.getsource(H2Protocol)


async def test_hypercorn_upgrades_to_h2c() -> None:
    """If this fails, delete the part of `upgrades.PlainProtocol` that is about `Upgrade`."""
    said = []

    async def send(event: object) -> None:
        said.append(event)

    nobody: Any = None
    context: Any = WorkerContext(None)
    protocol = H11Protocol(nobody, Config(), context, nobody, nobody, False, None, None, send)
    asked = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"
    with pytest.raises(H2CProtocolRequiredError):
        await protocol.handle(RawData(asked))
    assert any(isinstance(event, RawData) and b" 101 " in event.data for event in said)


def test_pyjwt_looks_at_each_letter_of_a_token() -> None:
    """If this fails, delete `quick_jwt._QuickJWS`."""

    class Letters(bytes):
        seen = 0

        def __iter__(self) -> Iterator[int]:
            Letters.seen += 1
            return super().__iter__()

    assert jwt.PyJWS._decode_base64url_segment(Letters(b"e30"), "payload") == b"{}"
    assert Letters.seen == 1
    assert isinstance(jwt.PyJWT()._jws, jwt.PyJWS)


def test_hypercorn_makes_its_loggers_when_it_first_says_something() -> None:
    """`logs.libraries` stands in for what makes them, which is looked up each time, and waits for whoever
    reads. If this fails, find what makes them by now; or if Hypercorn leaves its loggers alone, delete it."""
    config = Config()
    config.errorlog = "-"
    made = []

    def make(name: str, *_: object, **__: object) -> None:
        made.append(name)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hypercorn.logging, "_create_logger", make)
        assert made == []
        assert config.log.error_logger is None
    assert made == ["hypercorn.access", "hypercorn.error"]
