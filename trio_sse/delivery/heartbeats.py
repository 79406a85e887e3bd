"""The task that sends every connection its heartbeat."""

from __future__ import annotations

import trio

from trio_sse.delivery.hub import Hub


async def beat_forever(hub: Hub, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
    """Send every connection its heartbeats, counted from when it joined, until cancelled."""
    task_status.started()
    while True:
        await trio.sleep_until(hub.beat())
