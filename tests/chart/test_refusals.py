"""Values that are wrong are refused, by the name of what is wrong and with what to set."""

from typing import Any

import pytest

from tests.chart.chart import RenderError, render
from tests.chart.combinations import SWITCHES, merge

BASE = SWITCHES["weights"]["base-store"]

# What is set, and what has to be said about it.
REFUSED: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "text where a number belongs": (
        {"speechEncoder": {"replicas": "two"}},
        ("/speechEncoder/replicas", "want integer"),
    ),
    "number where a list belongs": ({"adapters": 3}, ("/adapters", "want array")),
    "unknown key": ({"speechEncoder": {"replica": 2}}, ("/speechEncoder", "'replica' not allowed")),
    "unknown section": ({"speechencoder": {}}, ("'speechencoder' not allowed",)),
    "unknown setting": ({"gateway": {"settings": {"LYRA_MAX_RUNING": 3}}}, ("/gateway/settings", "LYRA_MAX_RUNING")),
    "setting of another service": ({"gateway": {"settings": {"LYRA_MAX_BATCH_CLIPS": 3}}}, ("LYRA_MAX_BATCH_CLIPS",)),
    "setting that the chart sets itself": ({"gateway": {"settings": {"LYRA_PORT": 3}}}, ("LYRA_PORT",)),
    "setting of a wrong type": (
        {"gateway": {"settings": {"LYRA_MAX_RUNNING": "many"}}},
        ("LYRA_MAX_RUNNING", "want integer"),
    ),
    "setting under its minimum": ({"gateway": {"settings": {"LYRA_MAX_RUNNING": 0}}}, ("LYRA_MAX_RUNNING", "minimum")),
    "unknown preset": ({"preset": "large"}, ("/preset", "one of")),
    "no GPU with preset base": (
        merge(BASE, {"visionEncoder": {"gpu": {"count": 0}}}),
        ("visionEncoder.gpu.count is 0", "preset base", "set visionEncoder.gpu.count to at least 1"),
    ),
    "no GPU with a service's own preset base": (
        {"weights": {"source": "objectStore"}, "speechEncoder": {"preset": "base"}},
        ("speechEncoder.gpu.count is 0", "set"),
    ),
    "HPA and KEDA at once": (
        {"speechEncoder": {"autoscaling": {"mode": ["hpa", "keda"]}}},
        ("/speechEncoder/autoscaling/mode", "want string"),
    ),
    "HPA and KEDA by their own keys": (
        {"speechEncoder": {"autoscaling": {"hpa": {"enabled": True}, "keda": {"enabled": True}}}},
        ("/speechEncoder/autoscaling", "'hpa'", "'keda'", "not allowed"),
    ),
    "replicas under the disruption budget": (
        {"gateway": {"replicas": 2, "podDisruptionBudget": {"minAvailable": 3}}},
        (
            "gateway.podDisruptionBudget.minAvailable is 3",
            "gateway.replicas is 2",
            "set gateway.replicas to at least 4",
        ),
    ),
    "replicas at the disruption budget": (
        {"gateway": {"replicas": 2, "podDisruptionBudget": {"minAvailable": 2}}},
        ("set gateway.replicas to at least 3", "maxUnavailable"),
    ),
    "least autoscaled replicas under the disruption budget": (
        {"worker": {"clips": {"autoscaling": {"mode": "hpa"}, "podDisruptionBudget": {"minAvailable": 1}}}},
        ("worker.clips.autoscaling.minReplicas is 1", "at least 2"),
    ),
    "preset over the memory limit": (
        merge(BASE, {"languageModel": {"resources": {"limits": {"memory": "16Gi"}}}}),
        ("languageModel.resources.limits.memory is 16Gi", "needs 19800 MiB", "set at least 19800Mi"),
    ),
    "nano over the memory limit": (
        {"languageModel": {"resources": {"requests": {"memory": "256Mi"}, "limits": {"memory": "512Mi"}}}},
        ("languageModel.resources.limits.memory is 512Mi", "set at least 1550Mi"),
    ),
    "preset over the memory of its GPU": (
        merge(BASE, {"languageModel": {"gpu": {"memoryGiB": 16}}}),
        ("languageModel.gpu has 16384 MiB", "preset base needs 19800 MiB"),
    ),
    "several GPUs in a pod": (
        merge(BASE, {"languageModel": {"gpu": {"count": 2}}}),
        ("languageModel.gpu.count is 2", "set it to 1"),
    ),
    "preset over the memory of its MIG slice": (
        merge(BASE, {"languageModel": {"gpu": {"resource": "nvidia.com/mig-1g.10gb"}}}),
        ("languageModel.gpu has 10240 MiB", "nvidia.com/mig-1g.10gb"),
    ),
    "weights over their room on disk": (
        merge(BASE, {"weights": {"cache": {"sizeLimit": "10Gi"}}}),
        ("weights.cache.sizeLimit is 10Gi", "21600"),
    ),
    "min over max": (
        {"gateway": {"autoscaling": {"mode": "hpa", "minReplicas": 9, "maxReplicas": 3}}},
        ("gateway.autoscaling.minReplicas is 9", "set maxReplicas to at least 9"),
    ),
    "HPA to zero": (
        {"visionEncoder": {"autoscaling": {"mode": "hpa", "minReplicas": 0}}},
        ("visionEncoder.autoscaling.minReplicas is 0", "mode to keda"),
    ),
    "keda without Prometheus": (
        {"visionEncoder": {"autoscaling": {"mode": "keda"}}},
        ("visionEncoder.autoscaling.mode is keda", "set monitoring.prometheus.address"),
    ),
    "workers by Prometheus without Prometheus": (
        {"worker": {"trigger": "prometheus", "plan": {"autoscaling": {"mode": "keda"}}}},
        ("worker.plan.autoscaling.mode is keda", "worker.trigger to redis"),
    ),
    "killed before the longest stream ends": (
        {"languageModel": {"longestStreamSeconds": 1200, "terminationGracePeriodSeconds": 900}},
        ("languageModel.terminationGracePeriodSeconds is 900", "set more than 1205"),
    ),
    "request over limit": (
        {"worker": {"plan": {"resources": {"requests": {"memory": "5Gi"}}}}},
        ("worker.plan.resources.requests.memory is 5Gi, over its limit 4Gi",),
    ),
    "no pod may go or come": (
        {"gateway": {"rollout": {"maxSurge": 0}}},
        ("gateway.rollout", "set maxSurge or maxUnavailable to at least 1"),
    ),
    "latest": ({"image": {"models": {"tag": "latest"}}}, ("/image/models/tag",)),
    "digest of another form": ({"image": {"models": {"digest": "sha256:abc"}}}, ("/image/models/digest", "pattern")),
    "checkpoint from packages": (
        merge(BASE, {"weights": {"source": "packages"}}),
        ("weights.source is packages", "preset base", "set weights.source to objectStore or volume"),
    ),
    "volume without a claim": ({"weights": {"source": "volume"}}, ("set weights.volume.existingClaim",)),
    "adapter named base": ({"adapters": ["base"]}, ("/adapters/0",)),
    "nobody has a key": ({"keys": {"create": False}}, ("set keys.existingSecret",)),
    "external Redis without a host": ({"redis": {"mode": "external"}}, ("set redis.external.host",)),
    "external store without an endpoint": (
        {"objectStore": {"mode": "external"}},
        ("set objectStore.external.endpoint",),
    ),
    "two ways in": (
        merge(SWITCHES["entrance"]["ingress"], SWITCHES["entrance"]["gateway-api"]),
        ("ingress.enabled and gatewayApi.enabled", "set one of them to false"),
    ),
    "ingress without a host": ({"ingress": {"enabled": True}}, ("set ingress.host",)),
    "training without data": ({"training": {"enabled": True}}, ("training.dataClaim is empty",)),
}


@pytest.mark.parametrize("case", sorted(REFUSED))
def test_values_are_refused_by_name(case: str) -> None:
    values, said = REFUSED[case]

    with pytest.raises(RenderError) as refused:
        render(values)

    text = " ".join(str(refused.value).split())
    assert [part for part in said if part not in text] == [], text


def test_kubernetes_older_than_the_chart_needs_is_refused() -> None:
    with pytest.raises(RenderError, match="kubeVersion"):
        render(options=("--kube-version", "1.29.0"))
