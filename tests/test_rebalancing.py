"""A process with more streams than the others sheds some, slowly, and stops."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
import trio
from structlog.testing import capture_logs
from trio.testing import MockClock

from tests.support.inside import Client, joined, new_hub
from trio_sse.delivery.hub import Hub
from trio_sse.rebalancing import FEW, PAUSE_SECONDS, SHED_PER_SECOND, Rebalancing


class Known:
    """A census that knows what it is told to."""

    process = "here"

    def __init__(self, hub: Hub, **others: int) -> None:
        self.hub = hub
        self.others = others
        self.away = False

    @property
    def counts(self) -> dict[str, int] | None:
        return None if self.away else {"here": len(self.hub), **self.others}


class Node:
    """A process with streams. What becomes of a client that was sent away, `back` says: whether it comes back
    here."""

    def __init__(self, streams: int, bound: float, back: Callable[[], bool], **others: int) -> None:
        self.hub = new_hub()
        self.census = Known(self.hub, **others)
        self.back = back
        self.said: list[str] = []
        self.shed = 0
        for _ in range(streams):
            self.come()
        self.rebalancing = Rebalancing(self.hub, bound, self.census)  # type: ignore[arg-type]

    def come(self) -> None:
        client = Client(joined(self.hub))
        client.close = lambda: self.gone(client)  # type: ignore[method-assign]

    def gone(self, client: Client) -> None:
        self.shed += 1
        self.said += client.names
        self.hub.leave(client._connection)
        if self.back():
            self.come()
        else:
            name = min(self.census.others, key=self.census.others.__getitem__)
            self.census.others[name] += 1


async def seconds_of(node: Node, seconds: float) -> None:
    with trio.move_on_after(seconds):
        await node.rebalancing.run()


async def test_it_sheds_until_it_is_within_the_bound_and_never_more(autojump_clock: MockClock) -> None:
    node = Node(400, 0.1, lambda: random.random() < 0.5, there=0)
    await seconds_of(node, 300)
    assert 200 < len(node.hub) <= 220
    assert len(node.hub) >= 205, "it stops at half the bound"
    shed = node.shed
    assert set(node.said) == {"rebalancing"}
    await seconds_of(node, 600)
    assert node.shed == shed, "it is at rest"


async def test_it_sheds_slowly(autojump_clock: MockClock) -> None:
    node = Node(1000, 0.1, lambda: False, there=0)
    await seconds_of(node, 5)
    assert 0.3 * 5 * SHED_PER_SECOND * 1000 < node.shed <= 5 * SHED_PER_SECOND * 1000


@pytest.mark.parametrize(
    ("streams", "bound", "others"),
    [
        (109, 0.1, {"there": 91}),
        (FEW - 1, 0.1, {"there": 0}),
        (1000, 0.0, {"there": 0}),
        (1000, 0.1, {}),
    ],
    ids=["within the bound", "few", "switched off", "alone"],
)
async def test_it_leaves_them_alone(
    autojump_clock: MockClock, streams: int, bound: float, others: dict[str, int]
) -> None:
    node = Node(streams, bound, lambda: False, **others)
    await seconds_of(node, 60)
    assert node.shed == 0


async def test_it_does_nothing_while_the_others_are_not_known_or_it_stops(autojump_clock: MockClock) -> None:
    node = Node(400, 0.1, lambda: False, there=0)
    node.census.away = True
    await seconds_of(node, 60)
    assert node.shed == 0
    node.census.away, node.hub.draining = False, True
    await seconds_of(node, 60)
    assert node.shed == 0
    node.hub.draining = False
    await seconds_of(node, 60)
    assert node.shed


async def test_where_clients_come_back_in_any_case_it_gives_up_for_longer_and_longer(
    autojump_clock: MockClock,
) -> None:
    node = Node(400, 0.1, lambda: True, there=0)
    with capture_logs() as logs:
        await seconds_of(node, 100)
    first = node.shed
    assert first <= 3 * 200 + FEW + 400 * SHED_PER_SECOND
    (said,) = (line for line in logs if line["log_level"] == "warning")
    assert "SSE_REBALANCE" in said["event"]
    with capture_logs() as logs:
        await seconds_of(node, 5000)
    pauses = [line["again_in_seconds"] for line in logs if line["log_level"] == "warning"]
    assert pauses[0] == 2 * PAUSE_SECONDS[0]
    assert pauses[-1] == PAUSE_SECONDS[1]
    assert node.shed < first * 12, "once an hour in the end"


async def test_those_on_their_way_are_not_missed(autojump_clock: MockClock) -> None:
    """They are counted nowhere for some seconds: the mean seems lower than it is."""
    node = Node(400, 0.05, lambda: False, there=340)

    def gone(client: Client) -> None:
        node.shed += 1
        node.hub.leave(client._connection)

    node.gone = gone  # type: ignore[method-assign]
    await seconds_of(node, 6.5)
    assert 15 <= node.shed <= 400 - 370 * 1.025


async def test_it_stops_where_few_are_left(autojump_clock: MockClock) -> None:
    node = Node(FEW + 10, 0.1, lambda: False, there=0, elsewhere=0)
    await seconds_of(node, 60)
    assert len(node.hub) == FEW - 1
