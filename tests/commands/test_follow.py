"""Following a stream over its reconnects, against answers that are made up."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest
import trio
from httpx_sse import ServerSentEvent
from trio.testing import MockClock

from trio_sse.commands.follow import RefusedError, Target, fields_of, follow

TARGET = Target(httpx.URL("http://sse.example/sse?user_id=1&topic=news"))
CONNECTED = b'retry: 500\nid: a.0\nevent: connected\ndata: {"heartbeat_seconds":10}\n\n'


class Body(httpx.AsyncByteStream):
    """Parts of a stream; a number is a pause. `broken`: it ends by a reset."""

    def __init__(self, *parts: bytes | float, broken: bool = False) -> None:
        self._parts = parts
        self._broken = broken

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for part in self._parts:
            if isinstance(part, bytes):
                yield part
            else:
                await trio.sleep(part)
        if self._broken:
            raise httpx.ReadError("reset")


class Service:
    """Gives each request the next answer, and none after the last."""

    def __init__(self, *answers: httpx.Response | Exception) -> None:
        self._answers = list(answers)
        self.requests: list[httpx.Request] = []
        self.times: list[float] = []
        self.told: list[ServerSentEvent] = []
        self.losses: list[tuple[str, float]] = []

    async def _answer(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        self.times.append(trio.current_time())
        if not self._answers:
            await trio.sleep_forever()
        answer = self._answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def event(self, event: ServerSentEvent) -> None:
        self.told.append(event)

    def lost(self, why: str, seconds: float) -> None:
        self.losses.append((why, seconds))

    async def followed(self, seconds: float = 10_000, token: Callable[[], str | None] = lambda: None) -> None:
        transport = httpx.MockTransport(self._answer)
        async with httpx.AsyncClient(transport=transport) as client:
            with trio.move_on_after(seconds):
                await follow(client, TARGET, token, self)


def stream(*parts: bytes | float, **more: Any) -> httpx.Response:
    return httpx.Response(200, headers={"content-type": "text/event-stream"}, stream=Body(*parts, **more))


async def test_events_are_told_as_they_come(autojump_clock: MockClock) -> None:
    service = Service(
        stream(CONNECTED, b"id: a.1\nda", 1, b"ta: one\n", 1, b"\nid: a.2\nevent: x\ndata: two\n\n")
    )
    await service.followed(5)
    assert [(event.event, event.data) for event in service.told[1:]] == [("message", "one"), ("x", "two")]
    (request, _) = service.requests
    assert request.headers["accept"] == "text/event-stream"
    assert request.url == TARGET.url
    assert "last-event-id" not in request.headers
    assert "authorization" not in request.headers


@pytest.mark.parametrize("broken", [False, True])
async def test_it_comes_back_with_the_last_id_when_the_stream_asked_it_to(
    autojump_clock: MockClock, broken: bool
) -> None:
    service = Service(stream(CONNECTED, b"id: a.1\ndata: one\n\n", b"id: a.2\ndata: cut", broken=broken))
    await service.followed()
    assert service.requests[1].headers["last-event-id"] == "a.1"
    assert service.requests[1].url == TARGET.url
    assert service.times[1] - service.times[0] == 0.5
    why, seconds = service.losses[0]
    assert why == ("reset" if broken else "the stream has ended")
    assert seconds == 0.5


async def test_an_event_without_data_moves_the_place_and_is_not_told(autojump_clock: MockClock) -> None:
    service = Service(stream(CONNECTED, b"id: a.5\n\n"))
    await service.followed()
    assert [event.event for event in service.told] == ["connected"]
    assert service.requests[1].headers["last-event-id"] == "a.5"


async def test_fruitless_attempts_come_at_growing_intervals(autojump_clock: MockClock) -> None:
    away = httpx.ConnectError("Connection refused")
    service = Service(*[away] * 8, stream(CONNECTED), stream(CONNECTED), away)
    await service.followed()
    assert [seconds for _, seconds in service.losses][:8] == [3, 6, 12, 24, 48, 60, 60, 60]
    assert [seconds for _, seconds in service.losses][8:11] == [0.5, 0.5, 1]


async def test_a_connection_that_falls_silent_is_made_anew(autojump_clock: MockClock) -> None:
    service = Service(stream(CONNECTED, 20, b"event: heartbeat\ndata: {}\n\n", 26, b"data: late\n\n"))
    await service.followed(100)
    assert service.losses[0] == ("nothing came for too long", 0.5)
    assert service.times[1] == 20 + 25 + 0.5
    assert [event.event for event in service.told] == ["connected", "heartbeat"]


async def test_no_answer_at_all_is_silence_too(autojump_clock: MockClock) -> None:
    service = Service()
    await service.followed(20)
    assert service.losses == [("nothing came for too long", 3)]


async def test_the_token_is_asked_for_each_time(autojump_clock: MockClock) -> None:
    tokens = iter(["first", "second", None])
    service = Service(stream(CONNECTED), stream(CONNECTED))
    await service.followed(5, token=lambda: next(tokens))
    sent = [request.headers.get("authorization") for request in service.requests]
    assert sent == ["Bearer first", "Bearer second", None]


PROBLEM = {"title": "Forbidden", "detail": "the token is for another user"}


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (httpx.Response(403, json=PROBLEM), "HTTP 403: Forbidden; the token is for another user"),
        (httpx.Response(404, text="nothing here"), "HTTP 404: Not Found"),
        (httpx.Response(404, json=[]), "HTTP 404: Not Found"),
        (httpx.Response(204), "HTTP 204: No Content"),
        (httpx.Response(200, html="<p>"), "no event stream (Content-Type: text/html"),
        (httpx.Response(200), "no event stream (Content-Type: none)"),
    ],
)
async def test_a_refusal_ends_it_with_the_reason(answer: httpx.Response, said: str) -> None:
    with pytest.raises(RefusedError) as caught:
        await Service(answer).followed()
    assert said in str(caught.value)


@pytest.mark.parametrize("status", [429, 500, 502, 503])
async def test_what_may_pass_is_tried_again(autojump_clock: MockClock, status: int) -> None:
    service = Service(httpx.Response(status, json=PROBLEM), stream(CONNECTED, 1000))
    await service.followed(20)
    assert service.losses == [(f"HTTP {status}: Forbidden; the token is for another user", 3)]
    assert [event.event for event in service.told] == ["connected"]


@pytest.mark.parametrize("data", ["", "x", "[]", '"x"', "[" * 100_000])
def test_a_notice_may_have_no_fields(data: str) -> None:
    assert fields_of(ServerSentEvent(event="gap", data=data)) == {}
