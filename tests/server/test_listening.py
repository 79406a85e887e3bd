"""Where `trio-sse` listens, and what a wrong place is told."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

import pytest

from tests.support.inside import settings
from trio_sse.server.listening import ListenError, is_handed, listening, place, urls


def refused(host: str, port: int = 0) -> str:
    with pytest.raises(ListenError) as raised, listening(settings(host=host, port=port)):
        pass
    return str(raised.value)


@pytest.mark.parametrize("host", ["::", "[::]", "0:0::0"])
def test_all_addresses_are_those_of_ipv4_as_well(host: str) -> None:
    with listening(settings(host=host, port=0)) as (listener,):
        port = listener.getsockname()[1]
        for address in ("127.0.0.1", "::1"):
            socket.create_connection((address, port), 5).close()


def test_one_address_is_one() -> None:
    with listening(settings(host="[::1]", port=0)) as (listener,):
        assert listener.getsockname()[0] == "::1"


@pytest.mark.parametrize("prefix", ["unix:", "unix://"])
def test_a_unix_socket_is_there_for_everybody_who_gets_there_and_gone_in_the_end(
    tmp_path: Path, prefix: str
) -> None:
    path = tmp_path / "socket"
    before = os.umask(0o077)
    try:
        with listening(settings(host=f"{prefix}{path}")):
            assert stat.S_IMODE(path.stat().st_mode) == 0o666
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(str(path))
            assert os.umask(0o077) == 0o077, "that of the process is as it was"
    finally:
        os.umask(before)
    assert not path.exists()


def test_a_unix_socket_that_a_killed_process_left_is_taken(tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(path)
    with listening(settings(host=f"unix:{path}")), socket.socket(socket.AF_UNIX) as client:
        client.connect(path)


def test_a_unix_socket_in_use_and_a_file_are_left_alone(tmp_path: Path) -> None:
    path, file = tmp_path / "socket", tmp_path / "file"
    file.write_text("x")
    with listening(settings(host=f"unix:{path}")):
        assert "another process" in refused(f"unix:{path}")
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
    assert "is not a socket" in refused(f"unix:{file}")
    assert file.read_text() == "x"


def test_a_unix_socket_that_somebody_else_made_meanwhile_stays(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with listening(settings(host=f"unix:{path}")), socket.socket(socket.AF_UNIX) as other:
        path.unlink()
        (tmp_path / "in the way").touch()  # so that the inode is another
        other.bind(str(path))
    assert path.exists()


@pytest.mark.parametrize(
    "host", ["unix:", "unix:/no/such/directory/x", "unix:/" + "x" * 200, "a..b", "fd://x"]
)
def test_what_cannot_be_listened_on_names_the_setting(host: str) -> None:
    assert "SSE_HOST" in refused(host)


def test_a_socket_that_was_handed_over() -> None:
    given = socket.create_server(("127.0.0.1", 0))
    name = given.getsockname()
    with listening(settings(host=f"fd://{given.detach()}")) as (listener,):
        assert listener.getsockname() == name


def test_what_was_handed_over_and_does_not_listen() -> None:
    near, far = socket.socketpair()
    with near, far, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams, open(os.devnull) as file:
        assert "does not listen" in refused(f"fd://{near.fileno()}")
        assert "no stream socket" in refused(f"fd://{datagrams.fileno()}")
        assert "SSE_HOST" in refused(f"fd://{file.fileno()}")
        near.getsockname()
        datagrams.getsockname()
    assert "SSE_HOST" in refused("fd://999999")


def test_sockets_of_systemd_are_for_this_process_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LISTEN_FDS", "2")
    monkeypatch.setenv("LISTEN_PID", "1")
    assert not is_handed(settings())
    monkeypatch.setenv("LISTEN_PID", str(os.getpid()))
    assert is_handed(settings())
    assert place(settings()) == "descriptor 3, 4 (handed over)"
    assert urls(settings()) == []
    monkeypatch.setenv("LISTEN_FDS", "many")
    assert not is_handed(settings())


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("0.0.0.0", ["curl -N http://127.0.0.1:8085/sse"]),
        ("::", ["curl -N http://127.0.0.1:8085/sse", "curl -N http://[::1]:8085/sse"]),
        ("::1", ["curl -N http://[::1]:8085/sse"]),
        ("192.0.2.1", ["curl -N http://192.0.2.1:8085/sse"]),
        ("unix:/run/x", ["curl -N --unix-socket /run/x http://localhost/sse"]),
        ("fd://3", []),
    ],
)
def test_how_to_reach_it(host: str, expected: list[str]) -> None:
    assert [way.curl("/sse") for way in urls(settings(host=host))] == expected
