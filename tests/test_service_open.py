"""One stream, from being let in to leaving."""

from __future__ import annotations

import gc
from typing import Any

import pytest
import trio
from trio.testing import MockClock, assert_no_checkpoints, wait_all_tasks_blocked

from tests.support.inside import Client, events, flush_now, note, open_stream, settings
from trio_sse.access.admission import Accepted
from trio_sse.delivery import sse
from trio_sse.delivery.connection import Connection
from trio_sse.delivery.history import PAGE_BYTES
from trio_sse.delivery.resume import Start
from trio_sse.service import Service

LIMITED = {"max_connections": 2, "max_connections_per_user": 2, "max_connections_per_address": 2}


def service_of(**values: Any) -> Service:
    return Service(settings(**values))


def accepted(**values: Any) -> Accepted:
    return Accepted("ann", Start(), ())._replace(**{"address": "192.0.2.1", **values})


def counted(service: Service) -> int:
    """How many streams the limits have counted."""
    limits = service.admission.limits
    counted = len(limits._counted)
    assert sum(limits._users.values()) == sum(limits._addresses.values()) == counted
    return counted


async def test_it_is_in_the_hub_and_counted_as_long_as_it_lasts() -> None:
    service = service_of(**LIMITED)
    with assert_no_checkpoints(), open_stream(service, accepted()) as connection:
        assert service.hub.connections == [connection]
        assert counted(service) == 1
    assert connection.closed
    assert (len(service.hub), counted(service)) == (0, 0)


@pytest.mark.parametrize("how", [ValueError, KeyboardInterrupt, trio.Cancelled])
async def test_it_gives_back_what_it_took_however_it_ends(how: type[BaseException]) -> None:
    service = service_of(**LIMITED)
    for _ in range(5):
        try:
            with open_stream(service, accepted()):
                if how is trio.Cancelled:
                    with trio.CancelScope() as scope:
                        scope.cancel()
                        await trio.lowlevel.checkpoint()
                    continue
                raise how
        except (ValueError, KeyboardInterrupt):
            pass
    assert (len(service.hub), counted(service)) == (0, 0)


@pytest.mark.parametrize("name", LIMITED)
async def test_between_being_admitted_and_being_opened_it_may_have_become_one_too_many(name: str) -> None:
    """Quart takes turns between both; the last look is in one step with counting."""
    service = service_of(**{name: 1})
    request = (b"user_id=ann", [(b"accept", b"text/event-stream")])
    answers = [await service.admission.admit(*request, lambda: "192.0.2.1") for _ in range(2)]
    assert [answer.last_words for answer in answers if isinstance(answer, Accepted)] == [b"", b""]
    first, second = (open_stream(service, answer) for answer in answers if isinstance(answer, Accepted))
    with first as one, second as other:
        assert Client(one).names == ["connected"]
        late = Client(other)
        assert late.names == ["overloaded"]
        assert late.closed
        assert service.hub.connections == [one]
        assert counted(service) == 1
        assert service.counters.overloaded == 1
    assert counted(service) == 0


async def test_one_that_is_too_many_says_so_and_is_not_counted() -> None:
    service = service_of(**LIMITED)
    with open_stream(service, accepted(last_words=b"event: overloaded\ndata: {}\n\n")) as connection:
        client = Client(connection)
        assert (client.names, client.closed) == (["overloaded"], True)
        assert (len(service.hub), counted(service)) == (0, 0)
    assert counted(service) == 0
    assert service.counters.snapshot()["overloaded"] == 1


async def test_while_the_service_drains_nothing_is_counted() -> None:
    service = service_of(**LIMITED)
    service.hub.draining = True
    for _ in range(5):
        with open_stream(service, accepted()) as connection:
            assert Client(connection).names == ["draining"]
    assert counted(service) == 0


async def test_at_the_end_of_its_token_it_ends_and_says_why(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    service = service_of()
    await nursery.start(service.lifetimes.run)
    with (
        open_stream(service, accepted(seconds=60.0)) as connection,
        open_stream(service, accepted()) as other,
    ):
        client, stays = Client(connection), Client(other)
        await trio.sleep(59)
        assert client.names == ["connected"]
        await trio.sleep(2)
        assert client.names == ["connected", "auth_expired"]
        assert client.closed
        assert (stays.names, stays.closed) == (["connected"], False)


async def test_a_token_that_ends_meanwhile_ends_it_at_once(nursery: trio.Nursery) -> None:
    service = service_of()
    await nursery.start(service.lifetimes.run)
    with open_stream(service, accepted(seconds=-1.0)) as connection:
        client = Client(connection)
        await wait_all_tasks_blocked()
        assert client.names == ["connected", "auth_expired"]


async def test_one_who_waits_for_its_place_sees_at_once_that_the_stream_is_open() -> None:
    service = service_of(redis_stream="notes")
    with open_stream(service, accepted(start=Start("5-0"))) as connection:
        client = Client(connection)
        assert client.take_page() == sse.COMMENT
        assert not connection.begun
    with open_stream(service, accepted()) as connection:
        assert sse.COMMENT not in Client(connection).received


async def test_whichever_end_comes_first_counts(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    service = service_of(max_stream_seconds=100)
    await nursery.start(service.lifetimes.run)
    with open_stream(service, accepted(seconds=1000.0)) as connection:
        client = Client(connection)
        await trio.sleep(101)
        assert (client.names, client.closed) == (["connected"], True)
        await trio.sleep(1000)
        assert client.names == ["connected"]


async def test_streams_that_have_ended_are_not_remembered_until_their_tokens_expire() -> None:
    service = service_of()
    before = [found for found in gc.get_objects() if isinstance(found, Connection)]  # of other tests
    for _ in range(1000):
        with open_stream(service, accepted(seconds=30 * 86400.0)):
            pass
    gc.collect()
    left = [found for found in gc.get_objects() if isinstance(found, Connection)]
    assert not [found for found in left if not any(found is other for other in before)]
    assert len(service.lifetimes) < 100


async def test_with_the_token_ends_what_its_client_catches_up_with_and_a_new_one_gets_the_rest(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    service = service_of()
    await nursery.start(service.lifetimes.run)
    first = service.history.sources.process + ".0"
    for number in range(10):
        service.hub.dispatch(note("ann", data=b"%d" % number + b" " * PAGE_BYTES))
    received = b""
    with open_stream(service, accepted(start=Start(first), seconds=3)) as connection:
        client = Client(connection, busy=True)
        for _ in range(3):
            client.take_page()
        await trio.sleep(4)
        service.hub.dispatch(note("ann", data=b"10"))
        flush_now(service.hub)
        client.catch_up()
        received = client.received
    *before, last = events(received)
    assert [event.data.strip() for event in before[1:]] == ["0", "1", "2"]
    assert last.event == "auth_expired"
    with open_stream(service, accepted(start=Start(last.id))) as connection:
        rest = Client(connection).data[1:]
    assert [data.strip() for data in rest] == [str(number) for number in range(3, 11)]


@pytest.mark.parametrize("catching_up", [True, False])
async def test_a_stream_that_lasts_long_enough_ends_whatever_its_client_has_yet_to_get(
    catching_up: bool, autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    service = service_of(max_stream_seconds=10)
    await nursery.start(service.lifetimes.run)
    first = service.history.sources.process + ".0" if catching_up else None
    for _ in range(10):
        service.hub.dispatch(note("ann", data=b" " * PAGE_BYTES))
    with open_stream(service, accepted(start=Start(first))) as connection:
        client = Client(connection, busy=True)
        client.take_page()
        await trio.sleep(11)
        assert client.closed
        client.catch_up()
        assert client.names == ["connected", "message"] if catching_up else ["connected"]


SHARED = {"limits_shared": True, "max_connections_per_user": 1, "max_connections_per_address": 1}


async def test_it_takes_up_the_place_that_was_reserved_and_gives_it_back() -> None:
    service = service_of(**SHARED)
    limits = service.admission.limits
    place = limits.reserve("ann", "192.0.2.1")
    with open_stream(service, accepted(reservation=place)) as connection:
        assert service.hub.connections == [connection]
        assert counted(service) == 1
    assert (len(service.hub), counted(service)) == (0, 0)


async def test_a_place_that_expired_is_looked_for_again(autojump_clock: MockClock) -> None:
    service = service_of(**SHARED)
    place = service.admission.limits.reserve("ann", "192.0.2.1")
    await trio.sleep(60)
    with open_stream(service, accepted()) as first, open_stream(service, accepted(reservation=place)) as late:
        assert service.hub.connections == [first]
        assert late.closed
        assert counted(service) == 1


async def test_during_a_stop_it_gives_its_place_back_at_once() -> None:
    service = service_of(**SHARED)
    service.hub.draining = True
    place = service.admission.limits.reserve("ann", "192.0.2.1")
    with open_stream(service, accepted(reservation=place)):
        assert counted(service) == 0


def test_all_processes_are_asked_only_if_limits_are_shared_and_there_are_any() -> None:
    assert service_of(limits_shared=True).census is None
    assert service_of(max_connections=5).census is None
    assert service_of(rebalance=0.1).admission.ask is None
    for values in (SHARED, {**SHARED, "rebalance": 0.1}):
        service = service_of(**values)
        assert service.census is not None
        assert service.admission.ask == service.census.ask
