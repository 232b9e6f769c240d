"""`lyra cluster status`: one row per component, with metrics of its pods."""

import json
from typing import Any

import pytest

from services.operations.cluster.api import Cluster
from services.operations.cluster.release import find_release
from services.operations.cluster.status import ComponentStatus, status
from tests.integration.cluster.conftest import Lyra, Measure
from tests.integration.cluster.kube_api import KubeApi

COMPONENTS = [
    *("gateway", "speech-encoder", "vision-encoder", "language-model", "speech-synthesizer"),
    *("worker-plan", "worker-clips", "worker-answers", "beat"),
]

# Scripts read these: they never change.
KEYS = {
    *("component", "kind", "name", "ready", "wanted", "restarts", "image", "rollout", "autoscaler", "waiting"),
    *("audio_seconds_waiting", "running", "silent"),
}


def rows(cluster: Cluster) -> dict[str, ComponentStatus]:
    return {row.component: row for row in status(cluster, find_release(cluster))}


def test_components_are_in_the_order_of_a_request(cluster: Cluster) -> None:
    assert list(rows(cluster)) == COMPONENTS


def test_metrics_are_read_through_the_api_server(cluster: Cluster, measure: Measure) -> None:
    model, encoder, clock = (measure(f"lyra-{part}-0") for part in ("language-model", "speech-encoder", "beat"))
    model.running.labels("/lyra.v1.LanguageModel/Generate").set(3)
    model.waiting.labels("language_model").set(1)
    encoder.audio.set(94.0)
    clock.units.labels("clips").set(40)
    clock.units.labels("webhooks").set(2)
    found = rows(cluster)
    assert (found["language-model"].running, found["language-model"].waiting) == (3, 1)
    assert found["speech-encoder"].audio_seconds_waiting == 94.0
    assert found["worker-clips"].waiting == 40
    assert found["worker-plan"].waiting == 2
    assert found["language-model"].audio_seconds_waiting is None
    assert found["gateway"].without_metrics == 1


def test_scrapes_of_the_gateway_are_not_running_calls(cluster: Cluster, measure: Measure) -> None:
    gateway = measure("lyra-gateway-0")
    gateway.running.labels("GET /metrics").set(1)
    gateway.running.labels("POST /v1/chat/completions").set(2)
    assert rows(cluster)["gateway"].running == 2


def test_autoscalers_have_their_bounds(cluster: Cluster) -> None:
    found = rows(cluster)
    gateway, model = found["gateway"].autoscaler, found["language-model"].autoscaler
    assert gateway is not None
    assert model is not None
    assert (gateway.kind, gateway.min_replicas, gateway.max_replicas, gateway.current) == (
        "HorizontalPodAutoscaler",
        3,
        12,
        3,
    )
    assert (model.kind, model.min_replicas, model.max_replicas, model.current) == ("ScaledObject", 2, 16, 1)
    assert found["beat"].autoscaler is None


def test_without_keda_in_the_cluster_there_are_no_scaled_objects(api: KubeApi, cluster: Cluster) -> None:
    del api.kinds["keda.sh/v1alpha1"]
    api.remove("HorizontalPodAutoscaler", "keda-hpa-lyra-language-model")
    assert rows(cluster)["language-model"].autoscaler is None


def test_restarts_and_a_rollout_in_progress(api: KubeApi, cluster: Cluster) -> None:
    pod, workload = api.find("Pod", "lyra-gateway-0"), api.find("Deployment", "lyra-gateway")
    assert pod
    assert workload
    pod["status"]["containerStatuses"][0]["restartCount"] = 4
    workload["spec"]["replicas"] = 3
    api.add(pod, workload)
    row = rows(cluster)["gateway"]
    assert (row.ready, row.desired, row.restarts, row.rollout) == (1, 3, 4, "1 of 3 pods updated")


def test_table_has_a_line_per_component(lyra: Lyra, api: KubeApi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    result = lyra("status")
    assert result.exit_code == 0, result.output
    lines = [line.split() for line in result.stdout.splitlines()]
    assert [line[0] for line in lines[1:10]] == COMPONENTS
    assert "keda 1 (2..16)" in result.stdout
    assert "Metrics of 9 pods cannot be read" in result.stdout


def test_json_has_the_documented_keys(lyra: Lyra, api: KubeApi) -> None:
    page: list[dict[str, Any]] = json.loads(lyra("status", "--json", "--no-metrics").stdout)
    assert [row["component"] for row in page] == COMPONENTS
    assert page[0].keys() == KEYS
    assert page[0]["autoscaler"].keys() == {"kind", "name", "least", "most", "current", "paused"}
    assert not any("proxy" in each for each in api.requests)


def test_missing_right_to_the_pod_proxy_is_named(lyra: Lyra, api: KubeApi) -> None:
    api.denied = {("get", "pods/proxy")}
    result = lyra("status")
    assert result.exit_code == 1
    assert "not allowed to get pods/proxy in namespace lyra" in result.stderr
    assert lyra("status", "--no-metrics").exit_code == 0
