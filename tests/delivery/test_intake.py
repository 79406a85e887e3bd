"""The one way in for what comes from Redis."""

from __future__ import annotations

import contextlib

import trio
from structlog.testing import capture_logs
from trio.testing import MockClock

from tests.support.inside import Client, flush_now, joined, new_hub
from trio_sse.delivery.intake import Intake
from trio_sse.delivery.messages import with_copy
from trio_sse.delivery.receipts import Receipt
from trio_sse.delivery.targets import topic


async def test_what_is_received_is_counted_dispatched_and_its_receipt_claimed() -> None:
    hub = new_hub(has_log=True)
    client, intake = Client(joined(hub, "ann")), Intake(hub, 1000)
    payload = b'{"user_id":"ann","created_at":0}'
    receipt = hub.receipts.expect(payload)
    intake.receive(payload, (5, 0))
    flush_now(hub)
    assert client.data == [payload.decode()]
    assert (receipt.id, receipt.took) == ("5-0", 1)
    assert (hub.counters.received, hub.counters.rejected) == (1, 0)
    assert not hub.receipts


async def test_what_cannot_be_delivered_is_counted_and_told_once_a_second(autojump_clock: MockClock) -> None:
    hub = new_hub()
    intake = Intake(hub, 10)
    with capture_logs() as lines:
        for payload in (b"{", None, b"x" * 11):
            intake.receive(payload)
        await trio.sleep(1)
        intake.receive(None)
    assert hub.counters.snapshot()["rejected"] == 4
    assert [line["skipped_unlogged"] for line in lines] == [0, 2]
    assert "SSE_REDIS_STREAM" in lines[1]["reason"]


async def test_what_one_read_brought_is_flushed_together_when_it_ends() -> None:
    hub = new_hub()
    client, intake = Client(joined(hub, "ann")), Intake(hub, 1000)
    receipt = hub.receipts.expect(b'{"user_id":"bob"}')
    with intake:
        for payload in (b'{"user_id":"ann","created_at":0}', b"{", b'{"user_id":"bob"}'):
            intake.receive(payload)
        assert client.data == []
    assert client.data == ['{"user_id":"ann","created_at":0}']
    assert receipt.done.is_set()
    assert hub.counters.rejected == 1


async def test_a_read_that_fails_in_the_middle_is_flushed_too() -> None:
    hub = new_hub()
    client, intake = Client(joined(hub, "ann")), Intake(hub, 1000)
    with contextlib.suppress(ConnectionError), intake:
        intake.receive(b'{"user_id":"ann","created_at":0}')
        raise ConnectionError
    assert client.data == ['{"user_id":"ann","created_at":0}']


async def test_what_came_by_a_channel_of_a_target_is_for_that_one() -> None:
    hub = new_hub()
    ann, bob = Client(joined(hub, "ann")), Client(joined(hub, "bob"))
    intake = Intake(hub, 1000)
    with intake:
        intake.receive(b'{"user_id":"bob","created_at":0}', None, ("ann",))
        intake.receive(b'{"created_at":1}', None, None)
    assert ann.data == ['{"user_id":"bob","created_at":0}', '{"created_at":1}']
    assert bob.data == ['{"created_at":1}']


async def test_of_several_copies_the_first_is_delivered_to_all_that_the_message_names() -> None:
    hub = new_hub(clock=trio.current_time)
    ann, both = Client(joined(hub, "ann")), Client(joined(hub, "bob", topics=["news"]))
    intake = Intake(hub, 1000)
    message = b'{"user_id":["ann","bob"],"topic":"news","created_at":0}'
    payload = with_copy(message, "c" * 22)
    with intake:
        for target in ("ann", "bob", topic("news")):
            intake.receive(payload, None, (target,))
    assert ann.data == both.data == [message.decode()]
    assert hub.counters.received == 1


async def test_only_a_message_for_somebody_here_is_answered() -> None:
    hub = new_hub()
    answered: list[Receipt] = []
    hub.receipts.answer = answered.append
    Client(joined(hub, "ann"))
    intake = Intake(hub, 1000)
    with intake:
        intake.receive(b'{"user_id":"bob","reply_to":"replies:1"}')
        intake.receive(b'{"user_id":"ann","reply_to":"replies:2"}')
        intake.receive(b'{"user_id":"ann"}')
        expected = hub.receipts.expect(b'{"user_id":"ann","reply_to":"replies:3"}')
        intake.receive(b'{"user_id":"ann","reply_to":"replies:3"}')
    assert [(one.reply_to, one.took) for one in answered] == [("replies:2", 1), ("replies:3", 1)]
    assert answered[1] is expected
