"""`trio-sse check` tries what the service keeps in keys of Redis, with the rights that it has."""

from __future__ import annotations

import time
from typing import Any

import pytest
import redis

from tests.support.checked import lines
from tests.support.clusters import Cluster
from tests.support.rights import least_rights
from trio_sse.check_keys import KEEP_SECONDS

PRESENCE = {"presence": True}
REPLIES = {"reply_lists": "replies:"}
ADMIN = {"admin_token": "operators-0123456789"}
SHARED = {"limits_shared": True, "max_connections": 10}
REBALANCE = {"rebalance": 0.1, "redis_stream": "events"}

RIGHTS = {
    "presence": ("~trio_sse:presence:*",),
    "reply_lists": ("~replies:*",),
    "limits_shared": ("~trio_sse:idempotency:*", "~trio_sse:{notifications}:*"),
    "admin_token": ("~trio_sse:control:*",),
}


def user(port: int, *rights: str) -> dict[str, Any]:
    """A user of Redis that has these, and may subscribe."""
    common = ("+ping", "+subscribe", "+role", "&notifications*", "+select")
    with redis.Redis(port=port) as admin:
        admin.execute_command("ACL", "SETUSER", "keys", "reset", "on", ">pw", *common, *rights)
    return {"redis_host": "127.0.0.1", "redis_port": port, "redis_username": "keys", "redis_password": "pw"}


def rights_for(name: str) -> list[str]:
    return [word for marker in RIGHTS[name] for word in least_rights(marker)]


@pytest.mark.parametrize(
    "values", [PRESENCE, REPLIES, SHARED, REBALANCE, ADMIN], ids=lambda values: next(iter(values))
)
def test_all_is_well_and_nothing_is_left(
    capsys: pytest.CaptureFixture[str], valkey: int, values: dict[str, Any]
) -> None:
    with redis.Redis(port=valkey, db=1) as client:
        before = set(client.keys())
        code, out = lines(capsys, redis_host="127.0.0.1", redis_port=valkey, **values)
        assert code == 0, out
        assert f"({'SSE_' + next(iter(values)).upper()})" in out
        deadline = time.monotonic() + 5 * KEEP_SECONDS
        while set(client.keys()) - before:
            assert time.monotonic() < deadline, client.keys()
            time.sleep(0.05)


def test_what_is_not_used_is_not_tried(capsys: pytest.CaptureFixture[str], valkey: int) -> None:
    code, out = lines(capsys, **user(valkey))
    assert code == 0
    assert "NOPERM" not in out


@pytest.mark.parametrize(
    ("name", "values"),
    [("presence", PRESENCE), ("reply_lists", REPLIES), ("limits_shared", SHARED), ("admin_token", ADMIN)],
)
def test_the_rights_that_the_docs_name_are_enough_and_each_is_missed(
    capsys: pytest.CaptureFixture[str], valkey: int, name: str, values: dict[str, Any]
) -> None:
    rights = rights_for(name)
    code, out = lines(capsys, **user(valkey, *rights), **values)
    assert code == 0, out
    spared = {"+select", "+xadd", "+del"} | ({"+publish"} if name != "admin_token" else set())
    used = [word for word in rights if word not in spared and not word.startswith("&")]
    for missing in used:
        if missing == "~trio_sse:idempotency:*":
            continue
        code, out = lines(capsys, **user(valkey, *[word for word in rights if word != missing]), **values)
        wrong = "\n".join(line for line in out.splitlines() if line.startswith("WRONG"))
        assert (missing, code) == (missing, 1)
        assert f"SSE_{name.upper()}: " in wrong
        assert "REDIS_USERNAME, REDIS_PASSWORD" in wrong
        assert "docs/security.md" in wrong


def test_a_key_that_is_another_nodes_is_found_there(
    capsys: pytest.CaptureFixture[str], three: Cluster
) -> None:
    """One node of a cluster as REDIS_HOST."""
    for node in three.masters:
        code, out = lines(
            capsys,
            redis_host="127.0.0.1",
            redis_port=node.port,
            redis_main_db=0,
            **PRESENCE,
            **REPLIES,
            **SHARED,
        )
        assert code == 0, out


def test_of_a_cluster_each_master_is_tried(capsys: pytest.CaptureFixture[str], three: Cluster) -> None:
    values = {"redis_cluster": three.masters[0].address, **PRESENCE, **REPLIES, **SHARED}
    code, out = lines(capsys, **values)
    assert code == 0, out
    for setting in ("SSE_PRESENCE", "SSE_REPLY_LISTS", "SSE_LIMITS_SHARED"):
        assert f"({setting})" in out
    # Users are not replicated: one node knows less of its own than the others.
    all_rights = [word for name in RIGHTS for word in rights_for(name)]
    for number, node in enumerate(three.masters):
        own = [word for word in all_rights if number != 2 or word != "+rpush"]
        node.call(
            "ACL",
            "SETUSER",
            "keys",
            "reset",
            "on",
            ">pw",
            *least_rights("+sunsubscribe"),
            "+asking",
            "+spublish",
            *own,
        )
    code, out = lines(capsys, redis_username="keys", redis_password="pw", **values)
    wrong = [line for line in out.splitlines() if line.startswith("WRONG")]
    assert code == 1
    assert [line.split(": ")[:2] for line in wrong] == [
        [f"WRONG Redis {three.masters[2].address}", "SSE_REPLY_LISTS"]
    ]
    node.call("ACL", "SETUSER", "keys", "-asking")
    _, out = lines(capsys, redis_username="keys", redis_password="pw", **values)
    assert "asking" in out
