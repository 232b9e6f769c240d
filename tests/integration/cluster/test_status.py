"""`lyra cluster status`: one row for each part of a release, with what its pods tell."""

import json
from typing import Any

import pytest

from services.operations.cluster.api import Cluster
from services.operations.cluster.release import find_release
from services.operations.cluster.status import Row, status
from tests.integration.cluster.conftest import Lyra, Measure
from tests.integration.cluster.kube_api import KubeApi

PARTS = [
    *("gateway", "speech-encoder", "vision-encoder", "language-model", "speech-synthesizer"),
    *("worker-plan", "worker-clips", "worker-answers", "beat"),
]


def rows(cluster: Cluster) -> dict[str, Row]:
    return {row.component: row for row in status(cluster, find_release(cluster))}


def test_all_parts_are_told_in_the_order_in_which_a_request_passes_them(cluster: Cluster) -> None:
    assert list(rows(cluster)) == PARTS


def test_what_pods_measure_is_read_through_the_api_server(cluster: Cluster, measure: Measure) -> None:
    model, ears, clock = (measure(f"lyra-{part}-0") for part in ("language-model", "speech-encoder", "beat"))
    model.running.labels("/lyra.v1.LanguageModel/Generate").set(3)
    model.waiting.labels("language_model").set(1)
    ears.audio.set(94.0)
    clock.units.labels("clips").set(40)
    clock.units.labels("webhooks").set(2)
    found = rows(cluster)
    assert (found["language-model"].running, found["language-model"].waiting) == (3, 1)
    assert found["speech-encoder"].audio_seconds_waiting == 94.0
    assert found["worker-clips"].waiting == 40
    assert found["worker-plan"].waiting == 2
    assert found["language-model"].audio_seconds_waiting is None
    assert found["gateway"].silent == 1


def test_scrapes_of_the_gateway_are_no_running_calls(cluster: Cluster, measure: Measure) -> None:
    gateway = measure("lyra-gateway-0")
    gateway.running.labels("GET /metrics").set(1)
    gateway.running.labels("POST /v1/chat/completions").set(2)
    assert rows(cluster)["gateway"].running == 2


def test_autoscalers_are_told_with_their_bounds(cluster: Cluster) -> None:
    found = rows(cluster)
    gateway, model = found["gateway"].autoscaler, found["language-model"].autoscaler
    assert gateway is not None
    assert model is not None
    assert (gateway.kind, gateway.least, gateway.most, gateway.current) == ("HorizontalPodAutoscaler", 3, 12, 3)
    assert (model.kind, model.least, model.most, model.current) == ("ScaledObject", 2, 16, 1)
    assert found["beat"].autoscaler is None


def test_without_keda_in_the_cluster_there_are_no_scaled_objects(api: KubeApi, cluster: Cluster) -> None:
    del api.kinds["keda.sh/v1alpha1"]
    api.remove("HorizontalPodAutoscaler", "keda-hpa-lyra-language-model")
    assert rows(cluster)["language-model"].autoscaler is None


def test_restarts_and_a_rollout_on_its_way_are_seen(api: KubeApi, cluster: Cluster) -> None:
    pod, workload = api.find("Pod", "lyra-gateway-0"), api.find("Deployment", "lyra-gateway")
    assert pod
    assert workload
    pod["status"]["containerStatuses"][0]["restartCount"] = 4
    workload["spec"]["replicas"] = 3
    api.add(pod, workload)
    row = rows(cluster)["gateway"]
    assert (row.ready, row.wanted, row.restarts, row.rollout) == (1, 3, 4, "1 of 3 pods are new")


def test_the_table_has_a_line_for_each_part(lyra: Lyra, api: KubeApi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    result = lyra("status")
    assert result.exit_code == 0, result.output
    lines = [line.split() for line in result.stdout.splitlines()]
    assert [line[0] for line in lines[1:10]] == PARTS
    assert "keda 1 (2..16)" in result.stdout
    assert "9 pods do not tell waiting and running" in result.stdout


def test_json_has_the_same(lyra: Lyra, api: KubeApi) -> None:
    page: list[dict[str, Any]] = json.loads(lyra("status", "--json", "--no-metrics").stdout)
    assert [row["component"] for row in page] == PARTS
    assert not any("proxy" in each for each in api.requests)


def test_a_role_without_the_pod_proxy_is_told_which_right_it_lacks(lyra: Lyra, api: KubeApi) -> None:
    api.denied = {("get", "pods/proxy")}
    result = lyra("status")
    assert result.exit_code == 1
    assert "you may not get pods/proxy in the namespace lyra" in result.stderr
    assert lyra("status", "--no-metrics").exit_code == 0
