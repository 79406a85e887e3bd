"""Messages that come over HTTP → a cluster, which publishes each at a master of its own. asyncio only."""

from __future__ import annotations

from collections.abc import Sequence

from trio_sse.broker.cluster_map import ClusterMap
from trio_sse.broker.open_links import OpenLinks
from trio_sse.broker.post import Post
from trio_sse.broker.sender import IDEMPOTENCY_SECONDS, Copy, idempotency_key
from trio_sse.settings import Settings

PENDING_SECONDS = 60

_PENDING = "?"


class ClusterSender:
    """Publishes over links of its own for each call."""

    def __init__(self, settings: Settings, cluster: ClusterMap) -> None:
        self._settings = settings
        self._post = Post(cluster)

    async def send(self, copies: Sequence[Copy], key: str | None, fingerprint: str) -> tuple[bool, str]:
        """Publish all, unless that was done before with this Idempotency-Key `key`. Returns whether it was,
        and the fingerprint that was given then, or is now.

        Raises one of link.ERRORS. A ResponseError means that nothing was published; after another one a part
        may be.
        """
        async with OpenLinks(self._settings) as links:
            if key is None:
                await self._post.publish(copies, links)
                return False, fingerprint
            kept = idempotency_key(self._settings.redis_channel, key).encode()
            # Masters are many, so it may be published in part, or cancelled in between. Until it is known to
            # be done, a retry publishes all once more; those who got a message know it by its copy.
            pending = (f"{_PENDING}{fingerprint}", "NX", "GET", "EX", PENDING_SECONDS)
            told = await self._post.at_home(kept, links, "SET", kept, *pending)
            if told is not None:
                was = told.decode()
                if not was.startswith(_PENDING) or was.removeprefix(_PENDING) != fingerprint:
                    return True, was.removeprefix(_PENDING)
            await self._post.publish(copies, links)
            await self._post.at_home(kept, links, "SET", kept, fingerprint, "EX", IDEMPOTENCY_SECONDS)
        return False, fingerprint
