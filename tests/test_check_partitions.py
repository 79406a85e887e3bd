"""`trio-sse check` with a log in partitions, on a real Redis and on a real cluster."""

from __future__ import annotations

from typing import Any

import pytest
import redis

from tests.support import checked
from tests.support.clusters import Cluster, cluster
from tests.support.inside import settings
from tests.support.log import BackEnd
from tests.support.ports import free_port
from tests.support.rights import least_rights
from trio_sse.check_partitions import sample
from trio_sse.delivery.partitions import Layout

EIGHT = Layout("notes", 8)
PARTS: dict[str, Any] = {"redis_stream": "notes", "stream_partitions": 8}
TOKENS = {"publish_tokens": "a" * 16}


def lines(capsys: pytest.CaptureFixture[str], **values: Any) -> tuple[int, str]:
    return checked.lines(capsys, **{**PARTS, **values})


def at(port: int, **values: Any) -> dict[str, Any]:
    return {"redis_host": "127.0.0.1", "redis_port": port, **values}


def test_of_one_redis_all_is_well(capsys: pytest.CaptureFixture[str], port: int, back_end: BackEnd) -> None:
    mine, _ = sample(settings(**PARTS))
    back_end.xadd(mine, {"payload": "{}"})
    code, out = lines(capsys, **at(port, redis_stream_before="old"), **TOKENS)
    assert code == 0, out
    assert "WRONG" not in out
    assert "may read 9 partitions (SSE_STREAM_PARTITIONS) in database 1: 1 entries; nothing in notes:{" in out
    assert "may add to them" in out
    assert f"redis-cli -h 127.0.0.1 -p {port} -n 1 XADD '{mine}' '*' payload " in out
    assert back_end.keys() == [mine.encode()]  # nothing was written


def test_of_a_cluster_each_master_is_tried(capsys: pytest.CaptureFixture[str], three: Cluster) -> None:
    code, out = lines(capsys, redis_cluster=three.masters[1].address, **TOKENS)
    assert code == 0, out
    homes = {three.master_of(EIGHT.name(number)).address for number in range(8)}
    for address in homes:
        assert f"Redis {address}: connected; it has notes:{{" in out
        assert f"Redis {address}: may add to them" in out
    home = three.master_of(EIGHT.name(EIGHT.of("1")))
    assert f"redis-cli -c -h 127.0.0.1 -p {home.port} XADD" in out


def test_a_master_that_is_away_is_wrong_and_the_others_are_tried_too(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with cluster(3) as nodes:
        addresses = ",".join(node.address for node in nodes.masters)
        dead = nodes.master_of(EIGHT.name(0))
        dead.kill()
        code, out = lines(capsys, redis_cluster=addresses)
        assert code == 1
        (wrong,) = [line for line in out.splitlines() if line.startswith("WRONG")]
        assert f"Redis {dead.address}: it has notes:{{0}}" in wrong
        assert "REDIS_CLUSTER" in wrong


def test_a_redis_that_is_away_is_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    code, out = lines(capsys, **at(free_port()))
    assert code == 1
    assert "REDIS_PORT" in out


def test_a_node_of_a_cluster_that_is_taken_for_one_redis_is_wrong(
    capsys: pytest.CaptureFixture[str], three: Cluster
) -> None:
    code, out = lines(capsys, **at(three.masters[0].port))
    assert code == 1
    assert "name it in REDIS_CLUSTER instead" in out


def test_what_back_ends_write_to_and_nobody_reads_is_told(
    capsys: pytest.CaptureFixture[str], port: int, back_end: BackEnd
) -> None:
    back_end.xadd("notes", {"payload": "{}"})
    code, out = lines(capsys, **at(port))
    assert code == 0
    assert "notes has 1 entries, which nobody reads" in out
    assert "SSE_REDIS_STREAM_BEFORE=notes" in out
    assert "nobody reads" not in lines(capsys, **at(port, redis_stream_before="notes"))[1]
    back_end.xadd("notes:{8}", {"payload": "{}"})
    code, out = lines(capsys, **at(port))
    assert code == 1
    assert "another number than SSE_STREAM_PARTITIONS=8" in out


def test_a_key_that_is_no_stream_is_wrong(
    capsys: pytest.CaptureFixture[str], port: int, back_end: BackEnd
) -> None:
    back_end.set("notes:{3}", "text")
    code, out = lines(capsys, **at(port))
    assert code == 1
    assert "SSE_REDIS_STREAM must name a stream" in out


@pytest.mark.parametrize("missing", ["+xinfo|stream", "+xread", "+xrevrange", "+xadd", "~notes:*"])
def test_each_right_that_is_missing_is_told(
    capsys: pytest.CaptureFixture[str], port: int, back_end: BackEnd, missing: str
) -> None:
    rights = {*least_rights("~notes:*"), "+xadd"} - {"resetkeys", "resetchannels", "-@all"}
    login: dict[str, Any] = {"redis_username": "u", "redis_password": "pw"}
    with redis.Redis(port=port) as admin:
        for given, good in ((rights, True), (rights - {missing}, False)):
            admin.execute_command("ACL", "SETUSER", "u", "reset", "on", ">pw", *given)
            code, out = lines(capsys, **at(port), **login, **TOKENS)
            assert (code == 0) == good, out
    assert "NOPERM" in out
    assert "REDIS_USERNAME, REDIS_PASSWORD" in out
    assert "~notes:* (SSE_REDIS_STREAM)" in out


def test_a_sample_is_for_the_partition_of_its_user() -> None:
    assert sample(settings(**PARTS)) == (EIGHT.name(EIGHT.of("1")), '{"user_id":1,"message":"hello"}')
