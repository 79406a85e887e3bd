"""Messages that come over HTTP → Redis, so that every node gets them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import trio
import trio_asyncio
from redis.exceptions import ResponseError

from trio_sse.broker.channels import copy_of
from trio_sse.broker.cluster_sender import ClusterSender
from trio_sse.broker.errors import ReplicaError, of_redis
from trio_sse.broker.link import ERRORS
from trio_sse.broker.sender import Sender
from trio_sse.broker.source import AnySubscriber, Source
from trio_sse.delivery import messages
from trio_sse.delivery.hub import Hub
from trio_sse.delivery.receipts import Receipt
from trio_sse.settings import Settings

DELIVERY_SECONDS = 1.0
"""How long an answer waits until the messages are back from Redis and dispatched. Then it is given without
receipts."""
_AT_ONCE = 16


class UnavailableError(Exception):
    """Redis did not accept the messages, or did not answer whether it did (`unsure`). The text is fit for a
    log line."""

    def __init__(self, text: str, *, unsure: bool) -> None:
        super().__init__(text)
        self.unsure = unsure


class ConflictError(Exception):
    """The Idempotency-Key was used with other messages."""


class Published(NamedTuple):
    """A message in Redis: its id, and its receipt on this node. Each is None if not known."""

    id: str | None
    receipt: Receipt | None


class _Outgoing(NamedTuple):
    """A message as it goes to Redis."""

    copies: list[tuple[bytes, bytes]]
    """Channel and payload of each. The payloads are the same."""
    heard: bool
    """Whether one comes back to this process."""


class Publisher:
    """Publishes to the log if there is one, else to the channel, or to the channels of those it is for."""

    def __init__(self, settings: Settings, hub: Hub, subscriber: AnySubscriber, source: Source) -> None:
        self._settings = settings
        self._hub = hub
        self._subscriber = subscriber
        self._source = source
        self._sender: Sender | ClusterSender = Sender(settings)
        if source.cluster is not None:
            self._sender = ClusterSender(settings, source.cluster)
        self._turns = trio.CapacityLimiter(_AT_ONCE)

    async def publish(
        self, payloads: Sequence[bytes], key: str | None, token: str = ""
    ) -> tuple[list[Published], bool]:
        """Publish all of `payloads`, or none; in a cluster it may be a part, and an UnavailableError says so.
        Returns the outcome of each, and whether the holder of `token` had published them before with the same
        Idempotency-Key `key`: then nothing is published now.

        Raises UnavailableError or ConflictError. After a cancellation it is not known whether Redis has them.
        """
        expect, forget = self._hub.receipts.expect, self._hub.receipts.forget
        own = key and _own(key, token)
        outgoing = [self._outgoing(payload, own, number) for number, payload in enumerate(payloads)]
        receipts = [(one.copies[0][1], expect(one.copies[0][1])) for one in outgoing]
        fingerprint = _fingerprint(payloads)
        try:
            for one, (_, receipt) in zip(outgoing, receipts, strict=True):
                if not one.heard:
                    receipt.done.set()
            async with self._turns:
                repeated, told = await self._send(outgoing, own, fingerprint)
            was, *entries = told.split()
            if repeated and was != fingerprint:
                raise ConflictError
            ids: list[str | None] = [*entries] or [None] * len(payloads)
            if not repeated:
                with trio.move_on_after(DELIVERY_SECONDS):
                    for _, receipt in receipts:
                        await receipt.done.wait()
        finally:
            for payload, receipt in receipts:
                forget(payload, receipt)
        return [
            Published(id or receipt.id, receipt if receipt.done.is_set() else None)
            for id, (_, receipt) in zip(ids, receipts, strict=True)  # noqa: A001
        ], repeated

    def _outgoing(self, payload: bytes, key: str | None, number: int) -> _Outgoing:
        settings, channels, interest = self._settings, self._source.channels, self._source.interest
        if channels is None or interest is None:
            where = settings.redis_stream or settings.redis_channel
            return _Outgoing([(where.encode(), payload)], heard=True)
        notification = messages.decode(payload, settings.max_message_bytes)
        # In a cluster a retry may publish what was published before.
        again = key is not None and self._source.cluster is not None
        copy = copy_of(f"{number} {key}".encode()) if again else None
        copies = list(channels.copies(notification, payload, copy))
        return _Outgoing(copies, heard=interest.hears(notification.targets))

    async def _send(
        self, outgoing: Sequence[_Outgoing], key: str | None, fingerprint: str
    ) -> tuple[bool, str]:
        loop = self._subscriber.loop
        if loop is None:
            raise UnavailableError("not connected to Redis yet", unsure=False)
        copies = [copy for one in outgoing for copy in one.copies]
        try:
            answer: tuple[bool, str] = await trio_asyncio.aio_as_trio(self._sender.send, loop=loop)(
                copies, key, fingerprint
            )
        except ERRORS as error:
            text = of_redis(error, self._settings)
            raise UnavailableError(text, unsure=not isinstance(error, ResponseError | ReplicaError)) from None
        return answer


def _own(key: str, token: str) -> str:
    """The key together with its token: the holder of another token can neither use nor probe it."""
    return f"{hashlib.sha256(token.encode()).hexdigest()} {key}"


def _fingerprint(payloads: Sequence[bytes]) -> str:
    return hashlib.sha256(b"\0".join(payloads)).hexdigest()
