"""What a client gets before anything newer: a gap for what it lost, and the notices that wait."""

from __future__ import annotations

from trio_sse.delivery.history import History
from trio_sse.delivery.notices import gap


class Owed:
    """Belongs to one connection. Made when something has to wait, and dropped when it has been sent."""

    __slots__ = ("_first", "_last", "dropped", "notices")

    def __init__(self) -> None:
        self.notices: dict[str, bytes] = {}
        """The latest notice of each kind."""
        self.dropped = 0
        """Messages that had no room."""
        self._first = self._last = 0

    def drop(self, sequence: int, *, after: int) -> None:
        """This message had no room. `after` is the last one that had."""
        if not self.dropped:
            self._first = after
        self.dropped += 1
        self._last = sequence

    def frames(self, history: History) -> bytes:
        """All of it, ready to be written. The gap comes first, since it is the oldest."""
        said = b"".join(self.notices.values())
        if not self.dropped:
            return said
        replay_after = history.text(self._first) if self._first >= history.floor else None
        return gap("slow_client", self.dropped, id=history.text(self._last), replay_after=replay_after) + said
