"""The systemd units, by systemd's own tools; and the socket that it hands over."""

from __future__ import annotations

import configparser
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.ports import free_port
from tests.support.process import Service, wait_until, with_code_under_test
from tests.support.tools import ROOT, tool
from tests.support.variants import script

UNITS = ROOT / "deploy" / "systemd"
EXECUTABLE = "/opt/trio_sse/bin/trio-sse"
MOST_EXPOSURE = 15
"""In tenths, by systemd-analyze; without hardening a service has 96."""


@pytest.fixture
def units(tmp_path: Path) -> Path:
    """The units, with an executable that is there."""
    shutil.copytree(UNITS, tmp_path, dirs_exist_ok=True)
    unit = tmp_path / "trio-sse.service"
    assert f"ExecStart={EXECUTABLE}\n" in unit.read_text()
    unit.write_text(unit.read_text().replace(EXECUTABLE, script("trio-sse")))
    return tmp_path


def unit(name: str) -> configparser.SectionProxy:
    """The last value of each directive of [Service]."""
    parser = configparser.RawConfigParser(strict=False, allow_no_value=True)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(UNITS / name)
    return parser["Service"]


def test_systemd_understands_them(units: Path) -> None:
    done = subprocess.run(
        [tool("systemd-analyze"), "verify", "--man=no", *map(str, sorted(units.glob("trio-sse.*")))],
        capture_output=True,
        text=True,
        check=False,
    )
    ours = [line for line in done.stderr.splitlines() if "trio-sse" in line or str(units) in line]
    assert not ours
    assert done.returncode == 0, done.stderr


def test_the_service_can_do_little_beside_its_work(units: Path) -> None:
    command = [tool("systemd-analyze"), "security", "--offline=yes", "--no-pager"]
    command += [f"--threshold={MOST_EXPOSURE}", str(units / "trio-sse.service")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_systemd_waits_until_it_has_drained() -> None:
    service = unit("trio-sse.service")
    (drain,) = re.findall(r"SSE_DRAIN_SECONDS=(\d+)", UNITS.joinpath("trio-sse.service").read_text())
    assert int(service["TimeoutStopSec"]) == int(drain) + 10


@pytest.mark.integration
@pytest.mark.parametrize("workers", ["1", "2"])
def test_it_serves_at_the_socket_that_it_is_handed(tmp_path: Path, valkey: int, workers: str) -> None:
    """As `ListenStream` of the unit: the port is open before the service has started."""
    port = free_port()
    command = [tool("systemd-socket-activate"), f"--listen=127.0.0.1:{port}"]
    settings = {
        "REDIS_HOST": "127.0.0.1",
        "REDIS_PORT": str(valkey),
        "SSE_DRAIN_SECONDS": "0",
        "SSE_WORKERS": workers,
        "SSE_PORT": "1",
    }
    # It hands on nothing else of the environment.
    command += [f"--setenv={name}={value}" for name, value in with_code_under_test(settings).items()]
    started = shlex.split(unit("trio-sse.service")["ExecStart"].replace(EXECUTABLE, script("trio-sse")))
    service = Service([*command, *started], port, settings, tmp_path / "log", redis_port=None)
    try:
        wait_until(lambda: "Listening" in service.log, "systemd listens")
        service.wait_until_answers()
        assert service.stop().code == 0
    finally:
        service.close()
