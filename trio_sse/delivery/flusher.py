"""Gathered messages are offered to their connections: few at once, many by a task."""

from __future__ import annotations

import time

import trio

from trio_sse.delivery.hub import Hub

BUDGET_SECONDS = 0.001
"""How long a flush may run before other tasks do: accepts, heartbeats, the reader of Redis.

A request takes a dozen checkpoints, so `/healthz` takes a dozen times as long while a flush runs."""

_OFFERS_BETWEEN_LOOKS = 16

OFFERS_AT_ONCE = 64
"""How many offers are made at once, without the flusher: a turn of its task takes as long as two of them."""


def settle(hub: Hub) -> None:
    """Flush what one read of Redis brought. What is little leaves at once, unless a flush is under way: that
    has older messages. The rest is for the flusher."""
    if hub.flushing or hub.pending.is_set() or hub.offers(OFFERS_AT_ONCE) > OFFERS_AT_ONCE:
        hub.pending.set()
        return
    published = direct = sent = 0
    for batch, connections in hub.take():
        taken = 0
        for connection in connections:
            taken += connection.offer(batch)
        if batch.marks is None:
            messages = len(batch.frames)
        else:
            messages = batch.messages
            hub.told(batch, taken)
        published += messages * len(connections)
        direct += messages * taken
        sent += len(batch.joined) * taken
    hub.offered(published, direct, sent)
    hub.flushed()


async def flush_forever(hub: Hub, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
    """Offer what was dispatched, as soon as something was, until cancelled.

    Messages that arrive while a flush runs leave in the next one, as one write per connection.
    """
    task_status.started()
    while True:
        await hub.pending.wait()
        await flush(hub)


async def flush(hub: Hub) -> None:
    """One flush. Takes a checkpoint at least every BUDGET_SECONDS; always takes one."""
    turn_ends = time.perf_counter() + BUDGET_SECONDS
    offers = 0
    if trio.current_time() >= hub.delays.due:
        hub.delays.wanted = True
    published = direct = sent = 0  # and not counted yet; there are as many batches as users
    for batch, connections in hub.take():
        messages = len(batch.frames) if batch.marks is None else batch.messages
        taken, counted = 0, offers
        for connection in connections:
            taken += connection.offer(batch)
            offers += 1
            if offers % _OFFERS_BETWEEN_LOOKS == 0 and time.perf_counter() >= turn_ends:
                published += messages * (offers - counted)
                direct += messages * taken
                sent += len(batch.joined) * taken
                hub.offered(published, direct, sent)
                published = direct = sent = 0
                if batch.marks is not None:
                    hub.told(batch, taken)
                taken, counted = 0, offers
                await trio.lowlevel.checkpoint()
                turn_ends = time.perf_counter() + BUDGET_SECONDS
        published += messages * (offers - counted)
        direct += messages * taken
        sent += len(batch.joined) * taken
        if batch.marks is not None:
            hub.told(batch, taken)
    hub.offered(published, direct, sent)
    hub.flushed()
    await trio.lowlevel.checkpoint()
