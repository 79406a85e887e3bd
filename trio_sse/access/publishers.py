"""Who may use POST /publish, and for which messages."""

from __future__ import annotations

import hmac

from trio_sse.access.topics import Grants, entry_problem
from trio_sse.delivery.messages import Notification
from trio_sse.settings import Settings, SettingsError


class Publishers:
    """The tokens of SSE_PUBLISH_TOKENS, and the topics that some of them are bound to.

    Raises SettingsError if one is bound to what is no topic and no pattern. What was meant to be one token
    may have been taken apart, so the error shows nothing of it but its place.
    """

    def __init__(self, settings: Settings) -> None:
        bindings = settings.publish_bindings
        wrong = [
            f"SSE_PUBLISH_TOKENS: entry {number} is bound to what is no topic and no pattern ({problem})."
            for number, (_, entry) in enumerate(bindings, 1)
            if entry is not None and (problem := entry_problem(entry))
        ]
        if wrong:
            raise SettingsError(wrong)
        bound: dict[str, list[str]] = {}
        for token, entry in bindings:
            bound.setdefault(token, []).extend([] if entry is None else [entry])
        self._bounds = {token: Grants(entries) if entries else None for token, entries in bound.items()}

    def know(self, given: str) -> bool:
        """Whether this is one of the tokens. It is compared with all of them, each in constant time."""
        same = [hmac.compare_digest(given.encode(), token.encode()) for token in self._bounds]
        return any(same)

    def refusal(self, token: str, notification: Notification) -> str | None:
        """Why the holder of one of the tokens may not publish this message, or None. A token that is bound
        is for messages to its topics, and to nobody else."""
        bounds = self._bounds[token]
        if bounds is None:
            return None
        if notification.users != () or not notification.topics:
            return "this token is for topics, and the message is for a user or for everybody"
        for topic in notification.topics:
            if not bounds.allows(topic):
                return f"this token is not for the topic {topic!r}"
        return None
