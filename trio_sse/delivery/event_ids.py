"""Event ids: what a client sends back as Last-Event-ID, and what it says about what the client has. Pure.

    9f3c12ab77de.42                       the channel: the 42nd message this process knows of
    1795462559402-0                       the log: an entry's own id in Redis, the same for every process
    1795462559402-0/9f3c12ab77de.42       both: with a log, once messages come by the channel too

The two kinds have different shapes, so neither is ever taken for the other.
"""

from __future__ import annotations

import re
from typing import NamedTuple

EntryId = tuple[int, int]
"""An entry of the log: milliseconds and a number within them. Ordered as Redis orders them."""

FIRST_MILLISECOND = 1_000_000_000_000
"""A lower id is not a time, which would be in the year 2001: the publisher chose it."""

MAX_LENGTH = 100
"""Characters. No id of this service is longer."""

_POSITION = re.compile(r"(?:([0-9]{1,20})-([0-9]{1,20}))?(/?)(?:([0-9a-f]{12})\.([0-9]{1,18}))?")


class Position(NamedTuple):
    """How far a client has come, in the log, and in what one process has received."""

    entry: EntryId | None
    process: str | None
    sequence: int


def parse(text: str) -> Position | None:
    """Read a Last-Event-ID. None when it is no id of this service. Never raises."""
    if len(text) > MAX_LENGTH:
        return None
    match = _POSITION.fullmatch(text)
    if match is None:
        return None
    milliseconds, number, slash, process, sequence = match.groups()
    if bool(slash) != bool(milliseconds and process) or not (milliseconds or process):
        return None
    entry = (int(milliseconds), int(number)) if milliseconds else None
    return Position(entry, process, int(sequence or 0))


def entry_id(text: str | bytes) -> EntryId:
    """Read an id as Redis writes it."""
    milliseconds, _, number = (text if isinstance(text, str) else text.decode("ascii")).partition("-")
    return int(milliseconds), int(number)


def entry_text(id: EntryId) -> str:  # noqa: A002
    return f"{id[0]}-{id[1]}"
