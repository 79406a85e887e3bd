"""Bodies of requests: how much of one is kept."""

from __future__ import annotations

from collections.abc import Callable

from quart_trio.wrappers.request import TrioBody, TrioRequest

MAX_BODY = 65536
"""Bytes of a body, but for POST /publish with a token: no other request has a use for any."""


class Body(TrioBody):
    """A body that is kept as far as its bound. Of one that is longer nothing is kept, and reading it raises
    RequestEntityTooLarge."""

    def __init__(self, expected: int | None, bound: int | None) -> None:
        super().__init__(expected, bound)
        self._bound = bound or 0
        self._received = 0
        self._ignored: Callable[[], None] | None = None

    @property
    def too_long(self) -> bool:
        """Whether more came, or was announced, than is accepted."""
        return self._must_raise is not None or self._received > self._bound

    def append(self, data: bytes) -> None:
        self._received += len(data)
        if self._ignored is None:
            super().append(data)
            if self.too_long:
                self.clear()
        elif self.too_long:
            self._ignored()

    def ignore(self, too_long: Callable[[], None]) -> None:
        """Keep nothing of it, neither what came nor what comes. `too_long` is called where it is."""
        self._ignored = too_long
        self.clear()


class Request(TrioRequest):
    """A request whose body is such a one."""

    body_class: type[Body] = Body
