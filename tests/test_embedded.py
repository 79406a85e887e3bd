"""A real Valkey, for as long as a block."""

from __future__ import annotations

import signal
import socket

import pytest
import redis

from tests.support.ports import free_port
from trio_sse import embedded


def test_it_answers_inside_the_block_and_is_gone_after() -> None:
    with embedded.valkey(free_port()) as port:
        assert embedded.is_answering(port)
        with redis.Redis(port=port) as client:
            assert client.ping()
            assert client.config_get("save") == {"save": ""}
            assert client.config_get("databases") == {"databases": "16"}
    assert not embedded.is_answering(port)


def test_a_port_that_is_taken_is_an_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises((embedded.EmbeddedError, OSError)), embedded.valkey(port):
            pass


def test_it_is_gone_after_an_error_inside_the_block() -> None:
    with pytest.raises(ZeroDivisionError), embedded.valkey(free_port()) as port:
        raise ZeroDivisionError
    assert not embedded.is_answering(port)


def test_a_ctrl_c_is_not_for_the_server_but_still_for_us() -> None:
    with embedded.valkey(free_port()) as port:
        assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, [])
        with redis.Redis(port=port) as client:
            pid = client.info("server")["process_id"]  # type: ignore[index,union-attr,unused-ignore]
        with open(f"/proc/{pid}/status") as status:
            blocked = next(line.split()[1] for line in status if line.startswith("SigBlk"))
        assert int(blocked, 16) & 1 << (signal.SIGINT - 1)
