"""`trio-sse listen`: what it asks for, and how events look."""

from __future__ import annotations

import json
import os
from datetime import datetime
from pathlib import Path
from typing import Any
from unittest import mock

import httpx
import pytest
from click.testing import CliRunner, Result
from httpx_sse import ServerSentEvent

from trio_sse.commands import listen as module
from trio_sse.commands.follow import RefusedError, Target, new_client
from trio_sse.commands.listen import Printer, as_json, as_line, listen

AT = datetime(2026, 1, 2, 3, 4, 5, 6789)


@pytest.fixture
def followed(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What would have been followed, with the token; nothing is connected to."""
    given: list[Any] = []

    async def follow(_client: httpx.AsyncClient, target: Target, token: Any, _printer: Printer) -> None:
        given.extend([target, token()])
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "follow", follow)
    return given


def run(*arguments: str, **environment: str) -> Result:
    with mock.patch.dict(os.environ, environment):
        return CliRunner().invoke(listen, arguments)


@pytest.mark.parametrize(
    ("arguments", "url"),
    [
        ([], "http://127.0.0.1:8085/sse"),
        (["--user", "1"], "http://127.0.0.1:8085/sse?user_id=1"),
        (
            [
                "--user",
                "ann b",
                "--topic",
                "orders/17",
                "--topic",
                "a&b",
                "--since",
                "2026-01-01T00:00:00+01:00",
            ],
            "http://127.0.0.1:8085/sse?user_id=ann+b&topic=orders%2F17&topic=a%26b&since=2026-01-01T00%3A00%3A00%2B01%3A00",
        ),
        (["--url", "localhost:9000"], "http://localhost:9000/sse"),
        (["--url", "https://x.example/notify/"], "https://x.example/notify/sse"),
        (["--url", "http://x/sse?a=b", "--user", "1"], "http://x/sse?a=b&user_id=1"),
    ],
)
def test_what_it_asks_for(followed: list[Any], arguments: list[str], url: str) -> None:
    result = run(*arguments)
    assert (result.exit_code, result.output) == (0, "")
    assert str(followed[0].url) == url


def test_where_the_service_is_comes_from_its_settings(followed: list[Any], tmp_path: Path) -> None:
    run("--user", "1", SSE_PORT="9000", SSE_ROOT_PATH="/notify")
    assert str(followed[0].url) == "http://127.0.0.1:9000/notify/sse?user_id=1"
    followed.clear()
    run("--user", "1", SSE_HOST=f"unix:{tmp_path}/socket")
    assert followed[0] == Target(httpx.URL("http://localhost/sse?user_id=1"), f"{tmp_path}/socket")


@pytest.mark.parametrize("url", ["ftp://x", "http://", "http://x:port", "http://[::1"])
def test_what_is_no_address_is_a_mistake(followed: list[Any], url: str) -> None:
    result = run("--url", url)
    assert result.exit_code == 2
    assert "--url" in result.stderr


def test_a_token_comes_from_a_file_or_the_environment(followed: list[Any], tmp_path: Path) -> None:
    run()
    run(TRIO_SSE_TOKEN="from-the-environment")
    (tmp_path / "token").write_text("from-the-file\n")
    run("--token-file", str(tmp_path / "token"), TRIO_SSE_TOKEN="other")
    assert followed[1::2] == [None, "from-the-environment", "from-the-file"]
    assert run("--token", "x").exit_code == 2


@pytest.mark.parametrize("content", [None, b"", b"\n", b"two\nlines", b"\xff"])
def test_a_file_without_a_token_is_one_line(
    followed: list[Any], tmp_path: Path, content: bytes | None
) -> None:
    if content is not None:
        (tmp_path / "token").write_bytes(content)
    result = run("--token-file", str(tmp_path / "token"))
    assert result.exit_code == 1
    (line,) = result.stderr.splitlines()
    assert line.startswith("--token-file ")
    assert followed == []


def test_a_refusal_is_one_line_without_anything_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    async def follow(*_: object) -> None:
        raise RefusedError("HTTP 403: \x1b[31mno")

    monkeypatch.setattr(module, "follow", follow)
    result = run("--url", "http://ann:s3cret@x/?access_token=s3cret")
    assert result.exit_code == 1
    assert result.stderr == "http://x/sse: HTTP 403: \\x1b[31mno\n"


HOSTILE = '{"message":"\x1b[2J\u202e\u9b31","n":123456789012345678901}'


def test_a_line_has_time_name_and_data() -> None:
    assert as_line(ServerSentEvent(data="{}"), AT) == "03:04:05.006 {}"
    assert as_line(ServerSentEvent(event="shipped", data="a\nb"), AT) == "03:04:05.006 shipped a\\nb"
    assert as_line(ServerSentEvent(event="x\x07", data=HOSTILE), AT).isprintable()


def test_json_is_a_line_that_any_parser_reads() -> None:
    line = as_json(ServerSentEvent(event="x\x9b", data=HOSTILE.replace("\x1b", "\\u001b"), id="a.1"))
    assert line.isprintable()
    said = json.loads(line)
    assert said == {
        "id": "a.1",
        "event": "x\x9b",
        "data": {"message": "\x1b[2J\u202e\u9b31", "n": 123456789012345678901},
    }
    for data in ('{\n\t"a":\r1}', '{"a":1}'):
        assert json.loads(as_json(ServerSentEvent(data=data))) == {
            "id": None,
            "event": "message",
            "data": {"a": 1},
        }
    assert json.loads(as_json(ServerSentEvent(data="no \x1b JSON")))["data"] == "no \x1b JSON"


NOTICES = [
    ("connected", '{"user_id":"1"}', "connected; user 1"),
    (
        "connected",
        '{"topics":["news","orders/17"],"replayed":3}',
        "connected; topics news, orders/17; 3 earlier messages follow",
    ),
    ("connected", "no JSON", "connected"),
    ("gap", '{"reason":"slow_client","dropped":2}', "gap: 2 messages are missing here (slow_client)"),
    ("gap", '{"reason":"slow_client","dropped":1}', "gap: 1 message is missing here (slow_client)"),
    ("gap", '{"reason":"\\u001b[2J","dropped":null}', "gap: messages are missing here (\\x1b[2J)"),
    ("snapshot", '{"keys":3}', "snapshot: it had 3 messages"),
    ("draining", "{}", "draining"),
    ("overloaded", '{"detail":"one too many"}', "overloaded: one too many"),
]


@pytest.mark.parametrize(("name", "data", "said"), NOTICES)
def test_notices_are_told_apart_from_messages(
    capsys: pytest.CaptureFixture[str], name: str, data: str, said: str
) -> None:
    target = Target(httpx.URL("http://x/sse"))
    event = ServerSentEvent(event=name, data=data)
    Printer(target, as_json=False).event(event)
    out, err = capsys.readouterr()
    assert (out, err) == ("", f"-- {said}\n")
    Printer(target, as_json=True).event(event)
    out, err = capsys.readouterr()
    assert json.loads(out)["event"] == name
    assert err == f"-- {said}\n"


def test_a_heartbeat_is_not_shown_and_a_loss_is(capsys: pytest.CaptureFixture[str]) -> None:
    printer = Printer(Target(httpx.URL("http://x/sse?access_token=s3cret")), as_json=True)
    printer.event(ServerSentEvent(event="heartbeat", data="{}"))
    printer.lost("reset\x1b", 0.5)
    assert capsys.readouterr() == ("", "-- http://x/sse: reset\\x1b; trying again in 0.5 s\n")


async def test_a_client_for_a_unix_socket(tmp_path: Path) -> None:
    async with new_client(Target(httpx.URL("http://localhost/sse"), str(tmp_path / "none"))) as client:
        with pytest.raises(httpx.ConnectError):
            await client.get("http://localhost/sse")
