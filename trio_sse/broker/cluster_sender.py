"""Messages that come over HTTP → a cluster, where each copy goes to a master of its own. asyncio only."""

from __future__ import annotations

from collections.abc import Sequence

from trio_sse.broker.cluster_map import ClusterMap
from trio_sse.broker.entries import Entries
from trio_sse.broker.open_links import OpenLinks
from trio_sse.broker.post import Post
from trio_sse.broker.sender import IDEMPOTENCY_SECONDS, Copy, idempotency_key
from trio_sse.settings import Settings

PENDING_SECONDS = 60

_PENDING = "?"


class ClusterSender:
    """Publishes over links of its own for each call: to channels, or to the partitions of the log."""

    def __init__(self, settings: Settings, cluster: ClusterMap) -> None:
        self._settings = settings
        self._post = Post(cluster)
        self._entries = Entries(settings) if settings.partitioned else None

    async def send(self, copies: Sequence[Copy], key: str | None, fingerprint: str) -> tuple[bool, str]:
        """Publish all, unless that was done before with this Idempotency-Key `key`. Returns whether it was,
        and the fingerprint that was given then, or is now, with the ids of the log's entries behind it.

        Raises one of link.ERRORS. A ResponseError means that nothing was published; after another one a part
        may be.
        """
        async with OpenLinks(self._settings) as links:
            if key is None:
                return False, await self._publish(copies, links, fingerprint)
            # Masters are many, so it may be published in part, or cancelled in between. Until it is known to
            # be done, a retry publishes what is missing: those who got a message by a channel know it by its
            # copy, and a partition knows what it has.
            target, seconds = self._settings.redis_channel, PENDING_SECONDS
            if self._entries is not None:
                target, seconds = self._entries.name, IDEMPOTENCY_SECONDS
            kept = idempotency_key(target, key).encode()
            pending = (f"{_PENDING}{fingerprint}", "NX", "GET", "EX", seconds)
            told = await self._post.at_home(kept, links, "SET", kept, *pending)
            if told is not None:
                was = told.decode()
                if not was.startswith(_PENDING) or was.removeprefix(_PENDING) != fingerprint:
                    return True, was.removeprefix(_PENDING)
            done = await self._publish(copies, links, fingerprint, key)
            if not done.startswith(fingerprint):
                return True, done
            await self._post.at_home(kept, links, "SET", kept, done, "EX", IDEMPOTENCY_SECONDS)
        return False, done

    async def _publish(
        self, copies: Sequence[Copy], links: OpenLinks, fingerprint: str, key: str | None = None
    ) -> str:
        """Returns the fingerprint, and the ids behind it if there are any."""
        entries = self._entries
        if entries is None:
            await self._post.publish(copies, links)
            return fingerprint
        if key is None:
            ids = await self._post.give([entries.order(copy) for copy in copies], links)
            return " ".join([fingerprint, *[id.decode() for id in ids]])  # noqa: A001
        places: dict[bytes, list[int]] = {}
        for place, (partition, _) in enumerate(copies):
            places.setdefault(partition, []).append(place)
        orders = [
            entries.once(partition, [copies[place][1] for place in own], key, fingerprint)
            for partition, own in places.items()
        ]
        told: dict[int, str] = {}
        for own, answer in zip(places.values(), await self._post.give(orders, links), strict=True):
            was, *found = str(answer.decode()).split()
            if was != fingerprint:  # a partition knows the key, and the master that should was lost
                return was
            told.update(zip(own, found, strict=True))
        return " ".join([fingerprint, *[told[place] for place in range(len(copies))]])
