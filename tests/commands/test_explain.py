"""`trio-sse explain`: whom it asks, with what, and what it says when there is no answer."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest
from click.testing import CliRunner, Result

from tests.commands.test_explanation import answer
from tests.support.ports import free_port
from trio_sse.cli import main

TOKEN = "operators-0123456789abcdef"


@contextmanager
def serving(status: int, body: Any) -> Iterator[tuple[str, list[Any]]]:
    """A service that gives each request this answer, and the requests that came."""
    asked: list[Any] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append((self.path, self.headers["authorization"]))
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(status)
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", asked
        finally:
            server.shutdown()
            thread.join()


def run(*arguments: str, **environment: str) -> Result:
    given = {"SSE_ADMIN_TOKEN": TOKEN, "REDIS_HOST": "127.0.0.1", **environment}
    return CliRunner().invoke(main, ["explain", *arguments], env=given)


def test_it_asks_the_service_with_the_token() -> None:
    with serving(200, answer()) as (url, asked):
        done = run("ann", "p.1", "--url", url)
    assert asked == [("/explain?user_id=ann&id=p.1", f"Bearer {TOKEN}")]
    assert done.exit_code == 0
    assert done.output.startswith("user ann: 0 streams are open")


def test_under_a_path_and_for_a_user_with_a_strange_name() -> None:
    with serving(200, answer()) as (url, asked):
        run("a&b=ü", "--url", f"{url.removeprefix('http://')}/notify/")
    assert asked[0][0] == "/notify/explain?user_id=a%26b%3D%C3%BC"


@pytest.mark.parametrize(
    ("code", "exit_code"),
    [("taken", 0), ("waiting", 0), ("replayed", 0), ("dropped", 3), ("never_connected", 3), ("revoked", 3)],
)
def test_its_exit_code_says_whether_the_user_got_it(code: str, exit_code: int) -> None:
    with serving(200, answer(id="p.1", verdict={"code": code, "at": 1.0})) as (url, _):
        assert run("ann", "p.1", "--url", url).exit_code == exit_code


def test_as_json_it_is_the_answer_as_it_came() -> None:
    with serving(200, answer()) as (url, _):
        assert json.loads(run("ann", "--json", "--url", url).output) == answer()


def test_what_the_terminal_would_obey_is_escaped() -> None:
    refusals = [{"at": 1.0, "status": 401, "detail": "\x1b[2J", "address": "x"}]
    with serving(200, answer(refusals=refusals)) as (url, _):
        for more in ([], ["--json"]):
            assert "\x1b" not in run("ann", "--url", url, *more).output


@pytest.mark.parametrize(
    ("status", "body", "told"),
    [
        (401, {"detail": "required"}, "another SSE_ADMIN_TOKEN counts there"),
        (404, {"detail": "x"}, "SSE_ADMIN_TOKEN is not set there"),
        (400, {"detail": "id is no event id"}, "400 id is no event id"),
        (502, b"<html>", "502 Bad Gateway"),
        (200, b"<html>", "200"),
        (200, {"status": "ok"}, "200"),
    ],
)
def test_without_an_answer_it_says_why_in_one_line(status: int, body: Any, told: str) -> None:
    with serving(status, body) as (url, _):
        done = run("ann", "--url", url)
    assert done.exit_code == 1
    assert told in done.output
    assert len(done.output.splitlines()) == 1
    assert TOKEN not in done.output


def test_nobody_is_there() -> None:
    done = run("ann", "--url", f"http://127.0.0.1:{free_port()}")
    assert done.exit_code == 1
    assert "SSE_PORT" in done.output
    assert len(done.output.splitlines()) == 1


def test_without_a_token_it_asks_nobody() -> None:
    done = CliRunner().invoke(main, ["explain", "ann"], env={"REDIS_HOST": "127.0.0.1"})
    assert done.exit_code == 1
    assert "SSE_ADMIN_TOKEN is not set" in done.output


@pytest.mark.parametrize("url", ["ftp://x", "http://"])
def test_what_is_no_address_is_a_mistake_of_use(url: str) -> None:
    assert run("ann", "--url", url).exit_code == 2
