"""Keys from SSE_JWT_JWKS_URL, which a real server of these tests has."""

from __future__ import annotations

import contextlib
import gzip
import json
import threading
from collections.abc import AsyncGenerator, Callable, Iterator
from typing import Any

import pytest
import trio
from cryptography.hazmat.primitives.asymmetric import ec
from structlog.testing import capture_logs
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.support.inside import PATIENCE_SECONDS, settings
from tests.support.tokens import Key, KeyServer, ec_key, ed_key, key_server, rsa_key, secret, token
from trio_sse.access import key_set
from trio_sse.access.key_set import (
    JWKS_LIFETIME_SECONDS,
    JWKS_PAUSE_SECONDS,
    JWKS_TIMEOUT_SECONDS,
)
from trio_sse.access.tokens import Denied, Identity, Verifier


@pytest.fixture
def server() -> Iterator[KeyServer]:
    with key_server() as server:
        yield server


@pytest.fixture
def verifier(server: KeyServer, mock_clock: MockClock, nursery: trio.Nursery) -> Verifier:
    return verifier_of(server, nursery)


def verifier_of(server: KeyServer, nursery: trio.Nursery) -> Verifier:
    verifier = Verifier(settings(auth="jwt", jwt_jwks_url=server.url))
    nursery.start_soon(verifier.run)
    return verifier


async def accepts(verifier: Verifier, made: str) -> bool:
    return isinstance(await verifier.verify(made), Identity)


async def status(verifier: Verifier, made: str) -> int:
    answer = await verifier.verify(made)
    assert isinstance(answer, Denied)
    return answer.status


async def test_a_key_is_found_by_its_id_and_is_for_its_own_algorithm(
    server: KeyServer, verifier: Verifier
) -> None:
    keys = {"one": rsa_key(), "two": ec_key(), "three": ed_key()}
    server.offer(**keys)
    for kid, key in keys.items():
        assert await accepts(verifier, token(key, {"kid": kid}))
        for other in keys.values():
            if other is not key:
                assert await status(verifier, token(other, {"kid": kid})) == 401
        confused = token(secret(key.pem.decode()), {"kid": kid})
        assert await status(verifier, confused) == 401
        assert await status(verifier, token(key, {"kid": kid, "alg": "none"})) == 401
    assert server.asked == 1


@pytest.mark.parametrize("kid", ["", 5, ["one"], {}, "one\0", "x" * 5000])
async def test_a_token_that_names_no_key_of_the_set_is_denied(
    server: KeyServer, verifier: Verifier, kid: object
) -> None:
    server.offer(one=ec_key())
    assert await status(verifier, token(ec_key(), {"kid": kid})) == 401


async def test_at_once_there_is_an_answer_only_where_no_fetch_could_change_it(
    server: KeyServer, verifier: Verifier, mock_clock: MockClock
) -> None:
    server.offer(one=ec_key())
    known, unknown = token(ec_key(), {"kid": "one"}), token(ed_key(), {"kid": "two"})
    assert verifier.verify_now(known) is None
    assert verifier.verify_now(token(secret(), {"kid": "one"})) is None
    assert verifier.verify_now("x", known) is None
    assert isinstance(verifier.verify_now("x"), Denied)
    assert await accepts(verifier, known)
    assert isinstance(verifier.verify_now(known), Identity)
    assert verifier.verify_now(unknown) is None
    assert isinstance(verifier.verify_now(unknown, known), Identity)
    assert isinstance(verifier.verify_now(token(secret(), {"kid": "one"})), Denied)
    mock_clock.jump(JWKS_LIFETIME_SECONDS + 1)
    assert verifier.verify_now(known) is None, "the set is old"
    server.offer(two=ed_key())
    assert await accepts(verifier, unknown)
    assert verifier.verify_now(known) is None, "it may be back"
    assert await status(verifier, known) == 401


@pytest.mark.parametrize("kid", ["one", "made up"])
async def test_a_token_that_cannot_be_read_fetches_nothing(
    server: KeyServer, verifier: Verifier, mock_clock: MockClock, kid: str
) -> None:
    head, body, signature = token(ec_key(), {"kid": kid}).split(".")
    broken = [f"{head}.{body}", f"{head}.{body}!.{signature}", f"{head}.{body}.{signature}A==="]
    server.offer(one=ec_key())
    for fetches in (0, 1):
        for made in broken:
            answer = await verifier.verify(made)
            assert isinstance(answer, Denied)
            assert answer.detail == "the token is malformed"
        assert server.asked == fetches
        assert await accepts(verifier, token(ec_key(), {"kid": "one"}))
        mock_clock.jump(JWKS_PAUSE_SECONDS)


async def test_a_key_without_an_id_is_for_every_token(server: KeyServer, verifier: Verifier) -> None:
    server.answer = [ec_key().jwk]
    assert await accepts(verifier, token(ec_key()))
    assert await accepts(verifier, token(ec_key(), {"kid": "one"}))
    assert await status(verifier, token(ec_key(ec.SECP384R1), {"alg": "ES384"})) == 401


async def test_a_token_without_an_id_is_tried_with_every_key(server: KeyServer, verifier: Verifier) -> None:
    server.offer(one=ec_key(), two=ed_key(), three=rsa_key())
    for key in (ec_key(), ed_key(), rsa_key()):
        assert await accepts(verifier, token(key))
    assert await status(verifier, token(secret(), {"alg": "RS256"})) == 401


def changed(key: Key, **members: Any) -> str:
    return json.dumps({**json.loads(key.jwk), "kid": "one", **members})


@pytest.mark.parametrize(
    "members",
    [
        {"use": "enc"},
        {"use": "SIG"},
        {"use": 5},
        {"key_ops": ["encrypt"]},
        {"key_ops": "verify"},
        {"alg": "PS256"},
        {"alg": "RSA-OAEP"},
        {"alg": "HS256"},
        {"alg": ["RS256"]},
        {"d": "AQAB"},
        {"kty": "oct"},
        {"use": "enc", "key_ops": ["verify"]},
    ],
    ids=str,
)
async def test_a_key_that_is_for_something_else_verifies_nothing(
    server: KeyServer, verifier: Verifier, members: dict[str, Any]
) -> None:
    server.answer = [changed(rsa_key(), **members), json.dumps({**json.loads(ec_key().jwk), "kid": "other"})]
    assert await status(verifier, token(rsa_key(), {"kid": "one"})) == 401
    assert await accepts(verifier, token(ec_key(), {"kid": "other"}))


@pytest.mark.parametrize(
    "members",
    [
        {"use": "sig", "alg": "RS256", "key_ops": ["verify"]},
        {"use": None, "key_ops": None, "alg": None},
        {"key_ops": ["sign", "verify"]},
    ],
    ids=str,
)
async def test_a_key_that_is_for_this_verifies(
    server: KeyServer, verifier: Verifier, members: dict[str, Any]
) -> None:
    server.answer = [changed(rsa_key(), **members)]
    assert await accepts(verifier, token(rsa_key(), {"kid": "one"}))


async def test_two_keys_of_one_id_are_told_apart_by_their_kind(server: KeyServer, verifier: Verifier) -> None:
    server.answer = [changed(key) for key in (rsa_key(), ec_key(), ed_key())]
    for key in (rsa_key(), ec_key(), ed_key()):
        assert await accepts(verifier, token(key, {"kid": "one"}))


async def test_a_set_without_a_usable_key_says_so_in_the_log(server: KeyServer, verifier: Verifier) -> None:
    server.answer = [changed(rsa_key(), use="enc"), changed(rsa_key(1024))]
    with capture_logs() as lines:
        assert await status(verifier, token(rsa_key(), {"kid": "one"})) == 503
    (line,) = lines
    assert line["problem"].startswith("SSE_JWT_JWKS_URL: none of its 2 keys")


async def test_the_set_is_asked_for_by_our_name(server: KeyServer, verifier: Verifier) -> None:
    server.offer(one=ec_key())
    assert await accepts(verifier, token(ec_key(), {"kid": "one"}))
    (agent,) = server.agents
    assert agent is not None
    assert agent.startswith("trio_sse/")


@pytest.mark.parametrize("unknown", [{"kid": "new"}, {}], ids=["by its id", "without one"])
async def test_a_key_published_a_moment_ago_is_waited_for_by_all_at_once(
    server: KeyServer, verifier: Verifier, mock_clock: MockClock, unknown: dict[str, str]
) -> None:
    """Though somebody has just used up the look of these ten seconds with a made-up id."""
    server.offer(old=ec_key())
    assert await status(verifier, token(ec_key(), {"kid": "made up"})) == 401
    mock_clock.jump(1)
    server.offer(new=ed_key())
    answers = []

    async def come(key: Key, header: dict[str, str]) -> None:
        answers.append((key, await accepts(verifier, token(key, header))))

    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(come, ed_key(), unknown)
            nursery.start_soon(come, ec_key(), {"kid": "made up"})
        await wait_all_tasks_blocked()
        assert not answers
        assert await accepts(verifier, token(ec_key(), {"kid": "old"})), "nobody else waits"
        mock_clock.jump(JWKS_PAUSE_SECONDS - 1)
    assert all(accepted is (key is ed_key()) for key, accepted in answers)
    assert len(answers) == 40
    assert server.asked == 2


async def test_a_set_that_was_asked_for_before_the_token_came_is_not_the_last_word(
    server: KeyServer, verifier: Verifier, mock_clock: MockClock
) -> None:
    server.offer(old=ec_key())
    assert await accepts(verifier, token(ec_key(), {"kid": "old"}))
    mock_clock.jump(JWKS_PAUSE_SECONDS)
    server.being_asked.clear()
    server.may_answer.clear()
    accepted = []

    async def come(key: Key, kid: str) -> None:
        accepted.append((kid, await accepts(verifier, token(key, {"kid": kid}))))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(come, ec_key(), "made up")
        await trio.to_thread.run_sync(server.being_asked.wait)
        mock_clock.jump(1)
        nursery.start_soon(come, ed_key(), "new")
        await wait_all_tasks_blocked()
        server.may_answer.set()
        while not accepted:
            await trio.lowlevel.checkpoint()
        server.offer(new=ed_key())
        await wait_all_tasks_blocked()
        mock_clock.jump(JWKS_PAUSE_SECONDS)
    assert accepted == [("made up", False), ("new", True)]


async def test_a_key_exchanged_under_its_old_id_is_found_after_the_pause(
    server: KeyServer, verifier: Verifier, mock_clock: MockClock
) -> None:
    server.answer = [changed(ec_key())]
    assert await accepts(verifier, token(ec_key(), {"kid": "one"}))
    server.answer = [changed(ed_key())]
    assert await status(verifier, token(ed_key(), {"kid": "one"})) == 401
    mock_clock.jump(JWKS_PAUSE_SECONDS)
    assert await accepts(verifier, token(ed_key(), {"kid": "one"}))


async def test_who_may_have_a_new_key_is_told_to_come_back_while_the_set_cannot_be_had(
    server: KeyServer, verifier: Verifier, mock_clock: MockClock
) -> None:
    server.offer(old=ec_key())
    assert await accepts(verifier, token(ec_key(), {"kid": "old"}))
    server.answer = b"HTTP/1.0 500 x\r\n\r\n"
    mock_clock.jump(JWKS_PAUSE_SECONDS)
    for _ in range(3):
        assert await status(verifier, token(ed_key(), {"kid": "new"})) == 503
    assert await accepts(verifier, token(ec_key(), {"kid": "old"}))
    assert server.asked == 2


async def test_no_more_wait_than_a_bound(
    server: KeyServer, verifier: Verifier, mock_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(key_set, "MAX_WAITING", 3)
    server.offer(old=ec_key())
    assert await accepts(verifier, token(ec_key(), {"kid": "old"}))
    mock_clock.jump(1)
    statuses = []

    async def come() -> None:
        statuses.append(await status(verifier, token(ec_key(), {"kid": "new"})))

    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(come)
        await wait_all_tasks_blocked()
        assert statuses == [503, 503]
        mock_clock.jump(JWKS_PAUSE_SECONDS)
    assert statuses == [503, 503, 401, 401, 401]


async def answering(parts: AsyncGenerator[bytes, None], listener: trio.SocketListener) -> None:
    async def answer(stream: trio.SocketStream) -> None:
        with contextlib.suppress(trio.BrokenResourceError):
            await stream.receive_some()
            async with contextlib.aclosing(parts):
                async for part in parts:
                    await stream.send_all(part)

    await trio.serve_listeners(answer, [listener])


async def dripping() -> AsyncGenerator[bytes, None]:
    yield b"HTTP/1.1 200 OK\r\n\r\n"
    while True:
        yield b" "
        await trio.sleep(3)


async def dripping_head() -> AsyncGenerator[bytes, None]:
    yield b"HTTP/1.1 200 OK\r\n"
    while True:
        yield b"a: b\r\n"
        await trio.sleep(3)


async def endless() -> AsyncGenerator[bytes, None]:
    yield b"HTTP/1.1 200 OK\r\n\r\n"
    while True:
        yield b" " * 65536


async def unpacking() -> AsyncGenerator[bytes, None]:
    yield b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n" + gzip.compress(b" " * 10_000_000)


async def ending_badly(parts: AsyncGenerator[bytes, None], nursery: trio.Nursery) -> str:
    """What the log says of a server that answers so."""
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    nursery.start_soon(answering, parts, listener)
    url = f"http://127.0.0.1:{listener.socket.getsockname()[1]}/"
    verifier = Verifier(settings(auth="jwt", jwt_jwks_url=url))
    nursery.start_soon(verifier.run)
    with capture_logs() as lines:
        assert await status(verifier, token(ec_key(), {"kid": "one"})) == 503
    (line,) = lines
    return str(line["problem"])


@pytest.mark.parametrize("parts", [dripping, dripping_head])
async def test_one_deadline_is_for_all_of_the_answer_and_leaves_no_thread(
    parts: Callable[[], AsyncGenerator[bytes, None]], nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    threads = threading.active_count()
    begun = trio.current_time()
    assert "within 5 s" in await ending_badly(parts(), nursery)
    assert trio.current_time() - begun == JWKS_TIMEOUT_SECONDS
    assert threading.active_count() == threads


@pytest.mark.parametrize(
    ("parts", "said"), [(endless, "longer than 262144 bytes"), (unpacking, "compressed")]
)
async def test_an_answer_is_read_no_further_than_its_bound(
    parts: Callable[[], AsyncGenerator[bytes, None]], said: str, nursery: trio.Nursery
) -> None:
    with trio.fail_after(PATIENCE_SECONDS):
        assert said in await ending_badly(parts(), nursery)


async def test_redirects_are_followed_a_few_times(server: KeyServer, verifier: Verifier) -> None:
    server.answer = b"HTTP/1.0 302 x\r\nLocation: /again\r\n\r\n"
    with capture_logs() as lines:
        assert await status(verifier, token(ec_key(), {"kid": "one"})) == 503
    assert "redirects" in lines[0]["problem"]
    assert server.asked == 4


async def test_many_who_come_at_once_cause_one_request(server: KeyServer, verifier: Verifier) -> None:
    server.offer(one=ec_key())
    accepted = []

    async def come() -> None:
        accepted.append(await accepts(verifier, token(ec_key(), {"kid": "one"})))

    async with trio.open_nursery() as nursery:
        for _ in range(50):
            nursery.start_soon(come)
    assert (accepted, server.asked) == ([True] * 50, 1)


async def test_made_up_key_ids_cause_one_request_in_a_while(
    server: KeyServer, verifier: Verifier, mock_clock: MockClock
) -> None:
    server.offer(one=ec_key())
    assert await accepts(verifier, token(ec_key(), {"kid": "one"}))
    for round_ in range(1, 4):
        for number in range(100):
            assert await status(verifier, token(ec_key(), {"kid": f"made up {number}"})) == 401
        assert server.asked == round_
        mock_clock.jump(JWKS_PAUSE_SECONDS)
    assert await accepts(verifier, token(ec_key(), {"kid": "one"})), "nobody else suffers"


async def test_a_new_key_is_found_and_one_that_was_withdrawn_is_no_longer(
    server: KeyServer, verifier: Verifier, mock_clock: MockClock
) -> None:
    server.offer(old=ec_key())
    old, new = token(ec_key(), {"kid": "old"}), token(ed_key(), {"kid": "new"})
    assert await accepts(verifier, old)
    server.offer(new=ed_key())
    mock_clock.jump(JWKS_PAUSE_SECONDS)
    assert await accepts(verifier, old)
    assert await accepts(verifier, new)
    assert await status(verifier, old) == 401
    assert server.asked == 2


async def test_without_unknown_ids_too_the_set_is_looked_at_from_time_to_time(
    server: KeyServer, verifier: Verifier, mock_clock: MockClock
) -> None:
    server.offer(old=ec_key())
    old = token(ec_key(), {"kid": "old"}, exp=10**12)
    assert await accepts(verifier, old)
    mock_clock.jump(JWKS_LIFETIME_SECONDS - 1)
    assert await accepts(verifier, old)
    assert server.asked == 1
    server.offer(new=ed_key())
    mock_clock.jump(2)
    assert await status(verifier, old) == 401


async def test_keys_that_were_had_are_used_while_the_set_cannot_be(
    server: KeyServer, verifier: Verifier, mock_clock: MockClock
) -> None:
    server.offer(one=ec_key())
    made = token(ec_key(), {"kid": "one"})
    assert await accepts(verifier, made)
    server.answer = b"HTTP/1.0 500 x\r\n\r\n"
    for _ in range(3):
        mock_clock.jump(JWKS_LIFETIME_SECONDS + 1)
        assert await accepts(verifier, made)
    assert server.asked == 4


async def test_while_the_set_is_looked_at_again_its_known_keys_are_used(
    server: KeyServer, verifier: Verifier, mock_clock: MockClock
) -> None:
    server.offer(one=ec_key())
    made = token(ec_key(), {"kid": "one"})
    assert await accepts(verifier, made)
    server.being_asked.clear()
    server.may_answer.clear()
    mock_clock.jump(JWKS_LIFETIME_SECONDS + 1)
    first = trio.Event()

    async def look() -> None:
        assert await accepts(verifier, made)
        first.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(look)
        await trio.to_thread.run_sync(server.being_asked.wait)
        assert await accepts(verifier, made)
        assert not first.is_set()
        server.may_answer.set()
    assert server.asked == 2


WRONG = {
    "nothing": b"",
    "an error": b"HTTP/1.0 500 x\r\n\r\n",
    "not there": b"HTTP/1.0 404 x\r\n\r\n",
    "no content": b"HTTP/1.0 204 x\r\n\r\n",
    "a file": b"HTTP/1.0 302 x\r\nLocation: file:///etc/hostname\r\n\r\n",
    "no HTTP": b"SSH-2.0-OpenSSH_9.6\r\n",
    "a page": b"HTTP/1.0 200 OK\r\n\r\n<!doctype html>",
    "not UTF-8": b"HTTP/1.0 200 OK\r\n\r\n\xff\xfe\xff",
    "cut off": b'HTTP/1.0 200 OK\r\nContent-Length: 500\r\n\r\n{"keys":[',
    "a list": b"HTTP/1.0 200 OK\r\n\r\n[]",
    "a number": b"HTTP/1.0 200 OK\r\n\r\n5",
    "no keys": b"HTTP/1.0 200 OK\r\n\r\n{}",
    "keys that are none": b'HTTP/1.0 200 OK\r\n\r\n{"keys":5}',
    "an empty set": b'HTTP/1.0 200 OK\r\n\r\n{"keys":[]}',
    "keys of no kind": b'HTTP/1.0 200 OK\r\n\r\n{"keys":[5,null,"x",{},{"kty":"RSA"},{"kty":[]}]}',
    "deep": b"HTTP/1.0 200 OK\r\n\r\n" + b"[" * 100_000,
}


@pytest.mark.parametrize("answer", WRONG.values(), ids=WRONG)
async def test_a_set_that_cannot_be_had_lets_nobody_in_and_says_so_in_the_log(
    server: KeyServer, verifier: Verifier, mock_clock: MockClock, answer: bytes
) -> None:
    server.answer = answer
    made = token(ec_key(), {"kid": "one"})
    with capture_logs() as lines:
        for _ in range(5):
            assert await status(verifier, made) == 503
    assert [line["event"] for line in lines] == ["no keys"], "one try and one line in a while"
    assert lines[0]["problem"].startswith("SSE_JWT_JWKS_URL: ")
    assert "\n" not in lines[0]["problem"]
    server.offer(one=ec_key())
    mock_clock.jump(JWKS_PAUSE_SECONDS)
    assert await accepts(verifier, made)


async def test_nobody_at_the_address_lets_nobody_in(nursery: trio.Nursery) -> None:
    verifier = Verifier(settings(auth="jwt", jwt_jwks_url="http://127.0.0.1:1/keys"))
    nursery.start_soon(verifier.run)
    assert await status(verifier, token(ec_key(), {"kid": "one"})) == 503


async def test_keys_that_are_weak_or_for_something_else_are_left_out(
    server: KeyServer, verifier: Verifier
) -> None:
    left_out = {"small": rsa_key(1024), "koblitz": ec_key(ec.SECP256K1), "shared": secret()}
    server.offer(good=ec_key(), **left_out)
    assert await accepts(verifier, token(ec_key(), {"kid": "good"}))
    for kid, key in left_out.items():
        assert await status(verifier, token(key, {"kid": kid})) == 401


async def test_a_key_whose_id_is_no_text_is_left_out(server: KeyServer, verifier: Verifier) -> None:
    strange = {**json.loads(ed_key().jwk), "kid": ["a"]}
    server.offer(one=ec_key())
    assert isinstance(server.answer, list)
    server.answer.insert(0, json.dumps(strange))
    assert await accepts(verifier, token(ec_key(), {"kid": "one"}))


async def test_while_keys_are_fetched_everything_else_goes_on(
    server: KeyServer, nursery: trio.Nursery
) -> None:
    server.offer(one=ec_key())
    server.may_answer.clear()
    verifier = verifier_of(server, nursery)
    done = trio.Event()

    async def come() -> None:
        assert await accepts(verifier, token(ec_key(), {"kid": "one"}))
        done.set()

    with trio.fail_after(PATIENCE_SECONDS):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(come)
            await trio.to_thread.run_sync(server.being_asked.wait)
            await wait_all_tasks_blocked()
            assert not done.is_set()
            server.may_answer.set()
            await done.wait()


async def test_a_server_that_never_answers_is_waited_for_only_so_long(
    server: KeyServer, monkeypatch: pytest.MonkeyPatch, nursery: trio.Nursery
) -> None:
    assert JWKS_TIMEOUT_SECONDS == 5
    monkeypatch.setattr(key_set, "JWKS_TIMEOUT_SECONDS", 0.05)
    server.may_answer.clear()
    with trio.fail_after(PATIENCE_SECONDS):
        assert await status(verifier_of(server, nursery), token(ec_key(), {"kid": "one"})) == 503


async def test_whoever_leaves_while_keys_are_fetched_does_not_lose_them_for_others(
    server: KeyServer, nursery: trio.Nursery
) -> None:
    server.offer(one=ec_key())
    server.may_answer.clear()
    verifier = verifier_of(server, nursery)
    made = token(ec_key(), {"kid": "one"})
    with trio.fail_after(PATIENCE_SECONDS):
        async with trio.open_nursery() as leaving:
            leaving.start_soon(verifier.verify, made)
            await trio.to_thread.run_sync(server.being_asked.wait)
            leaving.cancel_scope.cancel()
        server.may_answer.set()
        assert await accepts(verifier, made)
