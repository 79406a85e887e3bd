"""Two processes of the service on one Redis: what one of them is asked to do, both do."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tests.support.inside import Client, open_stream, settings, until
from tests.support.log import BackEnd
from tests.support.tokens import SECRET, token
from tests.support.valkeys import breakable
from trio_sse.access.admission import Accepted
from trio_sse.access.problem import Refused
from trio_sse.admin import administration as module
from trio_sse.admin.administration import Administration, TooManyError
from trio_sse.admin.reports import Ending
from trio_sse.broker import control
from trio_sse.broker.publisher import UnavailableError
from trio_sse.broker.revoked_tokens import Revoked
from trio_sse.delivery.resume import Start
from trio_sse.service import Service

ADMIN = "an-operators-token-0123"


def service_at(port: int, **more: Any) -> Service:
    given: dict[str, Any] = {"redis_host": "127.0.0.1", "redis_port": port, "admin_token": ADMIN}
    return Service(settings(**{**given, **more}))


def with_tokens(port: int, **more: Any) -> Service:
    return service_at(port, auth="jwt", jwt_secret=SECRET, **more)


@asynccontextmanager
async def running(*services: Service) -> AsyncIterator[None]:
    async with trio.open_nursery() as nursery:
        for service in services:
            await nursery.start(service.run)
        yield
        nursery.cancel_scope.cancel()


def administration(service: Service) -> Administration:
    assert service.administration is not None
    return service.administration


def request(given: str) -> tuple[bytes, list[tuple[bytes, bytes]]]:
    return b"", [(b"authorization", f"Bearer {given}".encode())]


def admitted(service: Service, given: str) -> Accepted | Refused:
    answer = service.admission.admit_now(*request(given), lambda: "192.0.2.1")
    assert answer is not None
    return answer


def let_in(service: Service, given: str) -> Accepted:
    answer = admitted(service, given)
    assert isinstance(answer, Accepted), answer
    return answer


async def test_without_a_token_there_is_none_of_it() -> None:
    service = Service(settings())
    assert service.administration is None
    assert service.hub.recorder is None
    assert service.admission.refused is None


async def test_a_message_is_explained_by_what_all_know(port: int, back_end: BackEnd) -> None:
    one, other = service_at(port), service_at(port)
    async with running(one, other):
        accepted = Accepted("ann", Start(), (), "192.0.2.1")
        with open_stream(other, accepted) as connection:
            client = Client(connection)
            back_end.publish("notifications", '{"user_id":"ann"}')
            await until(lambda: len(client.names) == 2)
            await until(lambda: one.history.latest == 1)
            for asked, process in ((one, other), (other, one)):
                own_id = f"{process._process}.1"  # which the one that is asked does not know
                explanation = await administration(asked).explain("ann", own_id)
                assert explanation.story.verdict.code == "taken"
                [told] = explanation.story.messages
                assert sorted(told.ids) == sorted([f"{one._process}.1", f"{other._process}.1"])
                assert explanation.asked.complete


async def test_a_stream_ends_wherever_it_is(port: int, back_end: BackEnd) -> None:
    one, other = service_at(port), service_at(port)
    async with running(one, other):
        with open_stream(other, Accepted("ann", Start(), ())) as connection:
            client = Client(connection)
            assert connection.record is not None
            outcome = await administration(one).disconnect(Ending(stream=connection.record.id))
            assert (outcome.ended, outcome.asked.complete) == (1, True)
            assert client.names == ["connected", "ended_by_operator"]
            assert client.closed


@pytest.mark.parametrize(
    ("ending", "ended"),
    [
        (Ending(user="ann"), {"ann-1", "ann-2"}),
        (Ending(jti="ann-1"), {"ann-1"}),
        (Ending(issued_before=150.0), {"ann-1", "bob-1"}),
        (Ending(user="ann", issued_before=150.0), {"ann-1"}),
        (Ending(stream="none"), set()),
    ],
)
async def test_which_streams_are_meant(port: int, back_end: BackEnd, ending: Ending, ended: set[str]) -> None:
    service = with_tokens(port)
    names = {
        "ann-1": token(sub="ann", jti="ann-1", iat=100),
        "ann-2": token(sub="ann", jti="ann-2", iat=200),
        "bob-1": token(sub="bob", jti="bob-1", iat=100),
    }
    async with running(service):
        opened = {name: service.open(let_in(service, given)) for name, given in names.items()}
        outcome = await administration(service).disconnect(ending)
        assert {name for name, connection in opened.items() if connection.closed} == ended
        assert outcome.ended == len(ended)
        for connection in opened.values():
            service.release(connection)


async def test_a_revoked_token_opens_no_stream_anywhere_and_its_streams_end(
    port: int, back_end: BackEnd
) -> None:
    one, other = with_tokens(port), with_tokens(port)
    given, good = token(sub="ann", jti="bad"), token(sub="ann", jti="good")
    async with running(one, other):
        with (
            open_stream(other, let_in(other, given)) as revoked,
            open_stream(other, let_in(other, good)) as kept,
        ):
            client = Client(revoked)
            outcome = await administration(one).revoke(Ending(jti="bad"), 3600)
            assert outcome.ended == 1
            assert outcome.until == pytest.approx(time.time() + 3600, abs=60)
            assert client.names == ["connected", "auth_revoked"]
            assert not kept.closed
        for service in (one, other):
            refused = admitted(service, given)
            assert isinstance(refused, Refused)
            assert (refused.status, refused.detail) == (401, "the token is revoked")
            let_in(service, good)
    later = with_tokens(port)
    async with running(later):
        assert isinstance(admitted(later, given), Refused), "one that starts later knows it too"


async def test_a_stream_that_needed_no_token_stays_whatever_is_revoked(
    port: int, back_end: BackEnd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control, "BEAT_SECONDS", 0.05)
    service = with_tokens(port, public_topics="news")
    async with running(service):
        answer = service.admission.admit_now(b"topic=news", (), lambda: "192.0.2.1")
        assert isinstance(answer, Accepted)
        with (
            open_stream(service, answer) as connection,
            open_stream(service, let_in(service, token(sub="ann"))) as other,
        ):
            await administration(service).revoke(Ending(issued_before=time.time()), 3600)
            assert other.closed
            revoked = administration(service)._revoked
            assert revoked is not None
            await revoked.add(Revoked(None, None, time.time() + 5), 3600, 10)  # by somebody else
            await until(lambda: service.admission.revocations and len(service.admission.revocations) == 1)
            await wait_all_tasks_blocked()
            assert not connection.closed


async def test_a_stream_that_was_let_in_before_and_opens_after_ends_at_once(
    port: int, back_end: BackEnd
) -> None:
    service = with_tokens(port, max_connections=5)
    async with running(service):
        accepted = let_in(service, token(sub="ann", jti="bad"))
        await administration(service).revoke(Ending(jti="bad"), 3600)
        with open_stream(service, accepted) as connection:
            assert Client(connection).names == ["auth_revoked"]
            assert len(service.hub) == len(service.admission.limits) == 0


async def test_one_that_was_away_from_redis_ends_them_when_it_is_back(
    port: int, back_end: BackEnd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control, "BEAT_SECONDS", 0.05)
    one, other = with_tokens(port), with_tokens(port)

    async def deaf(*_: object) -> None:
        return None

    monkeypatch.setattr(administration(other)._control, "_obey", deaf)
    async with running(one, other):
        with open_stream(other, let_in(other, token(sub="ann", jti="bad"))) as connection:
            await administration(one).revoke(Ending(jti="bad"), 3600)
            await until(lambda: connection.closed)
            assert Client(connection).names[-1] == "auth_revoked"


async def test_without_redis_nothing_is_revoked_and_nothing_ended() -> None:
    service = with_tokens(1)
    async with running(service):
        with open_stream(service, let_in(service, token(sub="ann", jti="bad"))) as connection:
            with pytest.raises(UnavailableError, match="REDIS_HOST"):
                await administration(service).revoke(Ending(jti="bad"), 3600)
            assert not connection.closed
        let_in(service, token(sub="ann", jti="bad"))


async def test_without_redis_streams_of_this_process_end_and_the_rest_is_told() -> None:
    service = service_at(1)
    async with running(service):
        with open_stream(service, Accepted("ann", Start(), ())) as connection:
            outcome = await administration(service).disconnect(Ending(user="ann"))
            assert connection.closed
            assert (outcome.ended, outcome.asked.complete) == (1, False)


async def test_as_many_as_are_kept_are_revoked_and_no_more(
    port: int, back_end: BackEnd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST", 1)
    service = with_tokens(port)
    async with running(service):
        await administration(service).revoke(Ending(jti="a"), 3600)
        with pytest.raises(TooManyError):
            await administration(service).revoke(Ending(jti="b"), 3600)


@pytest.mark.parametrize(("setting", "status"), [("open", None), ("closed", 503)])
async def test_while_it_is_not_known_which_are_revoked_the_setting_decides(
    setting: str, status: int | None
) -> None:
    with breakable(started=False) as valkey:
        service = with_tokens(valkey.port, revoked_without_redis=setting)
        async with running(service):
            answer = admitted(service, token(sub="ann"))
            assert getattr(answer, "status", None) == status
            if isinstance(answer, Refused):
                assert "SSE_REVOKED_WITHOUT_REDIS" in answer.detail
            valkey.start()
            with trio.fail_after(20):
                while isinstance(admitted(service, token(sub="ann")), Refused):
                    await trio.sleep(0.05)


async def test_what_all_do_now(port: int, back_end: BackEnd) -> None:
    one, other = service_at(port), service_at(port)
    async with running(one, other):
        with open_stream(other, Accepted("ann", Start(), (), topics=("news",))):
            view = await administration(one).view()
            assert [process.streams for process in view.processes] == [0, 1]
            assert view.processes[1].most == [("news", 1)]
            assert view.asked.complete
            assert await administration(one).view() is view, "several viewers share it"
