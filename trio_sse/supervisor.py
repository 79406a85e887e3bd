"""The nursery that owns the service's own tasks, and what happens when one of them fails."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio

from trio_sse.broker.subscriber import Subscriber
from trio_sse.delivery.flusher import flush_forever
from trio_sse.delivery.hub import Hub
from trio_sse.delivery.lifetimes import Lifetimes


async def supervise(
    hub: Hub, lifetimes: Lifetimes, subscriber: Subscriber, *others: Callable[[], Awaitable[None]],
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:  # fmt: skip
    """Run subscriber, flusher, heartbeats, lifetimes and `others` until cancelled. Started when all of them
    are.

    A crash of one cancels the others and is raised. However it ends, the hub is closed, so that every
    stream ends too: no client is left on a stream that nothing feeds.
    """
    try:
        async with trio.open_nursery() as nursery:
            await nursery.start(flush_forever, hub)
            await nursery.start(beat_forever, hub)
            await nursery.start(lifetimes.run)
            for other in others:
                nursery.start_soon(other)
            await nursery.start(subscriber.run)
            task_status.started()
    finally:
        hub.close()


async def beat_forever(hub: Hub, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
    """Send every connection its heartbeat, each counted from its own connecting."""
    task_status.started()
    while True:
        await trio.sleep_until(hub.beat())
