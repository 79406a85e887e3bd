"""Pending replays on a walk through the log, and what it gathers for each."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TypeVar

from trio_sse.delivery.event_ids import EntryId
from trio_sse.delivery.history import PAGE_BYTES
from trio_sse.delivery.messages import Notification
from trio_sse.delivery.replay import Rest
from trio_sse.delivery.resume import PendingReplay


@dataclass(slots=True, eq=False)
class NewReplay:
    """A pending replay that is looked at first, and what the log is found to have for it."""

    replay: PendingReplay
    top: EntryId
    """The entry up to which the log is to tell."""
    sequence: int
    """The sequence from which on memory does."""
    frames: list[bytes] = field(default_factory=list)
    """Newest first."""
    size: int = 0
    count: int = 0
    paged: bool = False
    """Whether it is more than a page: then no frames are kept."""

    def keep(self, frame: bytes, room: int) -> int:
        """One more, older than those before. Returns how much of `room` it takes, or gives back."""
        if self.size + len(frame) <= min(PAGE_BYTES, self.size + room):
            self.frames.append(frame)
            self.size += len(frame)
            return len(frame)
        self.paged = True
        self.frames.clear()
        return -self.size


class BegunReplay:
    """A pending replay that needs its next page, and how far the log has been looked through for it."""

    __slots__ = ("_pace", "_rest", "at", "full", "replay", "size")

    def __init__(self, replay: PendingReplay, rest: Rest) -> None:
        self.replay = replay
        self.at = rest.after
        self.full = False
        self.size = 0
        self._rest = rest
        self._pace = rest.pace
        replay.older.clear()

    @property
    def rest(self) -> Rest:
        """What is left behind the place it has come to."""
        return self._rest._replace(after=self.at, pace=self._pace)

    @property
    def top(self) -> EntryId:
        return self._rest.top

    @property
    def moved(self) -> bool:
        return self.at > self._rest.after

    def accept(self, *, unbroken: bool, broken_off: EntryId) -> bool:
        """Whether what the log has next belongs to this page. Not behind something that is missing: that
        is told at the beginning of the next one."""
        told = broken_off == self._rest.broken_off or self.at >= broken_off
        if unbroken and told:
            return True
        if self.replay.older:
            return False
        self.replay.gap = self.replay.gap or "history_expired"
        self._rest = self._rest._replace(broken_off=broken_off)
        return True

    def add(self, entry: EntryId, frame: bytes, looked_through: int) -> None:
        """One more for this page, for which so many entries have been looked through."""
        self.replay.older.append(frame)
        self.at = entry
        self.size += len(frame)
        self.full = self.size >= PAGE_BYTES
        self._pace = looked_through + 1


_Replay = TypeVar("_Replay", NewReplay, BegunReplay)


def by_user(replays: Iterable[_Replay]) -> dict[str, list[_Replay]]:
    """The replays of each user whose connection is still here."""
    found: dict[str, list[_Replay]] = {}
    for replay in replays:
        if connection := replay.replay.connection:
            found.setdefault(connection.user_id, []).append(replay)
    return found


def takers(
    notification: Notification, replays: list[_Replay], by_user: dict[str, list[_Replay]]
) -> Iterable[_Replay]:
    """The replays that `notification` is for."""
    if notification.users is None:
        return replays
    return [replay for user in notification.users for replay in by_user.get(user, ())]
