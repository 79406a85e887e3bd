"""A real cluster is asked who serves what."""

from __future__ import annotations

import pytest
import redis

from tests.support.clusters import SLOTS, Cluster, Node, cluster
from tests.support.inside import settings
from tests.support.ports import free_port
from tests.support.routed import in_asyncio
from trio_sse.broker.cluster_map import Range
from trio_sse.broker.errors import advice
from trio_sse.broker.link import ERRORS
from trio_sse.broker.topology import look
from trio_sse.settings import Settings


def told(values: Settings) -> str:
    """The line that becomes of the error."""
    lines = []

    async def test() -> None:
        with pytest.raises(ERRORS) as caught:
            await look(values)
        lines.append(advice(caught.value, values))

    in_asyncio(test)
    return lines[0]


def asked(values: Settings, *more: tuple[str, int]) -> list[Range]:
    found: list[Range] = []

    async def test() -> None:
        found.extend((await look(values, last=more)).ranges)

    in_asyncio(test)
    return found


def nodes(*ports: int) -> Settings:
    return settings(redis_cluster=",".join(f"127.0.0.1:{port}" for port in ports))


def test_one_node_knows_all(three: Cluster) -> None:
    for node in three.masters:
        found = asked(nodes(node.port))
        assert sum(last - first + 1 for first, last, _ in found) == SLOTS
        assert {port for _, _, (_, port) in found} == {one.port for one in three.masters}


def test_nodes_that_are_away_are_passed_over(three: Cluster) -> None:
    assert len(asked(nodes(free_port(), free_port(), three.masters[1].port))) == 3
    assert len(asked(nodes(free_port()), ("127.0.0.1", three.masters[0].port))) == 3


def test_a_redis_that_is_no_cluster_is_told_with_its_setting(valkey: int) -> None:
    line = told(nodes(valkey))
    assert "cluster support disabled" in line
    assert "REDIS_CLUSTER names a Redis that is no cluster" in line
    assert "SSE_REDIS_ROUTING=by-key" in line


def test_a_refusal_is_told_rather_than_that_another_node_is_away(valkey: int) -> None:
    for ports in ((valkey, free_port()), (free_port(), valkey)):
        assert "cluster support disabled" in told(nodes(*ports))


def test_none_that_answers_is_told_with_its_setting() -> None:
    line = told(nodes(free_port()))
    assert "REDIS_CLUSTER" in line
    assert "REDIS_HOST" not in line


def test_a_cluster_that_was_never_made_is_told() -> None:
    node = Node()
    try:
        line = told(nodes(node.port))
    finally:
        node.close()
    assert "no node serves any slot" in line
    assert "REDIS_CLUSTER" in line


def test_a_wrong_password_is_told_with_its_setting(three: Cluster) -> None:
    values = settings(redis_cluster=three.masters[0].address, redis_password="wrong", redis_username="who")
    assert "REDIS_USERNAME, REDIS_PASSWORD" in told(values)


def test_of_a_cluster_that_does_not_work_it_is_known_what_is_left() -> None:
    with cluster(3) as found:
        values = nodes(*[node.port for node in found.masters])
        found.masters[0].kill()
        found.wait(lambda: all(node.info()["cluster_state"] == "fail" for node in found.alive))
        assert sum(last - first + 1 for first, last, _ in asked(values)) == SLOTS


def test_rights_that_are_missing_are_named(three: Cluster) -> None:
    for node in three.masters:
        with redis.Redis(port=node.port) as admin:
            admin.execute_command("ACL", "SETUSER", "few", "on", ">pw", "-@all", "+ping")
    values = settings(redis_cluster=three.masters[0].address, redis_username="few", redis_password="pw")
    line = told(values)
    assert "cluster|info" in line
    assert "docs/security.md" in line
