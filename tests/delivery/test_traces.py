"""Messages that are traced, from their arrival to the last of their streams."""

from __future__ import annotations

import json
import time
from itertools import count
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.inside import Client, flush_now, joined, new_hub, new_resumer, unbegun
from trio_sse.counters import Counters
from trio_sse.delivery import traces
from trio_sse.delivery.connection import Connection
from trio_sse.delivery.hub import Hub
from trio_sse.delivery.intake import Intake
from trio_sse.delivery.partitions import Partition
from trio_sse.delivery.resume import Start
from trio_sse.delivery.stream_record import StreamRecord
from trio_sse.delivery.traces import Context, Trace, Traces, context_of, with_context

VALID = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.mark.parametrize(
    ("traceparent", "sampled"),
    [
        (VALID, True),
        (VALID[:-1] + "0", False),
        (VALID[:-1] + "3", True),
        (VALID[:-1] + "2", False),
        ("01" + VALID[2:] + "-more", True),
        ("01" + VALID[2:] + "more", False),
        (VALID + "-more", False),
        (VALID + "\n", False),
        ("ff" + VALID[2:], False),
        (VALID.upper(), False),
        (VALID.replace("0af7651916cd43dd8448eb211c80319c", "0" * 32), False),
        (VALID.replace("b7ad6b7169203331", "0" * 16), False),
        (VALID[:-1], False),
        ("", False),
        ("01" + VALID[2:] + "-" + "x" * 400, True),
        ("01" + VALID[2:] + "-" + "x" * 401, False),
    ],
)
def test_only_a_valid_traceparent_with_the_flag_asks_for_a_trace(traceparent: str, sampled: bool) -> None:
    assert Context(traceparent).sampled is sampled


@pytest.mark.parametrize(
    ("tracestate", "fit"),
    [
        ("a=b", True),
        ("a1_-*/=b c, ten-ant@ven-dor=!~\t,,x=y", True),
        ("a=" + "b" * 256, True),
        ("a=" + "b" * 257, False),
        ("a=b,c", False),
        ("A=b", False),
        ("a=é", False),
        ("a=b=c", False),
        ("a=b\n", False),
        (",".join(f"a{n}=1" for n in range(32)), True),
        (",".join(f"a{n}=1" for n in range(33)), False),
        (",".join(f"a{n}={'b' * 100}" for n in range(4)) + "," * 40, False),
        (",".join(f"a{n}={'b' * 200}" for n in range(3)), False),
    ],
)
def test_a_tracestate_that_is_none_is_left_out(tracestate: str, fit: bool) -> None:
    assert Context.of(VALID, tracestate) == Context(VALID, tracestate if fit else "")
    payload = json.dumps({"traceparent": VALID, "tracestate": tracestate}).encode()
    assert context_of(payload) == Context.of(VALID, tracestate)


@pytest.mark.parametrize(
    ("payload", "found"),
    [
        ('{"user_id":1,"traceparent":"a"}', Context("a")),
        ('{"traceparent":"a","tracestate":"b=c","message":{"traceparent":"z"}}', Context("a", "b=c")),
        ('{"message":{"traceparent":"a"}}', None),
        ('{"message":"\\"traceparent\\""}', None),
        ('{"traceparent":17}', None),
        ('{"traceparent":null}', None),
        ('{"traceparent":"a","tracestate":{}}', None),
        ('{"traceparent":"a","message":"\\ud800"}', None),
        ("{}", None),
    ],
)
def test_the_context_is_two_texts_of_the_message_itself(payload: str, found: Context | None) -> None:
    assert context_of(payload.encode()) == found


def test_a_message_gets_a_context_unless_it_has_one_or_no_room() -> None:
    context = Context(VALID, "a=b")
    longer = with_context(b'{"user_id":1}', context, 1000)
    assert json.loads(longer) == {"user_id": 1, "traceparent": VALID, "tracestate": "a=b"}
    assert with_context(b'{"user_id":1}', context, len(longer)) == longer
    for untouched in (b'{"user_id":1}', b'{"traceparent":null,"user_id":1}', b'{"message":"\\ud800"}'):
        most = len(longer) - 1 if untouched == b'{"user_id":1}' else 1000
        assert with_context(untouched, context, most) == untouched
    assert b"tracestate" not in with_context(b'{"user_id":1}', Context(VALID), 1000)


def traced_hub(per_second: int = 100, clock: Any = lambda: 0.0) -> Hub:
    hub = new_hub()
    hub.traces = Traces(per_second, hub.counters, clock)
    return hub


def recorded(connection: Connection, *, busy: bool = False, after: int | None = 0) -> Client:
    record = connection.record = StreamRecord("s-1", connection, connection.follows)
    if after is not None:
        record.goes_on(0, after, None, 0, None, snapshot=False)
    client = Client(connection)
    client.busy = busy
    return client


def come(hub: Hub, count: int = 1, **more: Any) -> None:
    """Messages come, and are offered to all."""
    intake = Intake(hub, 100_000)
    for _ in range(count):
        intake.receive(json.dumps({"user_id": "1", "traceparent": VALID, **more}).encode())
    flush_now(hub)


def ended(hub: Hub) -> list[Trace]:
    assert hub.traces is not None
    assert hub.traces.some.is_set() == bool(hub.traces.finished)
    return hub.traces.take(1000)


def outcomes(hub: Hub) -> list[dict[str, int]]:
    return [trace.outcomes for trace in ended(hub)]


def leave(hub: Hub, connection: Connection) -> None:
    hub.leave(connection)
    assert connection.record is not None
    connection.record.leaves()


def test_one_that_all_take_at_once_has_ended_with_its_flush() -> None:
    hub = traced_hub()
    for _ in range(3):
        recorded(joined(hub))
    come(hub)
    (trace,) = ended(hub)
    assert trace.outcomes == {"taken": 3}
    assert trace.streams == 3
    assert trace.began <= trace.offered <= trace.ended
    assert trace.context == Context(VALID)
    assert trace.id == hub.history.text(1)
    assert not trace.waiting
    assert not trace.from_log
    assert trace.size == len(json.dumps({"user_id": "1", "traceparent": VALID}))


def test_it_tells_where_it_comes_from() -> None:
    hub = traced_hub()
    hub.history.sources.partition = Partition(8, 5)
    recorded(joined(hub))
    Intake(hub, 1000).receive(json.dumps({"user_id": "1", "traceparent": VALID}).encode(), (1, 0))
    flush_now(hub)
    (trace,) = ended(hub)
    assert (trace.from_log, trace.partition) == (True, Partition(8, 5))


def test_what_nobody_follows_here_is_not_traced() -> None:
    hub = traced_hub()
    recorded(joined(hub, "2"))
    come(hub)
    assert ended(hub) == []


@pytest.mark.parametrize("more", [{"traceparent": None}, {"traceparent": VALID[:-1] + "0"}])
def test_what_does_not_ask_for_it_is_not_traced(more: dict[str, Any]) -> None:
    hub = traced_hub()
    recorded(joined(hub))
    come(hub, **more)
    assert ended(hub) == []
    assert hub.counters.traces == {}


def test_it_lasts_until_the_last_slow_client_has_taken_it() -> None:
    hub = traced_hub()
    recorded(joined(hub))
    slow = [recorded(joined(hub), busy=True) for _ in range(2)]
    come(hub)
    slow[0].catch_up()
    assert ended(hub) == []
    slow[1].catch_up()
    (trace,) = ended(hub)
    assert trace.outcomes == {"taken": 1, "waited": 2}
    assert trace.ended > trace.offered


def test_what_has_no_room_is_dropped_and_not_waited_for() -> None:
    hub = traced_hub()
    client = recorded(joined(hub, capacity=1), busy=True)
    come(hub, 3)
    assert outcomes(hub) == [{"dropped": 1}, {"dropped": 1}]
    client.catch_up()
    assert outcomes(hub) == [{"waited": 1}]


def test_a_newer_one_of_its_key_takes_its_place() -> None:
    hub = traced_hub()
    client = recorded(joined(hub), busy=True)
    come(hub, 2, key="price")
    assert outcomes(hub) == [{"superseded": 1}]
    client.catch_up()
    assert outcomes(hub) == [{"waited": 1}]


def test_it_expires_while_it_waits() -> None:
    now = [0.0]
    hub = new_hub(clock=lambda: now[0])
    hub.traces = Traces(100, hub.counters)
    client = recorded(joined(hub), busy=True)
    come(hub, ttl=5)
    now[0] = 6.0
    client.catch_up()
    assert outcomes(hub) == [{"expired": 1}]


def test_a_client_that_leaves_does_not_get_it() -> None:
    hub = traced_hub()
    connection = joined(hub)
    recorded(connection, busy=True)
    come(hub, 2)
    leave(hub, connection)
    assert outcomes(hub) == [{"unsent": 1}, {"unsent": 1}]
    leave(hub, connection)
    assert outcomes(hub) == []


def test_a_stream_that_does_not_know_yet_where_to_begin_gets_it_by_its_replay() -> None:
    hub = traced_hub()
    connection = unbegun(hub)
    client = recorded(connection)
    come(hub)
    assert ended(hub) == []
    connection.begin(b"", 0)
    client.catch_up()
    assert outcomes(hub) == [{"replayed": 1}]


def test_a_stream_that_begins_behind_it_with_a_gap_misses_it() -> None:
    hub = traced_hub()
    connection = unbegun(hub)
    client = recorded(connection)
    come(hub)
    assert connection.record is not None
    connection.record.goes_on(0, hub.history.latest, "unknown_id", 0, None, snapshot=False)
    connection.begin(b"", hub.history.latest, gap=True)
    client.catch_up()
    assert outcomes(hub) == [{"missing": 1}]


@pytest.mark.parametrize(("snapshot", "outcome"), [(False, "before"), (True, "snapshot")])
def test_a_stream_that_begins_behind_it_was_not_to_get_it(snapshot: bool, outcome: str) -> None:
    hub = traced_hub()
    connection = unbegun(hub)
    client = recorded(connection, after=None)
    come(hub)
    assert connection.record is not None
    connection.record.goes_on(0, hub.history.latest, None, 0, None, snapshot=snapshot)
    assert outcomes(hub) == [{outcome: 1}]
    connection.begin(b"", hub.history.latest)
    client.catch_up()
    assert ended(hub) == []


def test_a_stream_that_came_before_the_flush_but_behind_the_message_is_no_part_of_it() -> None:
    hub = traced_hub()
    recorded(joined(hub))
    intake = Intake(hub, 1000)
    message = {"user_id": "1", "n": 1, "traceparent": VALID}
    intake.receive(json.dumps(message).encode())
    catching_up = unbegun(hub)
    slow = recorded(catching_up, after=hub.history.latest, busy=True)
    catching_up.begin(b"", hub.history.latest)
    live = recorded(joined(hub), after=hub.history.latest)
    intake.receive(json.dumps({**message, "n": 2}).encode())
    flush_now(hub)
    assert outcomes(hub) == [{"taken": 1}]
    slow.catch_up()
    assert live.numbers == slow.numbers == [2]
    assert outcomes(hub) == [{"taken": 2, "replayed": 1}]


def test_a_stream_that_begins_in_the_log_before_the_message_gets_it_from_there() -> None:
    hub = traced_hub()
    connection = unbegun(hub)
    client = recorded(connection, after=None)
    come(hub)
    assert connection.record is not None
    connection.record.goes_on(0, hub.history.latest, "history_expired", 1, (1, 0), snapshot=False)
    intake = Intake(hub, 1000)
    intake.receive(json.dumps({"user_id": "1", "traceparent": VALID}).encode())
    connection.record.after = hub.history.latest  # the log was read before it was offered
    flush_now(hub)
    latest = hub.history.latest
    connection.record.goes_on(latest, latest, None, 0, None, snapshot=False)  # the last page
    assert ended(hub) == []
    connection.begin(b"", latest, [b"data: 1\n\n", b"data: 2\n\n"])
    client.catch_up()
    assert outcomes(hub) == [{"replayed": 1}, {"replayed": 1}]


def test_a_page_of_a_replay_is_told_of_when_it_is_given() -> None:
    hub = traced_hub()
    connection = unbegun(hub)
    client = recorded(connection)
    come(hub, 3, big="x" * 70_000)
    client.busy = True
    connection.begin(b"", 0)
    client.take_page()
    assert outcomes(hub) == [{"replayed": 1}]
    client.take_page()
    assert outcomes(hub) == [{"replayed": 1}]
    connection.end(b"event: draining\ndata: {}\n\n")
    client.catch_up()
    assert client.names == ["message", "message", "draining"]
    assert ended(hub) == []
    leave(hub, connection)
    assert outcomes(hub) == [{"unsent": 1}]


def test_it_expires_before_its_replay() -> None:
    now = [0.0]
    hub = new_hub(clock=lambda: now[0])
    hub.traces = Traces(100, hub.counters)
    connection = unbegun(hub)
    client = recorded(connection)
    come(hub, ttl=5)
    come(hub, ttl=50)
    now[0] = 6.0
    connection.begin(b"", 0)
    client.catch_up()
    assert outcomes(hub) == [{"expired": 1}, {"replayed": 1}]
    assert client.names == ["message"]


def test_the_clock_may_be_set_back(monkeypatch: pytest.MonkeyPatch) -> None:
    hub = traced_hub()
    client = recorded(joined(hub), busy=True)
    times = count(1000, -1)
    monkeypatch.setattr(time, "time_ns", lambda: next(times))
    come(hub)
    client.catch_up()
    (trace,) = ended(hub)
    assert trace.began == trace.offered == trace.ended


def test_what_is_for_nobody_here_takes_the_place_of_no_other() -> None:
    hub = traced_hub(5)
    recorded(joined(hub))
    come(hub, 2)
    for _ in range(5):
        come(hub, user_id="2")
        come(hub, ttl=0)
    come(hub, 5)
    assert (len(ended(hub)), hub.counters.traces) == (5, {"left_out": 2})


def test_one_that_its_only_stream_leaves_before_the_flush_takes_the_place_of_no_other() -> None:
    hub = traced_hub(1)
    connection = joined(hub)
    recorded(connection)
    Intake(hub, 1000).receive(json.dumps({"user_id": "1", "traceparent": VALID}).encode())
    leave(hub, connection)
    flush_now(hub)
    recorded(joined(hub))
    come(hub)
    assert outcomes(hub) == [{"taken": 1}]
    assert hub.counters.traces == {}


STEPS = ["message", "message", "flush", "join", "begin", "busy", "page", "catch_up", "leave", "later"]


@given(st.lists(st.tuples(st.sampled_from(STEPS), st.integers(0, 11)), max_size=80))
def test_whatever_happens_each_trace_ends_once_and_tells_what_the_streams_got(
    steps: list[tuple[str, int]],
) -> None:
    now = [0.0]
    hub = new_hub(clock=lambda: now[0], messages=8)
    hub.traces = Traces(10_000, hub.counters)
    resumer = new_resumer(hub.history)
    intake = Intake(hub, 100_000)
    streams: list[tuple[Connection, Client]] = []
    here: dict[int, list[Client]] = {}  # by message: the streams that were offered it, and do not have it yet
    had: dict[int, int] = {}  # by message: how many of the others have it
    sent, waiting = 0, list[int]()

    def flush() -> None:
        for n in waiting:
            present = [client for connection, client in streams if not connection.closed]
            here[n] = [client for client in present if n not in client.numbers]
            had[n] = len(present) - len(here[n])
        waiting.clear()
        flush_now(hub)

    for step, number in [*steps, ("flush", 0)]:
        if step == "join":
            connection = unbegun(hub, capacity=2, recovery=resumer)
            streams.append((connection, recorded(connection, after=None, busy=number % 2 == 1)))
        elif step == "message":
            sent += 1
            if len(hub):  # else nobody traces it
                waiting.append(sent)
            kinds: list[dict[str, Any]] = [{}, {"key": "a"}, {"ttl": 5}, {"big": "x" * 40_000}]
            more = kinds[number % 4]
            intake.receive(json.dumps({"user_id": "1", "n": sent, "traceparent": VALID, **more}).encode())
        elif step == "flush":
            flush()
        elif step == "later":
            now[0] += number
        elif streams:
            connection, client = streams[number % len(streams)]
            if step == "begin" and not connection.begun and not connection.closed:
                last = hub.history.text(max(0, hub.history.latest - number))
                resumer.begin(connection, Start(last if number % 3 else None))
            elif step == "busy":
                client.busy = True
            elif step == "page" and client.busy:
                client.take_page()
            elif step == "catch_up":
                client.catch_up()
            elif step == "leave":
                leave(hub, connection)
    for connection, _ in streams:
        leave(hub, connection)
    assert hub.traces.held == 0
    told = ended(hub)
    assert len(told) == len({trace.id for trace in told})
    by_id = {trace.id: trace.outcomes for trace in told}
    for n, clients in here.items():
        outcomes = by_id.get(hub.history.text(n), {})
        got = sum(n in client.numbers for client in clients)
        counted = sum(outcomes.get(name, 0) for name in ("taken", "waited", "replayed"))
        assert got <= counted <= got + had[n]
        assert sum(outcomes.values()) <= len(clients) + had[n]


def test_more_than_so_many_a_second_are_left_out_and_counted() -> None:
    now = [0.0]
    hub = traced_hub(10, lambda: now[0])
    recorded(joined(hub))
    come(hub, 15)
    assert (len(ended(hub)), hub.counters.traces) == (10, {"left_out": 5})
    now[0] = 0.5
    come(hub, 15)
    assert (len(ended(hub)), hub.counters.traces) == (5, {"left_out": 15})
    now[0] = 100.0
    come(hub, 15)
    assert (len(ended(hub)), hub.counters.traces) == (10, {"left_out": 20})


def test_what_nobody_here_is_to_get_leaves_nothing_out() -> None:
    hub = traced_hub(10)
    recorded(joined(hub))
    come(hub, 100, user_id="2")
    come(hub, 10)
    assert (len(ended(hub)), hub.counters.traces) == (10, {})


def test_of_too_many_that_wait_the_rest_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(traces, "MOST_HELD", 2)
    hub = traced_hub()
    clients = [recorded(joined(hub, capacity=10), busy=True) for _ in range(2)]
    come(hub, 3)
    (third,) = ended(hub)
    assert (third.outcomes, third.waiting, third.streams) == ({}, 2, 2)
    for client in clients:
        client.catch_up()
    assert [(trace.outcomes, trace.waiting) for trace in ended(hub)] == [({"waited": 1}, 1)] * 2
    clients[0].busy = True
    come(hub, 2)
    assert ended(hub) == []


def test_of_too_many_that_have_ended_the_newest_are_lost_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(traces, "MOST_FINISHED", 2)
    counters = Counters()
    all_of_them = Traces(10, counters)
    for number in range(3):
        trace = Trace(Context(VALID), number, 0, all_of_them)
        all_of_them.ended(trace)
    assert [trace.size for trace in all_of_them.finished] == [0, 1]
    assert counters.traces == {"lost": 1}
    assert len(all_of_them.take(1)) == 1
    assert all_of_them.some.is_set()
    assert len(all_of_them.take(1)) == 1
    assert not all_of_them.some.is_set()
