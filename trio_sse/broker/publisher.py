"""Messages that come over HTTP → Redis, so that every node gets them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from itertools import islice
from typing import NamedTuple

import trio
import trio_asyncio
from redis.exceptions import ResponseError

from trio_sse.broker.channels import copy_of
from trio_sse.broker.cluster_sender import ClusterSender
from trio_sse.broker.entries import Entries
from trio_sse.broker.errors import ReplicaError, of_redis
from trio_sse.broker.link import ERRORS
from trio_sse.broker.sender import Copy, Sender
from trio_sse.broker.source import AnySubscriber, Source
from trio_sse.delivery import messages
from trio_sse.delivery.receipts import Receipt, Receipts, together
from trio_sse.delivery.traces import Context, with_context
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
    """A message as it goes to Redis, and what is to become of it."""

    copies: list[Copy]
    """The payloads are the same."""
    expected: list[tuple[Receipts, Receipt]]
    """A receipt for each copy that comes back to this process."""
    numbers: list[int]
    """The partitions of the log that the copies go to, if it has some."""


class Publisher:
    """Publishes to the log if there is one, or to its partitions; else to the channel, or to the channels of
    those it is for."""

    def __init__(self, settings: Settings, subscriber: AnySubscriber, source: Source) -> None:
        self._settings = settings
        self._subscriber = subscriber
        self._source = source
        self._entries = Entries(settings) if settings.partitioned else None
        self._sender: Sender | ClusterSender = Sender(settings)
        if source.cluster is not None:
            self._sender = ClusterSender(settings, source.cluster)
        self._turns = trio.CapacityLimiter(_AT_ONCE)

    async def publish(
        self, payloads: Sequence[bytes], key: str | None, token: str = "", context: Context | None = None
    ) -> tuple[list[Published], bool]:
        """Publish all of `payloads`, or none; in a cluster it may be a part, and an UnavailableError says so.
        Returns the outcome of each, and whether the holder of `token` had published them before with the same
        Idempotency-Key `key`: then nothing is published now. `context`: what those belong to that do not say
        so themselves. A retry may have another one.

        Raises UnavailableError or ConflictError. After a cancellation it is not known whether Redis has them.
        """
        own = key and _own(key, token)
        fingerprint = _fingerprint(payloads)
        outgoing: list[_Outgoing] = []
        try:
            for number, payload in enumerate(payloads):
                if context is not None:
                    payload = with_context(payload, context, self._settings.max_message_bytes)
                outgoing.append(self._outgoing(payload, own, number))
            async with self._turns:
                repeated, told = await self._send(outgoing, own, fingerprint)
            was, *entries = told.split()
            if repeated and was != fingerprint:
                raise ConflictError
            if not repeated:
                with trio.move_on_after(DELIVERY_SECONDS):
                    for one in outgoing:
                        for _, receipt in one.expected:
                            await receipt.done.wait()
        finally:
            for one in outgoing:
                for receipts, receipt in one.expected:
                    receipts.forget(one.copies[0][1], receipt)
        ids = self._ids(outgoing, entries)
        return [
            Published(id, None) if repeated else _published(one, id)
            for one, id in zip(outgoing, ids, strict=True)  # noqa: A001
        ], repeated

    def _outgoing(self, payload: bytes, key: str | None, number: int) -> _Outgoing:
        settings, source, entries = self._settings, self._source, self._entries
        numbers: list[int] = []
        if entries is not None:
            notification = messages.decode(payload, settings.max_message_bytes)
            copies, numbers = entries.copies(notification, payload), entries.numbers(notification)
            heard = source.heard(notification)
        elif source.channels is not None:
            notification = messages.decode(payload, settings.max_message_bytes)
            # In a cluster a retry may publish what was published before.
            again = key is not None and source.cluster is not None
            copy = copy_of(f"{number} {key}".encode()) if again else None
            copies, heard = (
                list(source.channels.copies(notification, payload, copy)),
                source.heard(notification),
            )
        else:
            where = settings.redis_stream or settings.redis_channel
            copies, heard = [(where.encode(), payload)], [source.receipts]
        payload = copies[0][1]
        return _Outgoing(copies, [(one, one.expect(payload)) for one in heard], numbers)

    def _ids(self, outgoing: Sequence[_Outgoing], entries: Sequence[str]) -> list[str | None]:
        """The id of each message, as far as Redis has told them: one for each copy."""
        if len(entries) != sum(len(one.copies) for one in outgoing):
            return [None] * len(outgoing)
        if self._entries is None:
            return list(entries)
        left = iter(entries)
        return [self._entries.place(one.numbers, islice(left, len(one.copies))) for one in outgoing]

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


def _published(outgoing: _Outgoing, id: str | None) -> Published:  # noqa: A002
    if not outgoing.expected:  # nobody here follows whom it is for
        return Published(id, Receipt())
    receipt = together([receipt for _, receipt in outgoing.expected])
    return Published(id or receipt.id, receipt if receipt.done.is_set() else None)


def _own(key: str, token: str) -> str:
    """The key together with its token: the holder of another token can neither use nor probe it."""
    return f"{hashlib.sha256(token.encode()).hexdigest()} {key}"


def _fingerprint(payloads: Sequence[bytes]) -> str:
    return hashlib.sha256(b"\0".join(payloads)).hexdigest()
