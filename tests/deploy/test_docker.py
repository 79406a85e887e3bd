"""Dockerfile and compose file. Neither is built here: what they say is checked, and what they run is run."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement

from tests.support.process import Services
from tests.support.tools import ROOT, tool
from trio_sse.settings import Settings

DEPLOY = ROOT / "deploy"
DOCKERFILE = DEPLOY / "Dockerfile"


def instructions() -> list[tuple[str, str]]:
    """The instructions of the image that is left in the end."""
    lines = re.sub(r"\\\n", " ", re.sub(r"^#.*\n", "", DOCKERFILE.read_text(), flags=re.MULTILINE))
    found = [line.partition(" ")[::2] for line in lines.splitlines() if line]
    last = max(index for index, (name, _) in enumerate(found) if name == "FROM")
    return found[last:]


def test_the_dockerfile_is_as_hadolint_wants_it() -> None:
    done = subprocess.run([tool("hadolint"), str(DOCKERFILE)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_the_image_is_not_root_stops_by_draining_and_says_whether_it_lives() -> None:
    found = dict(instructions())
    uid, _ = found["USER"].split(":")
    assert int(uid) > 0, "a number: Kubernetes cannot see who a name is"
    assert found["STOPSIGNAL"] == "SIGTERM"
    assert json.loads(found["ENTRYPOINT"]) == ["trio-sse"]
    assert "healthcheck.py" in found["HEALTHCHECK"]


def test_all_that_is_copied_is_sent_to_the_builder() -> None:
    ignored = DEPLOY.joinpath("Dockerfile.dockerignore").read_text().splitlines()
    sent = {line[1:] for line in ignored if line.startswith("!")}
    copied = re.findall(r"^COPY (?!--from)(.*) \S+$", DOCKERFILE.read_text(), re.MULTILINE)
    names = {name for line in copied for name in line.split()}
    assert names == sent
    assert all(ROOT.joinpath(name).exists() for name in names)


def test_the_image_gets_the_versions_that_the_tests_ran_with() -> None:
    """The command that makes constraints of the lock file: each of its lines is one that pip takes."""
    (command,) = re.findall(r"^RUN (sed .*?) >", DOCKERFILE.read_text(), re.MULTILINE)
    done = subprocess.run(command, shell=True, cwd=ROOT, capture_output=True, text=True, check=True)
    found = {}
    for line in done.stdout.splitlines():
        requirement = Requirement(line)
        assert not requirement.extras
        found[requirement.name] = str(requirement.specifier)
    locked = re.findall(
        r"^(\S+?)(?:\[.*\])?(==\S+)", ROOT.joinpath("requirements-dev.txt").read_text(), re.MULTILINE
    )
    assert found.keys() == {name for name, _ in locked}
    assert {"trio", "quart-trio", "redis"} <= found.keys()


def healthy(**environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(DEPLOY / "healthcheck.py")]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.integration
def test_the_health_check_of_the_image(start: Services) -> None:
    service = start()
    port = {"SSE_PORT": str(service.port)}
    done = healthy(**port)
    assert done.returncode == 0, done.stderr
    service.stop()
    done = healthy(**port)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.integration
def test_a_service_without_redis_is_alive(start: Services) -> None:
    service = start(ready="/healthz", redis_port=1)
    assert service.get("/readyz").status == 503
    assert healthy(SSE_PORT=str(service.port)).returncode == 0


def compose() -> Any:
    return yaml.safe_load(DEPLOY.joinpath("compose.yaml").read_text())


def test_the_compose_file_is_one(tmp_path: Path) -> None:
    """By the parser of Docker Compose itself."""
    command = [tool("compose-go"), str(DEPLOY / "compose.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert yaml.safe_load(done.stdout)["services"].keys() == {"redis", "sse-1", "sse-2", "caddy"}


def test_compose_waits_until_a_service_has_drained() -> None:
    for name in ("sse-1", "sse-2"):
        service = compose()["services"][name]
        drain = int(service["environment"]["SSE_DRAIN_SECONDS"])
        assert int(service["stop_grace_period"].removesuffix("s")) == drain + 10


def test_what_compose_sets_are_settings_and_caddy_knows_the_services() -> None:
    services = compose()["services"]
    known = {str(field.validation_alias) for field in Settings.model_fields.values()}
    assert services["sse-1"]["environment"].keys() <= known
    upstreams = services["caddy"]["environment"]["CADDY_UPSTREAMS"].split()
    assert upstreams == ["sse-1:8085", "sse-2:8085"]
    used = set(re.findall(r"\{\$(\w+)", DEPLOY.joinpath("Caddyfile").read_text()))
    assert used == services["caddy"]["environment"].keys()


def test_only_caddy_reaches_the_services() -> None:
    services = compose()["services"]
    assert [name for name, one in services.items() if "ports" in one] == ["caddy"]
    (network,) = compose()["networks"]["inside"]["ipam"]["config"]
    assert services["sse-1"]["environment"]["SSE_TRUSTED_PROXIES"] == network["subnet"]
