"""Who may read, with SSE_AUTH=jwt: every attack named in docs/security.md, on real server processes."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import trio
from trio import Path as TrioPath

from tests.support.client import connect, streaming
from tests.support.each_of import each_of
from tests.support.process import Answer, Service, Services
from tests.support.tokens import SECRET, ec_key, ed_key, forgeries, key_server, rsa_key, secret, token
from tests.support.variants import COMMANDS, TRIO_SSE, VARIANTS, Variant

pytestmark = pytest.mark.integration

ORIGIN = "https://page.example"
JWT: dict[str, Any] = {
    "SSE_AUTH": "jwt",
    "SSE_JWT_SECRET": SECRET,
    "SSE_JWT_COOKIE": "tok",
    "SSE_JWT_QUERY": "true",
    "SSE_JWT_AUDIENCE": "sse",
    "SSE_JWT_ISSUER": "shop",
    "SSE_CORS_ORIGINS": ORIGIN,
    "SSE_LOG_LEVEL": "debug",
    "SSE_JWT_LEEWAY_SECONDS": "0",
}
used: set[str] = set()
"""Every token that was sent."""


def made(key: Any = None, header: dict[str, Any] | None = None, **claims: Any) -> str:
    found = token(key, header, **{"aud": "sse", "iss": "shop", **claims})
    used.add(found)
    return found


def logging_access(variant: Variant) -> Variant:
    if not variant.on_hypercorn:
        return variant
    form = '%(h)s "%(r)s" "%(R)s" "%(q)s" "%(Uq)s" %(s)s "%(f)s" "%(a)s"'
    log = ("--access-logfile", "-", "--access-logformat", form, "--log-level", "debug")
    return Variant(variant.name, (*variant.command, *log), variant.environment)


@pytest.fixture(scope="module")
def all_guarded(module_services: Services) -> list[Service]:
    return module_services.each(map(logging_access, VARIANTS), **JWT)


guarded = each_of("all_guarded", VARIANTS)


def bearer(given: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {given}"}


def ask(service: Service, path: str = "/sse", **headers: str) -> Answer:
    """What a page of ORIGIN gets that is not let in."""
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    return service.get(path, headers={"Origin": ORIGIN, "Accept": "text/event-stream", **given})


def refusal(answer: Answer, status: int) -> str:
    """Check that the page can read why, and return it."""
    assert answer.status == status, answer.body
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["www-authenticate"].startswith('Bearer realm="trio_sse"')
    assert answer.headers["access-control-allow-origin"] == ORIGIN
    assert answer.headers["access-control-allow-credentials"] == "true"
    assert "www-authenticate" in answer.headers["access-control-expose-headers"].lower()
    assert answer.json["status"] == status
    return str(answer.json["detail"])


async def user_of(service: Service, target: str = "/sse", **headers: str) -> str:
    async with streaming(service.port, target=target, headers=list(headers.items())) as stream:
        return str(stream.connected.json["user_id"])


async def test_the_token_s_user_gets_their_stream_wherever_the_token_is(guarded: Service) -> None:
    good = made(sub="ann")
    assert await user_of(guarded, Authorization=f"Bearer {good}") == "ann"
    assert await user_of(guarded, "/sse?user_id=ann", Authorization=f"bearer {good}") == "ann"
    assert await user_of(guarded, Cookie=f"other=1; tok={good}") == "ann"
    assert await user_of(guarded, f"/sse?user_id=ann&access_token={good}") == "ann"


async def test_another_user_s_messages_are_out_of_reach(guarded: Service) -> None:
    good = made(sub="ann")
    for user in ("bob", "1", "ann%20", "ANN", "ann%00"):
        answer = ask(guarded, f"/sse?user_id={user}", **bearer(good))
        if answer.status != 400:
            assert "not the user" in refusal(answer, 403)
    assert ask(guarded, "/sse?user_id=*", **bearer(good)).status == 400
    async with streaming(guarded.port, "ann", headers=list(bearer(good).items())) as stream:
        guarded.publish("bob", message="secret")
        guarded.publish(["ann", "bob"], message="for both")
        assert (await stream.notification())["message"] == "for both"


def test_who_is_nobody_is_told_how_to_become_somebody(guarded: Service) -> None:
    assert refusal(ask(guarded), 401) == "a token is required"
    assert refusal(ask(guarded, "/sse?user_id=1"), 401) == "a token is required"
    assert guarded.get("/sse", method="HEAD").status == 401
    assert guarded.get("/healthz").status == guarded.get("/").status == 200


WRONG: dict[str, Callable[[], str]] = {
    "expired": lambda: made(exp=int(time.time()) - 1),
    "without end": lambda: made(exp=None),
    "end of no number": lambda: made(exp="never"),
    "not valid yet": lambda: made(nbf=int(time.time()) + 600),
    "other audience": lambda: made(aud="shop"),
    "no audience": lambda: made(aud=None),
    "other issuer": lambda: made(iss="evil"),
    "no issuer": lambda: made(iss=None),
    "nobody": lambda: made(sub=None),
    "everybody": lambda: made(sub="*"),
    "line breaks": lambda: made(sub="ann\r\nX-Injected: 1"),
    "another secret": lambda: made(secret("another secret, which is long enough too")),
    "another algorithm": lambda: made(secret(digest="sha512", algorithm="HS512")),
    "too long": lambda: made(more="x" * 9000),
}


@pytest.mark.parametrize("how", WRONG)
def test_a_token_that_is_wrong_lets_nobody_in(all_guarded: list[Service], how: str) -> None:
    for service in all_guarded:
        answer = ask(service, **bearer(WRONG[how]()))
        assert refusal(answer, 401).startswith("the token")
        assert 'error="invalid_token"' in answer.headers["www-authenticate"]
        assert "x-injected" not in answer.headers


def test_no_forgery_lets_anybody_in(all_guarded: list[Service]) -> None:
    for service in all_guarded:
        for how, forged in forgeries(secret(), ec_key()).items():
            used.add(forged)
            assert ask(service, **bearer(forged)).status == 401, how


def test_with_a_public_key_no_token_may_choose_its_algorithm(start: Services, tmp_path: Path) -> None:
    """The public key is known to everybody: as the secret of HS256 it would let everybody in."""
    file = tmp_path / "public.pem"
    file.write_bytes(rsa_key().pem)
    values: dict[str, Any] = {
        "SSE_AUTH": "jwt",
        "SSE_JWT_PUBLIC_KEY_FILE": str(file),
        "SSE_CORS_ORIGINS": ORIGIN,
    }
    service = start(TRIO_SSE, **values)
    for how, forged in forgeries(rsa_key(), ed_key()).items():
        assert ask(service, **bearer(forged)).status == 401, how
    right = service.get("/sse?user_id=bob", headers=bearer(token(rsa_key(), sub="ann")))
    assert right.status == 403, "it was read, and is somebody else's"


async def test_keys_from_an_address(start: Services) -> None:
    with key_server() as keys:
        keys.offer(one=ed_key())
        values: dict[str, Any] = {"SSE_AUTH": "jwt", "SSE_JWT_JWKS_URL": keys.url, "SSE_CORS_ORIGINS": ORIGIN}
        services = start.each(COMMANDS, **values)
        for number, service in enumerate(services):
            headers = bearer(token(ed_key(), {"kid": "one"}, sub="ann"))
            assert await user_of(service, **headers) == "ann"
            assert keys.asked == number + 1
        keys.offer(new=ed_key())
        async with trio.open_nursery() as nursery:  # each waits for a look at the set, and all for the same
            for service in services:
                for made_up in range(20):
                    wrong = bearer(token(ed_key(), {"kid": f"made up {made_up}"}))
                    nursery.start_soon(_refused, service, wrong)
                nursery.start_soon(_welcome, service, bearer(token(ed_key(), {"kid": "new"}, sub="ann")))
        assert keys.asked < 20, "and not one for each"


async def _refused(service: Service, headers: dict[str, str]) -> None:
    assert (await trio.to_thread.run_sync(partial(ask, service, **headers))).status == 401


async def _welcome(service: Service, headers: dict[str, str]) -> None:
    assert await user_of(service, **headers) == "ann"


def test_while_keys_cannot_be_had_nobody_is_let_in_and_event_sources_come_back(start: Services) -> None:
    values: dict[str, Any] = {"SSE_AUTH": "jwt", "SSE_JWT_JWKS_URL": "http://127.0.0.1:1/keys"}
    for service in start.each((TRIO_SSE, VARIANTS[-1]), **values):
        headers = {"Origin": ORIGIN, **bearer(token(ed_key(), {"kid": "one"}))}
        stream = service.get("/sse", headers={"Accept": "text/event-stream", **headers})
        assert (stream.status, stream.headers["content-type"]) == (200, "text/event-stream")
        assert b"event: overloaded" in stream.body
        answer = service.get("/sse", headers=headers)
        assert (answer.status, "retry-after" in answer.headers) == (503, True)
        for one in (stream, answer):  # with any origin no page may read with cookies
            assert one.headers["access-control-allow-origin"] == "*"
            assert "access-control-allow-credentials" not in one.headers


async def test_at_its_end_the_stream_ends_and_a_renewed_cookie_lets_it_come_back(
    all_guarded: list[Service],
) -> None:
    async with trio.open_nursery() as nursery:
        for service in all_guarded:
            nursery.start_soon(_expire_and_come_back, service)


async def _expire_and_come_back(service: Service) -> None:
    cookie = made(sub="ann", exp=int(time.time()) + 4)
    async with streaming(service.port, "ann", headers=[("Cookie", f"tok={cookie}")]) as stream:
        service.publish("ann", message="before")
        assert (await stream.notification())["message"] == "before"
        *_, last = await stream.to_the_end()
        assert last.name == "auth_expired"
        assert stream.parser.retry == last.json["retry_milliseconds"]
        came_to = last.id
    service.publish("ann", message="meanwhile")
    refusal(ask(service, "/sse?user_id=ann", Cookie=f"tok={cookie}"), 401)
    headers = [("Cookie", f"tok={made(sub='ann')}"), ("Last-Event-ID", came_to)]
    async with streaming(service.port, "ann", headers=headers) as again:
        assert (await again.notification())["message"] == "meanwhile"


def test_only_pages_of_listed_origins_may_read_with_cookies(guarded: Service) -> None:
    cookie = f"tok={made(sub='bob')}"
    for origin in ("https://evil.example", "null", f"{ORIGIN}.evil.example", "http://page.example", ""):
        for path in ("/sse?user_id=ann", "/healthz", "/nothing"):
            answer = guarded.get(path, headers={"Origin": origin, "Cookie": cookie})
            assert "access-control-allow-origin" not in answer.headers
            assert "access-control-allow-credentials" not in answer.headers
            assert answer.headers["vary"] == "Origin"


async def test_of_several_tokens_the_good_one_counts(guarded: Service) -> None:
    good, old = made(sub="ann"), made(sub="ann", exp=5)
    for headers in (
        {"Cookie": f"tok={old}; tok={good}"},
        {"Cookie": f"tok={good}", "Authorization": "Bearer"},
        {"Cookie": f"tok={good}", "Authorization": "Basic YW5uOng="},
        {"Cookie": f"tok={good}", "Authorization": f"Bearer {old}"},
    ):
        assert await user_of(guarded, **headers) == "ann"


async def test_a_page_that_is_not_listed_cannot_use_the_cookie(guarded: Service) -> None:
    cookie = f"tok={made(sub='ann')}"
    for headers in ({"Origin": "https://evil.example"}, {"Origin": "null"}, {"Sec-Fetch-Site": "cross-site"}):
        answer = guarded.get("/sse", headers={"Cookie": cookie, **headers})
        assert (answer.status, "SSE_CORS_ORIGINS" in answer.json["detail"]) == (403, True)
    assert await user_of(guarded, Cookie=cookie, Origin=ORIGIN) == "ann"
    own = {"Cookie": cookie, "Origin": "https://front.example", "Sec-Fetch-Site": "same-origin"}
    assert await user_of(guarded, **own) == "ann", "whatever a proxy made of its Host"


COOKIE = b'tok="\\015\\012X-Injected: 1"'
INJECTED = ("%0d%0aX-Injected:%201", "%0aid:%201%0aX-Injected: 1", "%00", "%e2%80%a8X-Injected:1")


async def raw(service: Service, request: bytes) -> bytes:
    """The head of the answer, as it comes."""
    received = b""
    with trio.fail_after(10):
        async with await connect(service.port) as transport:
            await transport.send_all(request)
            while b"\r\n\r\n" not in received and (data := await transport.receive_some(65536)):
                received += data
    return received


async def test_no_text_of_a_request_becomes_a_header_or_a_field(guarded: Service) -> None:
    good = made(sub="ann").encode()
    for text in INJECTED:
        for name in ("user_id", "last_event_id", "access_token", "other"):
            query = f"{name}={quote(text, safe='%')}"
            for sent in (b"", b"Authorization: Bearer " + good + b"\r\n"):
                head = b"GET /sse?%b HTTP/1.1\r\nHost: x\r\n%b\r\n" % (query.encode(), sent)
                _unharmed(await raw(guarded, head))
    for field in (b"Origin", b"Last-Event-ID", b"Authorization", b"Cookie", b"Accept"):
        for value in (
            b"a\rX-Injected: 1",
            b"\x00",
            b"\xff\xfe",
            b"a\x0bX-Injected: 1",
            COOKIE,
        ):
            head = b"GET /sse HTTP/1.1\r\nHost: x\r\nCookie: tok=%b\r\n%b: %b\r\n\r\n" % (good, field, value)
            _unharmed(await raw(guarded, head))


def _unharmed(received: bytes) -> None:
    head, _, body = received.partition(b"\r\n\r\n")
    for line in head.replace(b"\r", b"\n").split(b"\n"):
        assert not line.lower().startswith(b"x-injected")
    assert b"\nX-Injected" not in body
    assert head.startswith(b"HTTP/1.1 "), received


@pytest.mark.parametrize(
    "head",
    [
        b"GET /sse?access_token=" + b"x" * 10_000,
        b"GET /sse?" + b"a=b&" * 20_000,
        b"GET /sse HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + b"x" * 10_000,
        b"GET /sse HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + b"x" * 100_000,
        b"GET /sse HTTP/1.1\r\nHost: x\r\nCookie: " + b"a=b; " * 2500,
        b"GET /sse HTTP/1.1\r\nHost: x\r\nCookie: " + b'a="\\1; ' * 2000,
        b"GET /sse HTTP/1.1\r\nHost: x\r\n" + b"Cookie: tok=x\r\n" * 5000,
    ],
    ids=["token", "query", "header", "long header", "cookies", "odd cookies", "cookie lines"],
)
async def test_oversized_requests_are_refused(all_guarded: list[Service], head: bytes) -> None:
    if b"HTTP/1.1" not in head:
        head += b" HTTP/1.1\r\nHost: x"
    for service in all_guarded:
        received = await raw_or_nothing(service, head.rstrip(b"\r\n") + b"\r\n\r\n")
        assert not received or received.split()[1] in (b"400", b"401", b"414", b"431"), received[:200]
        assert service.get("/healthz").status == 200


async def raw_or_nothing(service: Service, request: bytes) -> bytes:
    try:
        return await raw(service, request)
    except trio.BrokenResourceError:
        return b""  # closed while there was more to come


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"SSE_AUTH": "jwt"}, "SSE_JWT_SECRET"),
        ({"SSE_AUTH": "jwt", "SSE_JWT_SECRET": "much-too-short"}, "SSE_JWT_SECRET"),
        ({"SSE_JWT_SECRET": "much-too-short-but-it-does-not-matter"}, "SSE_AUTH"),
        ({"SSE_PUBLISH_TOKENS": "much-too-short"}, "SSE_PUBLISH_TOKENS"),
        ({"SSE_AUTH": "jwt", "SSE_JWT_PUBLIC_KEY_FILE": "/no/such/key.pem"}, "SSE_JWT_PUBLIC_KEY_FILE"),
    ],
)
def test_without_a_right_key_it_does_not_start(start: Services, values: dict[str, Any], named: str) -> None:
    service = start(TRIO_SSE, ready=None, **values)
    assert service.wait().code == 1
    assert named in service.log
    assert "much-too-short" not in service.log


async def test_no_token_is_in_any_line_of_the_log(all_guarded: list[Service], tmp_path: Path) -> None:
    """The last of this file: tokens have come in every place, right ones and wrong ones."""
    for service in all_guarded:
        for path in (
            f"/sse?access_token={made(exp=1)}",
            f"/nothing?x=y&access_token={made()}",
            f"/?access_token={made()}",
        ):
            headers = {"Referer": f"{service.url}/", **bearer(made(exp=1)), "Cookie": f"tok={made(exp=1)}"}
            assert service.get(path, headers=headers).status in (200, 401, 404)
    assert len(used) > 50
    for service in all_guarded:
        log = await TrioPath(service._log).read_text()
        pieces = {piece for one in used for piece in one.split(".") if len(piece) > 20}
        heads = {piece for piece in pieces if piece.startswith("eyJ")}
        for line in log.splitlines():
            assert not any(piece in line for piece in pieces), line
        assert heads
        assert "open to everybody" not in log
        if "hypercorn" in str(service.process.args):
            assert "access_token=***" in log
            assert "/nothing?x=y&access_token=***" in log


def test_without_auth_a_line_at_the_start_says_so(served: Service) -> None:
    (line,) = [line for line in served.log.splitlines() if "open to everybody" in line]
    assert "SSE_AUTH" in line
