"""A real Prometheus reads /metrics of two workers, and answers every query of alerts and dashboard."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.deploy.test_monitoring import DASHBOARD, MONITORING, RULES
from tests.support.client import eventually, streams
from tests.support.ports import free_port
from tests.support.process import Services
from tests.support.tools import listening, tool

pytestmark = [pytest.mark.integration, pytest.mark.slow]

CONFIGURATION = """
global: {{ scrape_interval: 1s, evaluation_interval: 1s }}
rule_files: [ "{rules}" ]
scrape_configs:
  - job_name: trio-sse
    static_configs: [ {{ targets: [ "127.0.0.1:{target}" ] }} ]
"""

MESSAGES = 200


@contextlib.contextmanager
def prometheus(directory: Path, target: int) -> Iterator[str]:
    """A Prometheus that asks this port. Yields its address."""
    port = free_port()
    configuration = directory / "prometheus.yaml"
    configuration.write_text(CONFIGURATION.format(rules=MONITORING / "alerts.yaml", target=target))
    command = [tool("prometheus"), f"--config.file={configuration}", f"--storage.tsdb.path={directory}/tsdb"]
    command += [f"--web.listen-address=127.0.0.1:{port}"]
    with listening(command, port, directory):
        yield f"http://127.0.0.1:{port}"


class Asking:
    """Asks a Prometheus."""

    def __init__(self, url: str) -> None:
        self._url = url

    def get(self, path: str, **parameters: str) -> Any:
        answer = httpx.get(f"{self._url}/api/v1/{path}", params=parameters, timeout=30).json()
        assert answer["status"] == "success", (parameters, answer)
        assert not answer.get("warnings"), (parameters, answer)
        return answer["data"]

    def query(self, expression: str) -> list[float]:
        return [float(one["value"][1]) for one in self.get("query", query=expression)["result"]]


def expressions() -> list[str]:
    """Those of alerts and dashboard, with what Grafana puts in the place of its variables."""
    panels = [target["expr"] for panel in DASHBOARD["panels"] for target in panel.get("targets", ())]
    shown = [text.replace("$job", ".+").replace("$__rate_interval", "1m") for text in panels]
    return [*(rule["expr"] for rule in RULES), *shown]


async def test_a_real_prometheus_answers_every_query(start: Services, valkey: int, tmp_path: Path) -> None:
    port = free_port()
    service = start(SSE_METRICS_PORT=str(port), SSE_WORKERS="2", SSE_REDIS_STREAM="test-prometheus")
    with prometheus(tmp_path, port) as url:
        asking = Asking(url)
        async with streams(service.port, ("1", "1", "2")) as clients:
            for number in range(MESSAGES):
                service.publish(1, n=number)
            for client in clients[:2]:
                for number in range(MESSAGES):
                    assert (await client.notification())["n"] == number
            delivered, open_now = "sum(trio_sse_delivered_total)", "trio_sse_streams"
            await eventually(
                lambda: asking.query(delivered) == [2.0 * MESSAGES] and asking.query(open_now) == [3.0],
                "Prometheus has seen it, of both workers",
                30,
            )
            for expression in expressions():
                asking.query(expression)
            for name in set(re.findall(r"trio_sse_\w+", " ".join(expressions()))):
                assert asking.query(f"count({name})"), f"{name}: there is none"
            loss = RULES[0]["expr"]
            assert asking.query(loss.replace("> 0", "")) == [0]
            assert asking.query(loss) == []
        rules = [rule for group in asking.get("rules")["groups"] for rule in group["rules"]]
        assert [rule["health"] for rule in rules] == ["ok"] * len(RULES)
        assert [alert for alert in asking.get("alerts")["alerts"] if alert["state"] == "firing"] == []
