"""`GET /metrics` at the port of the streams."""

from __future__ import annotations

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.support.inside import client_of, flush_now, note, open_stream, settings
from trio_sse.access.admission import Accepted
from trio_sse.delivery.resume import Start
from trio_sse.service import Service

TOKEN = "a-token-of-16-or-more"
BEARER = {"authorization": f"Bearer {TOKEN}"}


async def test_without_a_token_there_is_none() -> None:
    assert (await client_of(Service(settings())).get("/metrics")).status_code == 404


@pytest.mark.parametrize("headers", [{}, {"authorization": "Bearer wrong"}])
async def test_it_is_for_bearers_of_the_token(headers: dict[str, str]) -> None:
    response = await client_of(Service(settings(metrics_token=TOKEN))).get("/metrics", headers=headers)
    assert response.status_code == 401
    assert response.headers["www-authenticate"] == 'Bearer realm="trio_sse metrics"'
    assert b"trio_sse_streams" not in await response.get_data()


async def test_it_has_what_the_service_counts() -> None:
    service = Service(settings(metrics_token=TOKEN))
    client = client_of(service)
    await client.get("/sse?user_id=*")
    with open_stream(service, Accepted("1", Start(), ())) as connection:
        connection.take_waiting()
        service.hub.dispatch(note("1"))
        flush_now(service.hub)
        response = await client.get("/metrics", headers=BEARER)
    assert (response.status_code, response.headers["cache-control"]) == (200, "no-store")
    text = await response.get_data(as_text=True)
    found = {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    assert found["trio_sse_streams",] == found["trio_sse_keys",] == found["trio_sse_owed",] == 1
    assert found["trio_sse_refused_total", "bad_request"] == 1
    assert found["trio_sse_messages_received_total", "channel"] == 1
    assert found["trio_sse_redis_up",] == found["trio_sse_ready",] == 0
    assert 0 < found["trio_sse_open_files",] < found["trio_sse_max_open_files",]
