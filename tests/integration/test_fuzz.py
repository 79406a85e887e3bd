"""Whatever Hypothesis thinks of: no traceback in the log, and nobody else notices.

With FUZZ_SECONDS=600 each test takes that long and tries new things all the time: `nox -s fuzz`.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import re
import urllib.parse
from collections.abc import Iterator
from typing import Any

import h11
import pytest
import redis
import trio

from tests.fuzz.budget import fuzz
from tests.fuzz.inputs import ATTACKS, LAST_EVENT_IDS, PUBLISHED, LastEventId, NearId, Published
from tests.support.canary import (
    PATIENCE_SECONDS,
    THEIR_OWN,
    Canary,
    LogReader,
    is_for_everybody,
)
from tests.support.client import Stream, connect
from tests.support.flow import SOURCES
from tests.support.hostile import Attack, launch
from tests.support.process import Service, Services, wait_until
from tests.support.variants import HYPERCORN, TRIO_SSE, Variant
from trio_sse.delivery.event_ids import parse

pytestmark = [pytest.mark.integration, pytest.mark.slow]

VARIANTS: list[Variant] = [TRIO_SSE, HYPERCORN]
SETTINGS = {
    "SSE_HEARTBEAT_SECONDS": "1",  # Hypercorn notices by writing that some have left
    "SSE_BUFFER": "10000",  # the canary reads when a test lets it, and loses nothing until then
    "SSE_HISTORY_MESSAGES": "50",
    "SSE_REPLAY_LIMIT": "500",
}

NOTHING = re.compile("(?!)")


class Watched:
    """A running service with a canary beside whatever is tried on it."""

    def __init__(self, service: Service, redis_port: int, stream: str) -> None:
        self.service = service
        self.redis = redis.Redis(port=redis_port, db=1)
        self.stream = stream
        self.canary = Canary(service, self.redis, stream)
        self._log = LogReader(service)

    @property
    def connection_errors(self) -> int:
        return int(self.service.get("/readyz").json["totals"]["connection_errors"])

    @contextlib.contextmanager
    def nobody_else_notices(self, known: re.Pattern[str] = NOTHING) -> Iterator[None]:
        """What is done inside may end its own connections by `known` errors, and has no other effect."""
        try:
            yield
            self.canary.sing()
            for error in self._log.contained():
                assert known.fullmatch(error), error
        except BaseException as error:
            error.add_note(f"in the log meanwhile:\n{self._log.read()}")
            self.canary.close()  # for the next try Hypothesis gets one that has missed nothing
            self.canary = Canary(self.service, self.redis, self.stream)
            raise

    def publish(self, published: Published) -> None:
        fields = [part for field in published.fields for part in field]
        if published.id is None:
            self.redis.publish(self.service.channel, fields[1])
            return
        with contextlib.suppress(redis.ResponseError):  # the id is not above the last
            add: Any = self.redis.execute_command  # xadd() would want each field once
            add("XADD", self.stream, "MAXLEN", 1000, published.id, *fields)

    def tell(self, user: str, source: str, number: int) -> None:
        message = json.dumps({"user_id": user, "by": source, "n": number}).encode()
        self.publish(Published(((b"payload", message),), "*" if source == "stream" else None))

    def close(self) -> None:
        self.canary.close()
        self._log.close()
        self.redis.close()


@pytest.fixture(scope="module", params=VARIANTS, ids=str)
def service(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, valkey: int
) -> Iterator[Service]:
    """One for all tests here: what one of them left in its history the next ones find there."""
    services = Services(tmp_path_factory.mktemp("fuzz"), valkey)
    settings: dict[str, Any] = SETTINGS
    yield services(request.param, SSE_REDIS_STREAM=f"fuzz-{request.param}", **settings)
    services.close()


@pytest.fixture
def watched(service: Service, request: pytest.FixtureRequest, valkey: int) -> Iterator[Watched]:
    watched = Watched(service, valkey, f"fuzz-{request.node.callspec.params['service']}")
    yield watched
    watched.close()


def test_payloads(watched: Watched, start: Services) -> None:
    before = watched.connection_errors

    def nobody_notices(published: list[Published]) -> None:
        with watched.nobody_else_notices():
            for one in published:
                watched.publish(one)

    fuzz(PUBLISHED, 10, nobody_notices)
    assert watched.connection_errors == before
    settings: dict[str, Any] = SETTINGS
    another = start(TRIO_SSE, SSE_REDIS_STREAM=watched.stream, **settings)  # which reads all of it at once
    assert another.get("/readyz").status == 200


def test_requests(watched: Watched) -> None:
    async def launch_all(attacks: list[Attack]) -> None:
        async with trio.open_nursery() as nursery:
            for one in attacks:
                nursery.start_soon(launch, watched.service.port, one)

    def only_these_end(attacks: list[Attack]) -> None:
        with watched.nobody_else_notices(known=THEIR_OWN):
            trio.run(launch_all, attacks)

    fuzz(ATTACKS, 8, only_these_end)
    wait_until(lambda: watched.service.connections == 1, "only the canary is left")


def test_event_ids(watched: Watched) -> None:
    before = watched.connection_errors
    numbers = itertools.count()

    async def all_come_back(ids: list[LastEventId]) -> None:
        with trio.fail_after(PATIENCE_SECONDS):
            async with trio.open_nursery() as nursery:
                for place, one in enumerate(ids):
                    nursery.start_soon(comes_back, watched, one, f"back-{place}", next(numbers))

    def each_is_answered(ids: list[LastEventId]) -> None:
        with watched.nobody_else_notices():
            trio.run(all_come_back, ids)

    fuzz(LAST_EVENT_IDS, 8, each_is_answered)
    assert watched.connection_errors == before


async def comes_back(watched: Watched, last: LastEventId, user: str, number: int) -> None:
    """A client with this id is refused, or gets its place, a `gap` if nobody knows that, and what is new."""
    claimed = last.id.of(watched.canary.last_id) if isinstance(last.id, NearId) else last.id
    raw = claimed.encode("utf-8", "surrogatepass") if isinstance(claimed, str) else claimed
    query = header = b""
    if last.by == "query":
        query = b"&last_event_id=" + urllib.parse.quote_from_bytes(raw).encode()
        refused = not is_utf8(raw)
    else:
        header = b"Last-Event-ID: " + raw + b"\r\n"
        raw = raw.strip(b" \t")
        refused = bool(set(raw) & set(b"\r\n\0\f\v"))
    begin = trio.current_time()
    async with await connect(watched.service.port) as transport:
        stream = Stream(transport)
        stream.http.send(h11.Request(method="GET", target="/", headers=[("host", "x")]))
        await transport.send_all(
            b"GET /sse?user_id=%b%b HTTP/1.1\r\nHost: x\r\n%b\r\n" % (user.encode(), query, header)
        )
        try:
            response = await stream._next()
        except h11.RemoteProtocolError:
            # Hypercorn's patience with a request is five seconds, and a machine may be that busy.
            assert trio.current_time() - begin > 4
            return
        assert isinstance(response, h11.Response)
        if refused:  # unless it has made a whole request of a part of its id
            assert response.status_code == 400 or b"\n" in raw
            return
        assert response.status_code == 200
        connected = await stream.event()
        assert connected.name == "connected"
        for source in SOURCES:
            watched.tell(user, source, number)
        gaps = await gaps_before(stream, user, number)
    assert connected.id or gaps
    if raw and parse(raw.decode("utf-8", "replace")) is None:
        assert gaps == ["unknown_id"]


async def gaps_before(stream: Stream, user: str, number: int) -> list[str]:
    """The reasons of all gaps until the message with this number has come from both sources."""
    gaps = []
    latest = dict.fromkeys(SOURCES, -1)
    while any(seen < number for seen in latest.values()):
        event = await stream.event()
        if event.name == "gap":
            gaps.append(event.json["reason"])
        elif event.name == "heartbeat":
            pass
        elif user in event.data:
            assert latest[event.json["by"]] < event.json["n"] <= number, event
            latest[event.json["by"]] = event.json["n"]
            assert parse(event.id), event
        else:
            assert is_for_everybody(event.data), event
    return gaps


def is_utf8(raw: bytes) -> bool:
    try:
        raw.decode()
    except UnicodeDecodeError:
        return False
    return True
