"""What the service answers is what /openapi.json says, whatever is asked (schemathesis)."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
import trio

from tests.support.client import streaming
from tests.support.process import Services
from tests.support.variants import script

pytestmark = [pytest.mark.integration, pytest.mark.slow]

TOKEN = "a-token-of-the-tests"
EXAMPLES = 25

# What OpenAPI cannot say: that one of two parameters must be there, or not both. And a long head is refused
# before anybody looks at it.
CONFIGURATION = """
[[operations]]
include-name = "GET /presence"
checks.positive_data_acceptance.expected-statuses = [200, 400, 431]
checks.negative_data_rejection.expected-statuses = [400, 401, 431]

[[operations]]
include-name = "GET /sse"
checks.positive_data_acceptance.expected-statuses = [400, 429, 431]
checks.negative_data_rejection.expected-statuses = [400, 429, 431]
"""


@pytest.mark.parametrize("mode", ["positive", "negative"])
async def test_it_answers_as_the_document_says(start: Services, tmp_path: Path, mode: str) -> None:
    """A stream that is open keeps the only place of its address, so that all others end at once."""
    service = start(
        SSE_PUBLISH_TOKENS=TOKEN,
        SSE_PRESENCE="true",
        SSE_MAX_CONNECTIONS_PER_ADDRESS="1",
        SSE_LOG_LEVEL="warning",
    )
    document = service.get("/openapi.json").json
    # Two requests with one key and different messages: refused, as they should be.
    del document["paths"]["/publish"]["post"]["parameters"]
    if mode == "positive":
        for name in ("Name", "Topic"):  # JSON Schema takes 1.0 for an integer
            del document["components"]["schemas"][name]["anyOf"][0]
    tmp_path.joinpath("openapi.json").write_text(json.dumps(document))
    tmp_path.joinpath("schemathesis.toml").write_text(CONFIGURATION)
    command = [script("schemathesis"), "run", "openapi.json", f"--url={service.url}", "--checks=all"]
    command += [f"--header=Authorization: Bearer {TOKEN}", f"--max-examples={EXAMPLES}", "--seed=1"]
    command += ["--request-timeout=10", "--suppress-health-check=all", "--no-color", f"--mode={mode}"]
    async with streaming(service.port, "1"):
        done = await trio.run_process(
            command, capture_stdout=True, stderr=subprocess.STDOUT, check=False, cwd=tmp_path
        )
    assert done.returncode == 0, done.stdout.decode()
    assert f"{len(document['paths'])} selected".encode() in done.stdout
