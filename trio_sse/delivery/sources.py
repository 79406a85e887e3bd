"""Where event ids come from, the log, the channel or another process, and what follows from it. Pure."""

from __future__ import annotations

from trio_sse.delivery.event_ids import EntryId, Position, entry_text
from trio_sse.delivery.partitions import Partition, part_text, place_text


class Sources:
    """What is known of the log and the channel, and the rules for ids that follow from it.

    An entry of the log has one id everywhere. A sequence belongs to one process. So a client with an id of
    another process may have got messages by the channel that are not known here, and a log that was made anew
    gives ids a second time. Each rule returns the reason of the `gap` to declare, or None.
    """

    __slots__ = ("_behind", "_doubtful", "caught_up_at", "channel_since", "has_log", "partition", "process")

    def __init__(self, process: str, *, has_log: bool = False, partition: Partition | None = None) -> None:
        self.process = process
        self.partition = partition
        """Of which partition of a log this is all. None: it has none."""
        self.has_log = has_log
        """Whether ids are those of a log."""
        self.channel_since: int | None = None
        """With a log: the sequence of the first message that came by the channel."""
        self.caught_up_at: int | None = None
        """The sequence at which the log had been read to its end: later entries are newer than the
        subscription to the channel. None before."""
        self._behind = False
        self._doubtful: tuple[EntryId, EntryId] | None = None

    def channel_brought(self, sequence: int) -> None:
        """This message came by the channel."""
        if self.has_log and self.channel_since is None:
            self.channel_since = sequence

    def log_is_behind(self) -> None:
        """The log is read from where reading stopped. What came by the channel meanwhile is not known."""
        self._behind = True
        self.caught_up_at = None

    def log_caught_up(self, sequence: int) -> None:
        """The log has been read to its end at `sequence`. The first time since `log_is_behind` counts."""
        if self._behind:
            self._behind = False
            self.caught_up_at = sequence

    def log_made_anew(self, goes_on: EntryId, was_at: EntryId) -> None:
        """The log had been read up to `was_at`. Another one goes on after `goes_on`."""
        after, until = self._doubtful or (goes_on, was_at)
        self._doubtful = (min(after, goes_on), max(until, was_at))

    def entry_text(self, entry: EntryId | None) -> str:
        """The id of the log's entry. None: it is not known."""
        if self.partition is not None:
            return place_text([(self.partition, part_text(self.partition, entry))])
        return entry_text(entry or (0, 0))

    def text(self, entry: EntryId | None, sequence: int) -> str:
        """The id of everything up to `sequence`, where `entry` is the last one of the log."""
        if self.partition is not None:  # nothing comes by a channel
            return self.entry_text(entry)
        if entry is None:
            return f"{self.process}.{sequence}"
        if self.channel_since is None or sequence < self.channel_since:
            return entry_text(entry)
        return f"{entry_text(entry)}/{self.process}.{sequence}"

    def is_ours(self, position: Position, latest: int) -> bool:
        """Whether this process gave the id: then its sequence counts."""
        return position.process == self.process and position.sequence <= latest

    def is_mixed(self, position: Position) -> bool:
        """Whether its client may have got messages by the channel."""
        return position.process is not None or self.channel_since is not None

    def is_doubtful(self, entry: EntryId) -> bool:
        """Whether it may be an entry of the log from before it was made anew."""
        return self._doubtful is not None and self._doubtful[0] < entry <= self._doubtful[1]

    def entry_doubt(self, entry: EntryId) -> str | None:
        """For an entry that is in memory or still to come."""
        return "unknown_id" if self.is_doubtful(entry) else None

    def channel_doubt(self, sequence: int) -> str | None:
        """For an entry's id with this sequence here: newer messages may have come by the channel before this
        process subscribed."""
        at = self.caught_up_at
        unknown = self._behind or (at is not None and sequence <= at)
        return "unknown_id" if unknown and self.channel_since is not None else None

    def log_doubt(self, position: Position, *, ours: bool) -> str | None:
        """For a place that only the log has: it has nothing of the channel."""
        if self.is_mixed(position):
            return "history_expired" if ours else "unknown_id"
        return None if position.entry is None else self.entry_doubt(position.entry)

    def replay_doubt(self, sequence: int) -> str | None:
        """For a replay from the log up to `sequence`: what came by the channel before is not in it."""
        since = self.channel_since
        return "unknown_id" if since is not None and since <= sequence else None

    def lost_behind(self, entry: EntryId) -> str | None:
        """For a connection that fell out of memory at `entry`: the log has nothing of the channel, and may
        have been made anew."""
        gone = self.channel_since is not None or self.is_doubtful(entry)
        return "history_expired" if gone else None
