"""A stream as the body of a response that Quart sends: over HTTP/2, and under other servers."""

from __future__ import annotations

import contextlib
import math
from collections.abc import AsyncIterator, Iterator
from types import TracebackType

from quart.wrappers.response import ResponseBody

from trio_sse.access.admission import Accepted
from trio_sse.delivery.asgi_source import AsgiSource
from trio_sse.delivery.connection import Connection
from trio_sse.service import Service


class StreamBody(ResponseBody):
    """A stream as a response body. It is in the hub while it is `joined`, which begins before the head of the
    response is sent: browsers take that for the open stream."""

    def __init__(self, service: Service, accepted: Accepted) -> None:
        self._service = service
        self._accepted = accepted
        self._connection: Connection | None = None
        self._source: AsgiSource | None = None
        self._ended = False

    @property
    def ended(self) -> float:
        """When the stream ended, in Trio's time; math.inf before. After that only bytes that waited by then
        are sent."""
        return self._source.ended if self._source else math.inf

    def end(self) -> None:
        """End the stream normally, now or as soon as it has begun."""
        self._ended = True
        if self._connection is not None:
            self._connection.close()

    @contextlib.contextmanager
    def joined(self) -> Iterator[None]:
        """The scope in which the response is sent. The stream leaves the hub with it, however it ends."""
        self._connection = self._service.open(self._accepted)
        try:
            self._source = AsgiSource(self._connection)
            self._service.hub.by_server += 1
            try:
                if self._ended:
                    self._connection.close()
                yield
            finally:
                self._service.hub.by_server -= 1
        finally:
            self._service.release(self._connection)

    async def __aenter__(self) -> AsyncIterator[bytes]:
        return self

    async def __aexit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        pass

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        assert self._source is not None
        data = await self._source.next()
        if data is None:
            raise StopAsyncIteration
        return data
