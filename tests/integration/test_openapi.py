"""What the service answers is what /openapi.json says, whatever is asked (schemathesis)."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
import trio

from tests.support.client import streaming
from tests.support.process import Service, Services
from tests.support.tokens import SECRET
from tests.support.variants import script

pytestmark = [pytest.mark.integration, pytest.mark.slow]

TOKEN = "a-token-of-the-tests"
EXAMPLES = 25

# What OpenAPI cannot say: that one of two parameters must be there, or not both. And a long head is refused
# before anybody looks at it. The parameters of /position count only where the log is in partitions.
CONFIGURATION = """
[[operations]]
include-name = "GET /presence"
checks.positive_data_acceptance.expected-statuses = [200, 400, 431]
checks.negative_data_rejection.expected-statuses = [400, 401, 431]

[[operations]]
include-name = "GET /position"
checks.positive_data_acceptance.expected-statuses = [200, 431]
checks.negative_data_rejection.expected-statuses = [200, 400, 401, 431]

[[operations]]
include-name = "GET /sse"
checks.positive_data_acceptance.expected-statuses = [400, 429, 431]
checks.negative_data_rejection.expected-statuses = [400, 429, 431]

[[operations]]
include-name = "GET /explain"
checks.positive_data_acceptance.expected-statuses = [200, 400, 431]
checks.negative_data_rejection.expected-statuses = [400, 401, 431]

[[operations]]
include-name = "POST /disconnect"
checks.positive_data_acceptance.expected-statuses = [200, 400]

[[operations]]
include-name = "POST /revoke"
checks.positive_data_acceptance.expected-statuses = [200, 400, 503, 507]
"""
MODES = pytest.mark.parametrize("mode", ["positive", "negative"])


async def answers_as_it_says(service: Service, directory: Path, mode: str, *arguments: str) -> None:
    """Ask the service what its document allows, or what it forbids."""
    document = service.get("/openapi.json").json
    # Two requests with one key and different messages: refused, as they should be.
    document["paths"].get("/publish", {}).get("post", {}).pop("parameters", None)
    if mode == "positive":
        for name in ("Name", "Topic"):  # JSON Schema takes 1.0 for an integer
            del document["components"]["schemas"][name]["anyOf"][0]
    directory.joinpath("openapi.json").write_text(json.dumps(document))
    directory.joinpath("schemathesis.toml").write_text(CONFIGURATION)
    command = [script("schemathesis"), "run", "openapi.json", f"--url={service.url}", "--checks=all"]
    command += [f"--header=Authorization: Bearer {TOKEN}", f"--max-examples={EXAMPLES}", "--seed=1"]
    command += ["--request-timeout=10", "--suppress-health-check=all", "--no-color", f"--mode={mode}"]
    done = await trio.run_process(
        [*command, *arguments], capture_stdout=True, stderr=subprocess.STDOUT, check=False, cwd=directory
    )
    assert done.returncode == 0, done.stdout.decode()


@MODES
async def test_it_answers_back_ends_and_clients_as_the_document_says(
    start: Services, tmp_path: Path, mode: str
) -> None:
    """A stream that is open keeps the only place of its address, so that all others end at once."""
    service = start(
        SSE_PUBLISH_TOKENS=TOKEN,
        SSE_PRESENCE="true",
        SSE_MAX_CONNECTIONS_PER_ADDRESS="1",
        SSE_LOG_LEVEL="warning",
    )
    async with streaming(service.port, "1"):
        await answers_as_it_says(service, tmp_path, mode)


@MODES
async def test_it_answers_operators_as_the_document_says(start: Services, tmp_path: Path, mode: str) -> None:
    """All but /admin/events, which does not end."""
    service = start(SSE_ADMIN_TOKEN=TOKEN, SSE_AUTH="jwt", SSE_JWT_SECRET=SECRET, SSE_LOG_LEVEL="warning")
    await answers_as_it_says(
        service, tmp_path, mode, "--include-path-regex=^/(explain|disconnect|revoke|admin|healthz|readyz)$"
    )
