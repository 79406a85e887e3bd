"""What sets a message apart that is state, or that is of no use later. Pure."""

from __future__ import annotations

import math

import msgspec

from trio_sse.delivery.targets import Target

Slot = tuple[tuple[Target, ...] | None, str]
"""Targets and key of a message that is state: the newest of a slot counts."""


class Mark(msgspec.Struct, gc=False, frozen=True):
    """Most messages have none."""

    slot: Slot | None = None
    expires: float = math.inf
    """On the hub's clock."""
    notice: str | None = None
    """The kind of a notice of the service that has its place among the messages."""
    elsewhere: tuple[Target, ...] = ()
    """See `Notification.elsewhere`."""


Part = tuple[int, bytes, float]
"""A frame that waits: its sequence, the frame, and when it expires."""
