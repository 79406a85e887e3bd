"""Pending replays on a walk through the log, and what it gathers for each."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import chain
from typing import TypeVar

from trio_sse.delivery.event_ids import EntryId
from trio_sse.delivery.history import PAGE_BYTES
from trio_sse.delivery.messages import Notification
from trio_sse.delivery.replay import Rest
from trio_sse.delivery.resume import PendingReplay
from trio_sse.delivery.targets import Target, each


@dataclass(slots=True, eq=False)
class NewReplay:
    """A pending replay on its first walk, and what the log has for it."""

    replay: PendingReplay
    top: EntryId
    """The log's last entry that belongs to the replay."""
    sequence: int
    """After this sequence, memory goes on."""
    frames: list[bytes] = field(default_factory=list)
    """Newest first."""
    size: int = 0
    count: int = 0
    paged: bool = False
    """Whether it is more than a page: then no frames are kept."""

    def keep(self, frame: bytes, room: int) -> int:
        """Add a frame that is older than those before. Returns the bytes of `room` it takes; negative: gives
        back."""
        if self.size + len(frame) <= min(PAGE_BYTES, self.size + room):
            self.frames.append(frame)
            self.size += len(frame)
            return len(frame)
        self.paged = True
        self.frames.clear()
        return -self.size


class BegunReplay:
    """A pending replay that needs its next page, and how far the log has been read for it."""

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
        """What is left after the place it has reached."""
        return self._rest._replace(after=self.at, pace=self._pace)

    @property
    def top(self) -> EntryId:
        return self._rest.top

    @property
    def moved(self) -> bool:
        return self.at > self._rest.after

    def accept(self, *, unbroken: bool, broken_off: EntryId) -> bool:
        """Whether the log's next entries belong to this page. They do not if messages are missing before
        them: then the next page begins with a gap."""
        told = broken_off == self._rest.broken_off or self.at >= broken_off
        if unbroken and told:
            return True
        if self.replay.older:
            return False
        self.replay.gap = self.replay.gap or "history_expired"
        self._rest = self._rest._replace(broken_off=broken_off)
        return True

    def add(self, entry: EntryId, frame: bytes, looked_through: int) -> None:
        """Add a frame to this page, for which `looked_through` entries were read."""
        self.replay.older.append(frame)
        self.at = entry
        self.size += len(frame)
        self.full = self.size >= PAGE_BYTES
        self._pace = looked_through + 1


_Replay = TypeVar("_Replay", NewReplay, BegunReplay)


def by_target(replays: Iterable[_Replay]) -> dict[Target, list[_Replay]]:
    """The replays of those that follow each target, without those whose connection has left."""
    found: dict[Target, list[_Replay]] = {}
    for replay in replays:
        if connection := replay.replay.connection:
            for target in each(connection.follows):
                found.setdefault(target, []).append(replay)
    return found


def takers(
    notification: Notification, replays: list[_Replay], by_target: dict[Target, list[_Replay]]
) -> Iterable[_Replay]:
    """The replays that `notification` is for, each once."""
    found: Iterable[_Replay] = replays
    if notification.targets is not None:
        ways = (by_target.get(target, ()) for target in notification.targets)
        found = dict.fromkeys(chain.from_iterable(ways))
    if notification.elsewhere:
        found = [one for one in found if not _has_it_from_elsewhere(one.replay, notification)]
    return found


def _has_it_from_elsewhere(replay: PendingReplay, notification: Notification) -> bool:
    """Whether the connection gets it from another partition, or has left."""
    connection = replay.connection
    return connection is None or not connection.skips.isdisjoint(notification.elsewhere)
