"""The Redis that has a key: that of the settings, or the node of a cluster that others name. asyncio only."""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable

from redis.exceptions import MovedError

from trio_sse.broker.cluster_map import Address, redirected
from trio_sse.broker.link import ERRORS, open_link
from trio_sse.settings import Settings


class Home:
    """Remembers where it was. When it is not there any more, one node of REDIS_CLUSTER after the other is
    asked."""

    def __init__(self, settings: Settings, known: Callable[[], Address | None] = lambda: None) -> None:
        """`known`: where the key is, as far as somebody else knows."""
        self._settings = settings
        self._known = known
        self._seeds = itertools.cycle([(one.host, one.port) for one in settings.cluster_servers] or [None])
        self._at: Address | None = None

    async def serve(self, there: Callable[[], Awaitable[None]]) -> None:
        """Call `there`, which uses `open`, where the key is. Raises what it raises."""
        self._at = self._at or self._known() or next(self._seeds)
        try:
            try:
                await there()
            except MovedError as elsewhere:  # nothing is lost: another node of the cluster has the key
                self._at = redirected(elsewhere, self._at)
                await there()
        except ERRORS as error:
            self._at = redirected(error, self._at) if isinstance(error, MovedError) else None
            raise

    def open(self) -> open_link:
        """A new link there, in the database of the settings."""
        return open_link(self._settings, database=True, at=self._at)
