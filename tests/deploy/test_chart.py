"""The Helm chart: what it renders is what Kubernetes accepts, and what the service needs."""

from __future__ import annotations

import json
import subprocess
from typing import Any

import kubernetes_validate
import pytest
import yaml

from tests.support.tools import ROOT, tool
from trio_sse.settings import Settings

CHART = ROOT / "deploy" / "helm" / "trio-sse"
EVERYTHING = {
    "metrics": {"enabled": True},
    "serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
    "prometheusRule": {"enabled": True},
    "dashboard": {"enabled": True},
    "autoscaling": {"enabled": True},
    "ingress": {"enabled": True, "className": "nginx", "tlsSecret": "tls"},
    "secrets": {"REDIS_PASSWORD": {"secret": "redis", "key": "password"}},
    "settings": {"SSE_REDIS_STREAM": "notes", "SSE_BUFFER": 20, "SSE_PRESENCE": True},
    "networkPolicy": {"metricsFrom": [{"namespaceSelector": {"matchLabels": {"name": "monitoring"}}}]},
    "podAnnotations": {"a": "b"},
    "tolerations": [{"key": "dedicated", "operator": "Exists"}],
}
OF_THE_OPERATOR = {"ServiceMonitor", "PrometheusRule"}
"""Kinds that Kubernetes itself does not know."""

KUBERNETES = "1.34"


def helm(*arguments: str, values: object = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [tool("helm"), *arguments, "--values=-"],
        input=json.dumps(values or {}),
        capture_output=True,
        text=True,
        check=False,
    )


def rendered(values: object = None) -> dict[tuple[str, str], Any]:
    """The objects, by kind and name."""
    done = helm("template", "x", str(CHART), f"--kube-version={KUBERNETES}", values=values)
    assert done.returncode == 0, done.stderr
    found = [one for one in yaml.safe_load_all(done.stdout) if one]
    return {(one["kind"], one["metadata"]["name"]): one for one in found}


@pytest.mark.parametrize("values", [{}, EVERYTHING], ids=["defaults", "everything"])
def test_it_is_what_kubernetes_accepts(values: object) -> None:
    linted = helm("lint", "--strict", str(CHART), values=values)
    assert linted.returncode == 0, linted.stdout
    objects = rendered(values)
    assert {kind for kind, _ in objects} >= OF_THE_OPERATOR or not values
    for (kind, _), one in objects.items():
        if kind not in OF_THE_OPERATOR:
            kubernetes_validate.validate(one, KUBERNETES, strict=True)


def pod(values: object = None) -> Any:
    return rendered(values)["Deployment", "x-trio-sse"]["spec"]["template"]["spec"]


def environment(values: object = None) -> dict[str, str]:
    return {one["name"]: one["value"] for one in pod(values)["containers"][0]["env"]}


def test_a_pod_is_stopped_no_sooner_than_it_has_drained() -> None:
    drain, pre_stop = 120, 7
    values = {"drainSeconds": drain, "preStopSeconds": pre_stop}
    stopping = pod(values)
    assert environment(values)["SSE_DRAIN_SECONDS"] == str(drain)
    assert stopping["containers"][0]["lifecycle"]["preStop"] == {"sleep": {"seconds": pre_stop}}
    assert stopping["terminationGracePeriodSeconds"] == pre_stop + drain + 10


def test_no_pod_goes_before_another_is_ready() -> None:
    objects = rendered()
    strategy = objects["Deployment", "x-trio-sse"]["spec"]["strategy"]["rollingUpdate"]
    assert strategy["maxUnavailable"] == 0
    assert objects["PodDisruptionBudget", "x-trio-sse"]["spec"]["maxUnavailable"] == 1


def test_only_a_process_that_no_longer_works_is_started_again() -> None:
    container = pod()["containers"][0]
    paths = {name: container[f"{name}Probe"]["httpGet"]["path"] for name in ("liveness", "readiness")}
    assert paths == {"liveness": "/healthz", "readiness": "/readyz"}
    slow, quick = container["livenessProbe"], container["readinessProbe"]
    assert slow["periodSeconds"] * slow["failureThreshold"] >= 30
    assert quick["periodSeconds"] * quick["failureThreshold"] <= 5


@pytest.mark.parametrize("values", [{}, EVERYTHING], ids=["defaults", "everything"])
def test_what_it_sets_are_settings_of_the_service(values: object) -> None:
    known = {str(field.validation_alias) for field in Settings.model_fields.values()}
    assert {name.removesuffix("_FILE") for name in environment(values)} <= known


def test_secrets_are_mounted_where_the_service_looks_for_them() -> None:
    spec = pod(EVERYTHING)
    path = environment(EVERYTHING)["REDIS_PASSWORD_FILE"]
    mounted = {one["name"]: one["mountPath"] for one in spec["containers"][0]["volumeMounts"]}
    (volume,) = [one for one in spec["volumes"] if one.get("secret", {}).get("secretName") == "redis"]
    assert f"{mounted[volume['name']]}/{volume['secret']['items'][0]['path']}" == path


def test_prometheus_finds_the_port_that_the_service_has() -> None:
    objects = rendered(EVERYTHING)
    monitor = objects["ServiceMonitor", "x-trio-sse"]["spec"]
    service = objects["Service", "x-trio-sse-metrics"]
    assert monitor["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    plain = objects["Service", "x-trio-sse"]
    assert not monitor["selector"]["matchLabels"].items() <= plain["metadata"]["labels"].items()
    (port,) = service["spec"]["ports"]
    assert monitor["endpoints"][0]["port"] == port["name"]
    (container,) = pod(EVERYTHING)["containers"]
    ports = {one["name"]: one["containerPort"] for one in container["ports"]}
    assert ports[port["targetPort"]] == int(environment(EVERYTHING)["SSE_METRICS_PORT"])


def test_prometheus_has_the_token_that_the_service_asks_for() -> None:
    endpoint = "ServiceMonitor", "x-trio-sse"
    (plain,) = rendered(EVERYTHING)[endpoint]["spec"]["endpoints"]
    assert "authorization" not in plain
    secrets = {"SSE_METRICS_TOKEN": {"secret": "metrics", "key": "token"}}
    (asking,) = rendered({**EVERYTHING, "secrets": secrets})[endpoint]["spec"]["endpoints"]
    assert asking["authorization"]["credentials"] == {"name": "metrics", "key": "token"}


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"replicas": "two"}, "replicas"),
        ({"replica": 2}, "replica"),
        ({"settings": {"LOG_LEVEL": "debug"}}, "LOG_LEVEL"),
        ({"settings": {"SSE_DRAIN_SECONDS": 5}}, "SSE_DRAIN_SECONDS"),
        ({"settings": {"SSE_CORS_ORIGINS": ["https://a.example"]}}, "SSE_CORS_ORIGINS"),
        ({"secrets": {"REDIS_PASSWORD": {"secret": "redis"}}}, "key"),
        ({"podDisruptionBudget": {"maxUnavailable": 0}}, "maxUnavailable"),
        ({"serviceMonitor": {"enabled": True}}, "metrics.enabled"),
    ],
)
def test_values_that_are_wrong_are_refused_by_name(values: object, complaint: str) -> None:
    done = helm("template", "x", str(CHART), f"--kube-version={KUBERNETES}", values=values)
    assert done.returncode != 0
    assert complaint in done.stderr
