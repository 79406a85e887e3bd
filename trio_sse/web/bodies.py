"""Request bodies, and how much of one is kept."""

from __future__ import annotations

from collections.abc import Callable

from quart_trio.wrappers.request import TrioBody, TrioRequest

MAX_BODY = 65536
"""Bytes of a body, except for POST /publish with a token. No other request needs a body."""


class Body(TrioBody):
    """A body that is kept up to its bound. Nothing is kept of a longer one, and reading it raises
    RequestEntityTooLarge."""

    def __init__(self, expected: int | None, bound: int | None) -> None:
        super().__init__(expected, bound)
        self._bound = bound or 0
        self._received = 0
        self._ignored: Callable[[], None] | None = None

    @property
    def too_long(self) -> bool:
        """Whether the body, or its announced length, exceeds the bound."""
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
        """Keep nothing of the body, neither what has arrived nor what follows. `too_long` is called if it
        exceeds the bound."""
        self._ignored = too_long
        self.clear()


class Request(TrioRequest):
    """A request with a bounded body."""

    body_class: type[Body] = Body
