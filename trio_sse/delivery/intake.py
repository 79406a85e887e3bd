"""Payloads from Redis → hub, from the channel and from the log."""

from __future__ import annotations

import logging
from functools import partial

import structlog

from trio_sse.counters import add_to
from trio_sse.delivery import messages
from trio_sse.delivery.copies import Copies
from trio_sse.delivery.event_ids import EntryId
from trio_sse.delivery.flusher import settle
from trio_sse.delivery.hub import Hub
from trio_sse.delivery.log_limits import LogLimit
from trio_sse.delivery.messages import AS_IT_SAYS, Decode, Targets
from trio_sse.delivery.receipts import Receipt
from trio_sse.delivery.recorder import NO_SEQUENCE

log = structlog.stdlib.get_logger("trio_sse.delivery.intake")
_debug = partial(logging.getLogger("trio_sse.delivery.intake").isEnabledFor, logging.DEBUG)

REPORT_SECONDS = 1.0
"""Least seconds between two log lines about payloads that cannot be delivered. Those in between are
counted."""


class Intake:
    """Decodes what was received, claims its receipt, and lets the hub dispatch it. Never waits.

    `with intake:` stands around all that one read of Redis brought: it is flushed together at the end.
    Without, each payload is left to the flusher.
    """

    def __init__(self, hub: Hub, max_message_bytes: int, decode: Decode = messages.decode) -> None:
        self._hub = hub
        self.decode = decode
        """Reads what is received."""
        self._max_bytes = max_message_bytes
        self._log_limit = LogLimit(REPORT_SECONDS)
        self._copies = Copies(hub.history.now)

    def __enter__(self) -> None:
        self._hub.begin_read()

    def __exit__(self, *_: object) -> None:
        self._hub.end_read()
        settle(self._hub)

    def receive(self, payload: bytes | None, entry: EntryId | None = None, to: Targets = AS_IT_SAYS) -> None:
        """Take a payload of a channel, which is for `to`, or of the log's `entry`. None: the entry has no
        payload.

        A payload that cannot be delivered is counted and logged.
        """
        hub = self._hub
        try:
            if payload is None:
                raise messages.MessageError(  # noqa: TRY301
                    "an entry of SSE_REDIS_STREAM without the field `payload`", "no_payload"
                )
            notification = self.decode(payload, self._max_bytes, entry, to)
        except messages.MessageError as error:
            hub.counters.rejected += 1
            if hub.recorder is not None:
                hub.recorder.bad_message(str(error), payload or b"", entry, hub.history.sources.partition)
            add_to(hub.counters.bad, error.kind)
            self._report(str(error), payload or b"")
            return
        if notification.copy is not None and not self._copies.is_new(notification.copy):
            return
        receipt = hub.receipts.claim(payload) if hub.receipts.expected else None
        if notification.reply_to is not None:
            receipt = hub.receipts.asked(notification.reply_to, receipt)
        traces, trace = hub.traces, None
        if traces is not None:
            partition = hub.history.sources.partition
            trace = traces.begin(payload, from_log=entry is not None, partition=partition)
            if trace is not None:
                receipt = receipt or Receipt()
        before, here = hub.history.latest, hub.dispatch(notification, entry, receipt)
        if hub.recorder is not None:
            hub.recorder.message(
                hub.history.latest if hub.history.latest != before else NO_SEQUENCE,
                entry or hub.history.last_entry,
                notification.targets,
                payload,
                notification.key,
                notification.expires_at,
                from_log=entry is not None,
                partition=hub.history.sources.partition,
            )
        # Of several processes most have nobody for a message. To find out that the line is not wanted takes
        # structlog, with the users, three times as long as all else.
        if here:
            if traces is not None and receipt is not None and trace is not None and traces.have_room():
                receipt.trace = trace
            if hub.delays.wanted:
                hub.delays.begin(payload, entry)
            return
        if receipt is not None:
            receipt.reply_to = None  # who is elsewhere is no business of this node
        if len(hub) and _debug():
            log.debug(
                "no connection for this message",
                users=notification.users,
                topics=notification.topics,
                connected=hub.users[:10],
            )

    def _report(self, reason: str, payload: bytes) -> None:
        if (unlogged := self._log_limit.passed()) is None:
            return
        found: dict[str, object] = {"bytes": len(payload)}
        if _debug():
            found["payload"] = payload[:800].decode("utf-8", "backslashreplace")[:200]
        log.warning("message skipped", reason=reason, **found, skipped_unlogged=unlogged)
