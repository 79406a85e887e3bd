"""`GET /openapi.json` describes what this service answers, and nothing else."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.support.inside import client_of, settings
from trio_sse.delivery import partitions
from trio_sse.delivery.messages import RESERVED_EVENTS
from trio_sse.service import Service
from trio_sse.version import __version__
from trio_sse.web.app import App
from trio_sse.web.openapi import document

FULL: dict[str, Any] = {
    "publish_tokens": "one",
    "presence": True,
    "metrics_token": "two",
    "doctor": True,
    "admin_token": "an-admin-token-01",
}


async def told(**values: Any) -> Any:
    response = await client_of(Service(settings(**values))).get("/openapi.json")
    assert response.status_code == 200
    assert response.content_type == "application/json"
    return json.loads(await response.get_data())


def routes(**values: Any) -> dict[str, set[str]]:
    """The paths of a service, and the methods that are more than what Quart adds."""
    rules = App(Service(settings(**values))).url_map.iter_rules()
    return {rule.rule: {m.lower() for m in rule.methods or ()} - {"head", "options"} for rule in rules}


def test_every_route_is_described_and_nothing_else() -> None:
    assert {path: set(item) for path, item in document()["paths"].items()} == routes(**FULL)


@pytest.mark.parametrize("values", [{}, {"public_position": True}, {"publish_tokens": "one"}, FULL])
async def test_a_service_describes_the_paths_that_it_has(values: dict[str, Any]) -> None:
    assert (await told(**values))["paths"].keys() == routes(**values).keys()


async def test_it_names_the_version_and_where_the_paths_begin() -> None:
    plain = await told()
    assert plain["info"]["version"] == __version__
    assert plain["servers"] == [{"url": "/"}]
    assert (await told(root_path="/notify"))["servers"] == [{"url": "/notify"}]


def test_every_reference_leads_somewhere_and_every_operation_has_a_name_of_its_own() -> None:
    whole = document()

    def parts(value: Any) -> Any:
        yield value
        for part in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
            yield from parts(part)

    for part in parts(whole):
        if isinstance(part, dict) and isinstance(part.get("$ref"), str):
            found = whole
            for step in part["$ref"].removeprefix("#/").split("/"):
                found = found[step]
    operations = [operation for item in whole["paths"].values() for operation in item.values()]
    assert len({operation["operationId"] for operation in operations}) == len(operations)


def test_the_names_that_events_cannot_have_are_those_of_the_service() -> None:
    event = document()["components"]["schemas"]["Message"]["properties"]["event"]
    assert sorted(event["not"]["enum"]) == sorted(RESERVED_EVENTS)


def test_an_id_may_be_as_long_as_one_of_a_log_in_partitions() -> None:
    (one,) = [
        one for one in document()["paths"]["/sse"]["get"]["parameters"] if one["name"] == "last_event_id"
    ]
    assert one["schema"]["maxLength"] == partitions.MAX_LENGTH


async def test_position_describes_whom_a_stream_in_partitions_may_name() -> None:
    described = document()["paths"]["/position"]["get"]
    assert "400" in described["responses"]
    service = Service(settings(public_position=True, redis_stream="notes", stream_partitions=8))
    for name in (one["name"] for one in described["parameters"]):
        response = await client_of(service).get("/position", query_string={name: "*"})
        assert response.status_code == 400  # but for the name it is refused, and not the parameter
        assert "unknown parameter" not in json.loads(await response.get_data())["detail"]
    response = await client_of(service).get("/position?users=1")
    assert "unknown parameter" in json.loads(await response.get_data())["detail"]
