"""What this process does now, for the live view."""

from __future__ import annotations

import heapq
import math
import time

import trio

from trio_sse.admin.explaining import found, refusal_report, stream_report
from trio_sse.admin.reports import Overview, TroubleReport
from trio_sse.broker.control import Node
from trio_sse.delivery.hub import Hub
from trio_sse.delivery.recorder import Recorder
from trio_sse.delivery.stream_record import StreamRecord
from trio_sse.delivery.targets import topic_name

MOST_TOPICS = 20
MOST_SLOW = 20
MOST_TROUBLES = 20

_LOOKS = 5
_LOOK_SECONDS = 0.01


async def overview(node: Node, hub: Hub, recorder: Recorder, problem: str | None) -> Overview:
    """Takes a twentieth of a second, to see how late the event loop is."""
    late = await _loop_seconds()
    waiting = await found(recorder.open.values(), _waits)
    targets = hub.targets
    topics = [target for target in targets if topic_name(target) is not None]
    most = heapq.nlargest(MOST_TOPICS, topics, hub.count)
    newest = next((one for one in reversed(recorder.messages.items) if one.from_log), None)
    lag = None
    if newest is not None and newest.entry is not None:
        lag = max(0.0, newest.at - newest.entry[0] / 1000)
    return Overview(
        node,
        time.time(),
        recorder.since,
        len(hub),
        len(targets) - len(topics),
        len(topics),
        [(topic_name(target) or "", hub.count(target)) for target in most],
        hub.counters.snapshot(),
        hub.pending_bytes,
        late,
        lag,
        problem,
        [stream_report(one, node) for one in heapq.nlargest(MOST_SLOW, waiting, _patience)],
        len(waiting),
        [TroubleReport(*one) for one in list(recorder.troubles)[-MOST_TROUBLES:]],
        [refusal_report(one) for one in list(recorder.refusals)[-MOST_TROUBLES:]],
    )


async def _loop_seconds() -> float:
    """How late a task runs that has slept, at the most of a few times."""
    late = 0.0
    for _ in range(_LOOKS):
        due = trio.current_time() + _LOOK_SECONDS
        await trio.sleep_until(due)
        late = max(late, trio.current_time() - due)
    return late


def _waits(record: StreamRecord) -> bool:
    return any(one.waiting for one in record.strands)


def _patience(record: StreamRecord) -> float:
    """The longer something waits, the larger."""
    return -min([one.waiting_since or math.inf for one in record.strands])
