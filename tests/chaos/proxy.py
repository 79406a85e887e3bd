"""A TCP proxy that cuts connections, in the middle of whatever is on its way, or lets them fall silent."""

from __future__ import annotations

import contextlib
import random

import trio

from tests.support.client import connect, linger_none
from tests.support.ports import free_port

BROKEN = (trio.BrokenResourceError, trio.ClosedResourceError)


class Proxy:
    """Passes connections on to `target`, which may change, on loopback.

    With `mean_bytes`, and while `cutting`, each is cut after a random number of bytes towards the client, so
    many on average.
    """

    def __init__(self, target: int, *, mean_bytes: float | None = None) -> None:
        self.port = free_port()
        self.target = target
        self.mean_bytes = mean_bytes
        self.cutting = mean_bytes is not None
        self.cuts = 0
        self._silenced = trio.Event()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled."""
        listeners = await trio.open_tcp_listeners(self.port, host="127.0.0.1", backlog=1000)
        task_status.started()
        await trio.serve_listeners(self._pass_on, listeners)

    def silence(self) -> None:
        """Let the connections there are stay open, and carry nothing any more, either way."""
        self._silenced.set()
        self._silenced = trio.Event()

    def _cut(self, stream: trio.SocketStream) -> None:
        self.cuts += 1
        linger_none(stream.socket)
        stream.socket.close()

    async def _pass_on(self, client: trio.SocketStream) -> None:
        try:
            async with await connect(self.target) as server, trio.open_nursery() as nursery:
                nursery.start_soon(self._upwards, client, server, nursery.cancel_scope)
                await self._downwards(server, client)
                nursery.cancel_scope.cancel()
        except OSError:
            pass  # nobody listens there now
        finally:
            client.socket.close()

    async def _upwards(
        self, client: trio.SocketStream, server: trio.SocketStream, scope: trio.CancelScope
    ) -> None:
        silenced = self._silenced
        with contextlib.suppress(*BROKEN):
            async for data in client:
                if not silenced.is_set():
                    await server.send_all(data)
        scope.cancel()

    async def _downwards(self, server: trio.SocketStream, client: trio.SocketStream) -> None:
        silenced = self._silenced
        left = random.expovariate(1 / self.mean_bytes) if self.mean_bytes else 0
        with contextlib.suppress(*BROKEN):
            async for data in server:
                if silenced.is_set():
                    continue
                if len(data) > left and self.cutting:
                    await client.send_all(data[: int(left)])
                    self._cut(client)
                    return
                left -= len(data)
                await client.send_all(data)
