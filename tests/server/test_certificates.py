"""A certificate that is renewed under a running service."""

from __future__ import annotations

import os
import shutil
import signal
import ssl
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from hypercorn.config import Config
from structlog.testing import capture_logs
from trio.testing import MockClock, memory_stream_pair, wait_all_tasks_blocked

from tests.support.valkeys import certificate
from trio_sse.server import certificates
from trio_sse.server.certificates import WATCH_SECONDS, Certificates, hangup_is_unattended


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two directories with cert.pem and key.pem."""
    first, second = tmp_path_factory.mktemp("first"), tmp_path_factory.mktemp("second")
    certificate(first)
    certificate(second)
    return first, second


@pytest.fixture
def files(tmp_path: Path, pairs: tuple[Path, Path]) -> Config:
    """What Hypercorn is given; the files are a copy of the first pair."""
    config = Config()
    config.certfile, config.keyfile = str(tmp_path / "cert.pem"), str(tmp_path / "key.pem")
    put(pairs[0], tmp_path)
    return config


def put(pair: Path, directory: Path) -> None:
    for name in ("cert.pem", "key.pem"):
        shutil.copy(pair / name, directory / name)


def put_rsa(directory: Path) -> None:
    make = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=x"]
    files = ["-keyout", str(directory / "key.pem"), "-out", str(directory / "cert.pem")]
    subprocess.run([*make, *files], check=True, capture_output=True)


def lock(key: Path) -> None:
    """Give a key a password."""
    command = ["openssl", "pkcs8", "-topk8", "-passout", "pass:secret", "-in", str(key), "-out"]
    subprocess.run([*command, str(key) + ".locked"], check=True)
    os.replace(str(key) + ".locked", key)


def der(directory: Path) -> bytes:
    return ssl.PEM_cert_to_DER_cert((directory / "cert.pem").read_text())


async def served(context: ssl.SSLContext | None) -> bytes:
    """The certificate that a client gets in a handshake, in DER."""
    assert context is not None
    ours, theirs = memory_stream_pair()
    client = ssl.create_default_context()
    client.check_hostname, client.verify_mode = False, ssl.CERT_NONE
    browser = trio.SSLStream(theirs, client, server_hostname="x")
    server = trio.SSLStream(ours, context, server_side=True)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(browser.do_handshake)
        nursery.start_soon(server.do_handshake)
    assert browser.version() == "TLSv1.3"
    found = browser.getpeercert(binary_form=True)
    assert isinstance(found, bytes)
    return found


@asynccontextmanager
async def kept_up(known: Certificates) -> AsyncIterator[None]:
    async with trio.open_nursery() as nursery:
        await nursery.start(known.listen)
        nursery.start_soon(known.watch)
        yield
        nursery.cancel_scope.cancel()


async def hang_up() -> None:
    signal.raise_signal(signal.SIGHUP)
    await wait_all_tasks_blocked()


async def test_without_tls_there_is_none_and_a_hangup_does_no_harm() -> None:
    known = Certificates()
    assert known.context(Config()) is None
    async with kept_up(known):
        with capture_logs() as said:
            await hang_up()
    assert len(said) == 1


async def test_a_hangup_takes_a_new_pair_up(files: Config, tmp_path: Path, pairs: tuple[Path, Path]) -> None:
    known = Certificates()
    context = known.context(files)
    assert await served(context) == der(pairs[0])
    async with kept_up(known):
        put(pairs[1], tmp_path)
        assert await served(context) == der(pairs[0])
        await hang_up()
        assert await served(context) == der(pairs[1])


async def test_a_new_pair_is_seen_without_a_signal(
    files: Config, tmp_path: Path, pairs: tuple[Path, Path], autojump_clock: MockClock
) -> None:
    known = Certificates()
    context = known.context(files)
    async with kept_up(known):
        with capture_logs() as said:
            await trio.sleep(5 * WATCH_SECONDS)
            assert said == []
            put(pairs[1], tmp_path)
            await trio.sleep(3 * WATCH_SECONDS)
        assert len(said) == 1
        assert await served(context) == der(pairs[1])


async def test_a_link_that_is_swapped_is_seen(
    tmp_path: Path, pairs: tuple[Path, Path], autojump_clock: MockClock
) -> None:
    """As Kubernetes does it: the files are links into `..data`, which is exchanged for another directory."""
    (tmp_path / "..data").symlink_to(pairs[0])
    config = Config()
    for name in ("cert.pem", "key.pem"):
        (tmp_path / name).symlink_to(f"..data/{name}")
    config.certfile, config.keyfile = str(tmp_path / "cert.pem"), str(tmp_path / "key.pem")
    known = Certificates()
    context = known.context(config)
    async with kept_up(known):
        (tmp_path / "..new").symlink_to(pairs[1])
        os.rename(tmp_path / "..new", tmp_path / "..data")
        await trio.sleep(2 * WATCH_SECONDS)
        assert await served(context) == der(pairs[1])


@pytest.mark.parametrize("broken", ["half a pair", "no certificate", "missing", "locked"])
async def test_a_pair_that_does_not_load_is_one_line_and_the_old_one_goes_on(
    broken: str, files: Config, tmp_path: Path, pairs: tuple[Path, Path], autojump_clock: MockClock
) -> None:
    known = Certificates()
    context = known.context(files)
    async with kept_up(known):
        if broken == "half a pair":
            shutil.copy(pairs[1] / "cert.pem", tmp_path)
        elif broken == "no certificate":
            (tmp_path / "cert.pem").write_text("-----BEGIN CERTIFICATE-----\nx")
        elif broken == "missing":
            (tmp_path / "key.pem").unlink()
        else:
            put(pairs[1], tmp_path)
            lock(tmp_path / "key.pem")
        with capture_logs() as said:
            await trio.sleep(10 * WATCH_SECONDS)
        assert [line["log_level"] for line in said] == ["error"]
        assert "SSE_TLS_CERT" in said[0]["event"]
        assert await served(context) == der(pairs[0])
        put(pairs[1], tmp_path)  # mended
        await trio.sleep(2 * WATCH_SECONDS)
        assert await served(context) == der(pairs[1])


async def test_a_key_of_another_kind_leaves_nothing_of_the_old_pair(
    files: Config, tmp_path: Path, pairs: tuple[Path, Path]
) -> None:
    put_rsa(tmp_path)
    known = Certificates()
    context = known.context(files)
    put(pairs[1], tmp_path)
    async with kept_up(known):
        await hang_up()
    assert isinstance(context, certificates.RenewableContext)
    assert await served(context) == der(pairs[1])
    client = ssl.create_default_context()
    client.check_hostname, client.verify_mode = False, ssl.CERT_NONE
    client.maximum_version = ssl.TLSVersion.TLSv1_2
    client.set_ciphers("ECDHE-RSA-AES128-GCM-SHA256")  # who wants the old kind gets none
    ours, theirs = memory_stream_pair()
    browser = trio.SSLStream(theirs, client, server_hostname="x")
    server = trio.SSLStream(ours, context, server_side=True)
    with pytest.RaisesGroup(trio.BrokenResourceError, allow_unwrapped=True):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(browser.do_handshake)
            nursery.start_soon(server.do_handshake)


async def test_a_renewed_context_keeps_the_rules_of_the_first(
    files: Config, tmp_path: Path, pairs: tuple[Path, Path]
) -> None:
    known = Certificates()
    context = known.context(files)
    assert isinstance(context, certificates.RenewableContext)
    first = context.current
    put(pairs[1], tmp_path)
    async with kept_up(known):
        await hang_up()
    assert context.current is not first
    assert context.current.minimum_version == first.minimum_version == ssl.TLSVersion.TLSv1_2
    assert context.current.options == first.options
    assert context.current.options & ssl.OP_NO_RENEGOTIATION
    assert context.current.num_tickets == first.num_tickets == certificates.TICKETS
    assert context.current.get_ciphers() == first.get_ciphers()


def test_hypercorn_is_given_it_while_it_is_installed(files: Config) -> None:
    with Certificates().installed():
        assert isinstance(files.create_ssl_context(), certificates.RenewableContext)
        assert Config().create_ssl_context() is None
    assert not isinstance(files.create_ssl_context(), certificates.RenewableContext)


async def test_a_hangup_that_somebody_takes_is_theirs() -> None:
    assert hangup_is_unattended()
    async with kept_up(Certificates()):
        assert not hangup_is_unattended()
    assert not await trio.to_thread.run_sync(hangup_is_unattended)
