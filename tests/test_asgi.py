"""`app` under a server: start-up, requests, stop, and what it says when it cannot."""

from __future__ import annotations

import asyncio
import gc
import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
import trio
from quart import request

from tests.support.inside import (
    AsgiRequest,
    asgi,
    events,
    exchange,
    get,
    http_scope,
    process_kept,
    read,
    requested,
    served,
    settings,
)
from tests.support.valkeys import certificate
from trio_sse import asgi as asgi_module
from trio_sse.asgi import WRONG_LOOP, Application
from trio_sse.settings import load


@pytest.fixture(autouse=True)
def _kept() -> Iterator[None]:
    with process_kept():
        yield


CLOSE = "Connection: close"


class Lifespan:
    """The server's side of a lifespan."""

    def __init__(self) -> None:
        self.said: list[dict[str, Any]] = []
        self.up = trio.Event()
        self.stop = trio.Event()
        self._asked = False

    async def receive(self) -> dict[str, Any]:
        if self._asked:
            await self.stop.wait()
            return {"type": "lifespan.shutdown"}
        self._asked = True
        return {"type": "lifespan.startup"}

    async def send(self, message: Any) -> None:
        self.said.append(message)
        self.up.set()

    async def run(self, application: Application) -> None:
        await asgi(application)({"type": "lifespan", "asgi": {"version": "3.0"}}, self.receive, self.send)


@pytest.fixture
def application() -> Application:
    return Application(settings(redis_host="127.0.0.1", redis_port=1, log_level="error"))


@pytest.mark.parametrize(
    ("query", "kept"),
    [
        (b"access_token=a.b.c", b"access_token=***"),
        (b"user_id=1&access_token=a.b.c&x=y", b"user_id=1&access_token=***&x=y"),
        (b"access_token=a.b.c&access_token=d.e.f", b"access_token=***&access_token=***"),
        (b"access_token=%61.b.c;d", b"access_token=***"),
        (b"user_id=1", b"user_id=1"),
        (b"access%5Ftoken=a.b.c", b"access_token=***"),
    ],
)
async def test_what_the_server_keeps_of_a_request_has_no_token(query: bytes, kept: bytes) -> None:
    """Its access log is written from it."""
    app = Application(settings(redis_host="127.0.0.1", redis_port=1, log_level="error"))
    lifespan = Lifespan()
    seen = []

    async with trio.open_nursery() as nursery:
        nursery.start_soon(lifespan.run, app)
        await lifespan.up.wait()
        assert app._app is not None

        @app._app.before_request
        async def look() -> None:
            seen.append(request.scope["query_string"])

        scope = http_scope("/healthz", query)
        asked = AsgiRequest()
        await asgi(app)(scope, asked.receive, asked.send)
        lifespan.stop.set()
    assert scope["query_string"] == kept
    assert seen == [query], "the service itself reads it"


@pytest.mark.parametrize("root_path", ["", "/theirs"])  # the server's own
@pytest.mark.parametrize("direct", [True, False])
async def test_a_service_under_a_path_answers_with_it_and_without(direct: bool, root_path: str) -> None:
    chosen = settings(
        root_path="/ours", redis_host="127.0.0.1", redis_port=1, log_level="error", direct=direct
    )
    async with served(Application(chosen), root_path=root_path) as port:
        for prefix in {"", "/ours", root_path}:
            for path in ("/healthz", "/"):
                assert b" 200 " in (await exchange(port, get(prefix + path, CLOSE))).split(b"\r\n")[0]
            assert b"event: connected" in await exchange(port, get(f"{prefix}/sse"), until=b"connected")
        for path in ("/oursx/healthz", "/ours/ours/healthz", "/ours/ours/sse", "//ours/healthz", "/x/sse"):
            assert b" 404 " in (await exchange(port, get(path, CLOSE))).split(b"\r\n")[0]
        page = await exchange(port, get("/ours", CLOSE))
        assert b'<meta name="root-path" content="/ours">' in page


@pytest.mark.parametrize(
    ("more", "routing"),
    [
        ({}, b"shared"),
        ({"redis_routing": "by-key"}, b"by-key"),
        ({"redis_host": None, "redis_port": None, "redis_cluster": "127.0.0.1:1"}, b"cluster"),
        ({"redis_stream": "a b", "stream_partitions": 8}, b"partitions 8 1 a b"),
        (
            {
                "redis_host": None,
                "redis_port": None,
                "redis_cluster": "127.0.0.1:1",
                "redis_stream": "notes",
                "stream_partitions": 8,
            },
            b"partitions 8 1 -c notes",
        ),
    ],
)
async def test_the_page_is_told_where_messages_go(more: dict[str, Any], routing: bytes) -> None:
    given = {"redis_host": "127.0.0.1", "redis_port": 1, "redis_channel": 'a"<b', **more}
    chosen = settings(log_level="error", **{name: value for name, value in given.items() if value})
    async with served(Application(chosen)) as port:
        page = await exchange(port, get("/", CLOSE))
    assert b'<meta name="redis-routing" content="%b">' % routing in page
    assert b'<meta name="redis-channel" content="a&quot;&lt;b">' in page


@pytest.mark.parametrize("direct", [True, False])
async def test_the_path_of_the_server_counts_where_none_is_set(direct: bool) -> None:
    """Hypercorn has it in the path of a request only where the client's request has it."""
    chosen = settings(redis_host="127.0.0.1", redis_port=1, log_level="error", direct=direct)
    async with served(Application(chosen), root_path="/theirs") as port:
        for path in ("/healthz", "/theirs/healthz"):
            assert b" 200 " in (await exchange(port, get(path, CLOSE))).split(b"\r\n")[0]
        for path in ("/sse", "/theirs/sse"):
            assert b"event: connected" in await exchange(port, get(path), until=b"connected")
        assert b'<meta name="root-path" content="/theirs">' in await exchange(port, get("/", CLOSE))


async def test_from_redis_to_the_browser(valkey: int) -> None:
    app = Application(settings(redis_host="127.0.0.1", redis_port=valkey, log_level="error"))
    async with served(app) as port:
        stream = await trio.open_tcp_stream("127.0.0.1", port)
        async with stream:
            await stream.send_all(get("/sse?user_id=ann", version="1.0"))
            hello = await read(stream, b"}\n\n")
            with redis.Redis(port=valkey) as back_end:
                back_end.publish("notifications", '{"user_id":"ann","message":"hi","created_at":"now"}')
            received = hello.partition(b"\r\n\r\n")[2] + await read(stream, b"\n\n")
            answer = await exchange(port, get("/readyz", "Connection: close"))
    assert [event.data for event in events(received)][1:] == [
        '{"user_id":"ann","message":"hi","created_at":"now"}'
    ]
    told = json.loads(answer.partition(b"\r\n\r\n")[2])
    assert (told["connections"], told["totals"]["published"]) == (1, 1)


async def test_it_reads_its_settings_when_the_server_starts_it(
    monkeypatch: pytest.MonkeyPatch, nursery: trio.Nursery
) -> None:
    monkeypatch.setenv("REDIS_HOST", "127.0.0.1")
    monkeypatch.setenv("REDIS_PORT", "1")
    monkeypatch.setenv("SSE_LOG_LEVEL", "error")
    application = Application()
    monkeypatch.setenv("SSE_HEARTBEAT_SECONDS", "77")
    lifespan = Lifespan()
    nursery.start_soon(lifespan.run, application)
    await lifespan.up.wait()
    async with requested(application) as request:
        await request.until(lambda request: bool(request.body))
    assert events(request.body)[0].json()["heartbeat_seconds"] == 77
    lifespan.stop.set()


async def test_wrong_settings_end_the_start_with_a_line_for_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSE_PORT", "x")
    monkeypatch.setenv("SSE_BUFFER", "y")
    lifespan = Lifespan()
    await lifespan.run(Application())
    (said,) = lifespan.said
    assert said["type"] == "lifespan.startup.failed"
    title, *lines = said["message"].splitlines()
    assert title == "wrong settings:"
    assert [line.split("=")[0] for line in lines] == ["SSE_PORT", "SSE_BUFFER"]


@pytest.mark.parametrize("of_the_command", [True, False])
async def test_a_certificate_that_is_not_this_server_s_is_no_silent_http(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path, of_the_command: bool
) -> None:
    cert, key = certificate(tmp_path)
    monkeypatch.setenv("SSE_TLS_CERT", str(cert))
    monkeypatch.setenv("SSE_TLS_KEY", str(key))
    monkeypatch.setenv("REDIS_PORT", "1")
    lifespan = Lifespan()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lifespan.run, Application(load() if of_the_command else None))
        await lifespan.up.wait()
        lifespan.stop.set()
    assert ("--certfile" in capfd.readouterr().err) != of_the_command


async def test_it_starts_and_stops_as_it_is_told(application: Application) -> None:
    lifespan = Lifespan()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lifespan.run, application)
        await lifespan.up.wait()
        lifespan.stop.set()
    assert [message["type"] for message in lifespan.said] == [
        "lifespan.startup.complete",
        "lifespan.shutdown.complete",
    ]
    assert not application.crashed


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_while_it_is_up_its_signals_ask_for_the_end(
    number: signal.Signals, nursery: trio.Nursery
) -> None:
    signals = (signal.SIGTERM, signal.SIGINT)
    values = settings(redis_host="127.0.0.1", redis_port=1, log_level="error")
    application = Application(values, signals=signals)
    before = [signal.getsignal(each) for each in signals]
    lifespan = Lifespan()
    with trio.fail_after(10):
        async with trio.open_nursery() as up:
            up.start_soon(lifespan.run, application)
            await lifespan.up.wait()
            signal.raise_signal(number)
            await application.stop_requested()
            lifespan.stop.set()
    assert [signal.getsignal(each) for each in signals] == before


async def test_a_start_that_fails_is_told_to_the_server(
    application: Application, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trio_sse.service.flush_forever", None)
    lifespan = Lifespan()
    await lifespan.run(application)
    assert [message["type"] for message in lifespan.said] == ["lifespan.startup.failed"]
    assert not application.crashed


async def test_a_crash_of_the_service_ends_the_streams_and_asks_the_process_to_end(
    application: Application, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    crash = trio.Event()

    async def crashing(_hub: Any, *, task_status: trio.TaskStatus[None]) -> None:
        task_status.started()
        await crash.wait()
        raise ZeroDivisionError("a mistake of ours")

    monkeypatch.setattr("trio_sse.service.beat_forever", crashing)
    lifespan = Lifespan()
    with trio.fail_after(10), trio.open_signal_receiver(signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lifespan.run, application)
            await lifespan.up.wait()
            async with requested(application) as request:
                await request.until(lambda request: bool(request.body))
                crash.set()
                await request.until(lambda request: request.ended)
            assert await anext(signals) == signal.SIGTERM
    assert application.crashed
    said = capsys.readouterr().err
    assert "the service failed and ends" in said
    assert "ZeroDivisionError: a mistake of ours" in said


async def test_after_a_crash_whoever_waits_for_the_signals_hears_of_it_and_no_signal_is_raised(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    crash = trio.Event()

    async def crashing(_hub: Any, *, task_status: trio.TaskStatus[None]) -> None:
        task_status.started()
        await crash.wait()
        raise ZeroDivisionError

    monkeypatch.setattr("trio_sse.service.beat_forever", crashing)
    monkeypatch.setattr(signal, "raise_signal", None)
    values = settings(redis_host="127.0.0.1", redis_port=1, log_level="error")
    application = Application(values, signals=[signal.SIGUSR1])
    lifespan = Lifespan()
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lifespan.run, application)
            await lifespan.up.wait()
            crash.set()
            await application.stop_requested()
    assert application.crashed


async def test_a_request_that_raises_is_counted_and_nothing_is_raised_to_the_server(
    valkey: int, nursery: trio.Nursery
) -> None:
    async def broken(_: Any) -> None:
        raise ZeroDivisionError

    application = Application(settings(redis_host="127.0.0.1", redis_port=valkey, log_level="error"))
    lifespan = Lifespan()
    nursery.start_soon(lifespan.run, application)
    await lifespan.up.wait()
    await asgi(application)(http_scope("/sse"), AsgiRequest().receive, broken)
    async with requested(application, "/readyz") as request:
        await request.until(lambda request: request.ended)
    told = json.loads(request.body)
    assert (told["connections"], told["totals"]["connection_errors"]) == (0, 1)
    lifespan.stop.set()


async def test_a_server_that_runs_no_start_up_is_told(application: Application) -> None:
    async with requested(application) as request:
        await request.until(lambda request: request.ended)
    assert request.status == 503
    assert "start-up" in json.loads(request.body)["detail"]


async def test_the_start_calms_the_collector_down(application: Application, nursery: trio.Nursery) -> None:
    lifespan = Lifespan()
    before = gc.get_threshold()[0]
    nursery.start_soon(lifespan.run, application)
    await lifespan.up.wait()
    assert gc.get_threshold()[0] > before
    assert gc.get_freeze_count() > 0
    lifespan.stop.set()


class Loop(asyncio.SelectorEventLoop):
    """An asyncio loop that does not run on Trio."""


@pytest.mark.parametrize("kind", ["lifespan", "http", "websocket"])
def test_on_another_loop_it_says_what_to_run(application: Application, kind: str) -> None:
    said: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "lifespan.startup"}

    async def send(message: Any) -> None:
        said.append(message)

    async def call() -> None:
        await asgi(application)(http_scope("/sse") | {"type": kind}, receive, send)

    with asyncio.Runner(loop_factory=Loop) as runner:
        runner.run(call())
    if kind == "lifespan":
        assert said == [{"type": "lifespan.startup.failed", "message": WRONG_LOOP}]
    elif kind == "http":
        assert said[0]["status"] == 503
        assert json.loads(said[1]["body"])["detail"] == WRONG_LOOP
    else:
        assert said == [{"type": "websocket.close"}]


def test_a_cancellation_of_the_bridge_is_no_error_but_one_of_its_caller_is() -> None:
    """Under the asyncio worker, Hypercorn cancels what is left when it stops."""

    class Bridge:
        def __init__(self) -> None:
            self.future: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        async def trio_as_future(self, *_: Any) -> None:
            await self.future

    async def bridged() -> tuple[Bridge, asyncio.Task[Any]]:
        bridge, request = Bridge(), AsgiRequest()
        call = asgi_module._on_trio(bridge, asyncio.sleep, {}, request.receive, request.send)
        task = asyncio.ensure_future(call)
        await asyncio.sleep(0)
        return bridge, task

    async def main() -> None:
        bridge, task = await bridged()
        bridge.future.cancel()
        assert await task is None
        bridge, task = await bridged()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
