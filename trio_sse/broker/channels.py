"""Channels by key: the names that targets have in Redis. Pure."""

from __future__ import annotations

import base64
import hashlib
import secrets
from collections.abc import Iterator

from trio_sse.delivery.messages import Notification, Targets, with_copy
from trio_sse.delivery.targets import ALL, Target, topic, topic_name


class Channels:
    """`<prefix>:user:<id>`, `<prefix>:topic:<name>` and `<prefix>:all`."""

    def __init__(self, prefix: str) -> None:
        self._user = f"{prefix}:user:".encode()
        self._topic = f"{prefix}:topic:".encode()
        self._all = f"{prefix}:all".encode()

    def of(self, target: Target) -> bytes:
        """The channel of a user, of a topic, or of ALL."""
        if target == ALL:
            return self._all
        name = topic_name(target)
        return self._user + target.encode() if name is None else self._topic + name.encode()

    def target_of(self, channel: object) -> Target | None:
        """The target of a channel. None if it is none of these."""
        if type(channel) is not bytes:
            return None
        try:
            if channel.startswith(self._user):
                return channel[len(self._user) :].decode()
            if channel.startswith(self._topic):
                return topic(channel[len(self._topic) :].decode())
        except UnicodeDecodeError:
            return None
        return ALL if channel == self._all else None

    def copies(
        self, notification: Notification, payload: bytes, copy: str | None = None
    ) -> Iterator[tuple[bytes, bytes]]:
        """Channel and payload of each copy that a message is published as: one for each target. With `copy`,
        which is 22 characters of base64url, those who get one know another one that is published later."""
        targets = (ALL,) if notification.targets is None else notification.targets
        if len(targets) > 1 or copy is not None:
            payload = with_copy(payload, copy or secrets.token_urlsafe(16))
        for target in targets:
            yield self.of(target), payload


def copy_of(message: bytes) -> str:
    """What all copies of a message have in common, each time that it is published: `message` tells it from
    any other one."""
    return base64.urlsafe_b64encode(hashlib.sha256(message).digest()[:16])[:22].decode()


def targets_of(target: Target) -> Targets:
    """What a message is for that came by the channel of this target."""
    return None if target == ALL else (target,)
