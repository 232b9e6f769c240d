"""Invalid values are rejected with an error that names the value and what to set."""

from typing import Any

import pytest

from tests.chart.chart import RenderError, render
from tests.chart.combinations import SWITCHES, merge

BASE = SWITCHES["weights"]["base-store"]

# Values, and the parts that the error message must contain.
REJECTED: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "text instead of a number": (
        {"speechEncoder": {"replicas": "two"}},
        ("/speechEncoder/replicas", "want integer"),
    ),
    "number instead of a list": ({"adapters": 3}, ("/adapters", "want array")),
    "unknown key": ({"speechEncoder": {"replica": 2}}, ("/speechEncoder", "'replica' not allowed")),
    "unknown section": ({"speechencoder": {}}, ("'speechencoder' not allowed",)),
    "unknown setting": ({"gateway": {"settings": {"LYRA_MAX_RUNING": 3}}}, ("/gateway/settings", "LYRA_MAX_RUNING")),
    "setting of another service": ({"gateway": {"settings": {"LYRA_MAX_BATCH_CLIPS": 3}}}, ("LYRA_MAX_BATCH_CLIPS",)),
    "setting that the templates set": ({"gateway": {"settings": {"LYRA_PORT": 3}}}, ("LYRA_PORT",)),
    "setting of a wrong type": (
        {"gateway": {"settings": {"LYRA_MAX_RUNNING": "many"}}},
        ("LYRA_MAX_RUNNING", "want integer"),
    ),
    "setting below its minimum": ({"gateway": {"settings": {"LYRA_MAX_RUNNING": 0}}}, ("LYRA_MAX_RUNNING", "minimum")),
    "unknown preset": ({"preset": "large"}, ("/preset", "one of")),
    "no GPU with preset base": (
        merge(BASE, {"visionEncoder": {"gpu": {"count": 0}}}),
        ("visionEncoder.gpu.count is 0", "preset base", "set visionEncoder.gpu.count to at least 1"),
    ),
    "no GPU with a service's own preset base": (
        {"weights": {"source": "objectStore"}, "speechEncoder": {"preset": "base"}},
        ("speechEncoder.gpu.count is 0", "set"),
    ),
    "HPA and KEDA together": (
        {"speechEncoder": {"autoscaling": {"mode": ["hpa", "keda"]}}},
        ("/speechEncoder/autoscaling/mode", "want string"),
    ),
    "HPA and KEDA as separate keys": (
        {"speechEncoder": {"autoscaling": {"hpa": {"enabled": True}, "keda": {"enabled": True}}}},
        ("/speechEncoder/autoscaling", "'hpa'", "'keda'", "not allowed"),
    ),
    "replicas below the disruption budget": (
        {"gateway": {"replicas": 2, "podDisruptionBudget": {"minAvailable": 3}}},
        (
            "gateway.podDisruptionBudget.minAvailable is 3",
            "gateway.replicas is 2",
            "set gateway.replicas to at least 4",
        ),
    ),
    "replicas equal to the disruption budget": (
        {"gateway": {"replicas": 2, "podDisruptionBudget": {"minAvailable": 2}}},
        ("set gateway.replicas to at least 3", "maxUnavailable"),
    ),
    "minReplicas equal to the disruption budget": (
        {"worker": {"clips": {"autoscaling": {"mode": "hpa"}, "podDisruptionBudget": {"minAvailable": 1}}}},
        ("worker.clips.autoscaling.minReplicas is 1", "at least 2"),
    ),
    "preset above the memory limit": (
        merge(BASE, {"languageModel": {"resources": {"limits": {"memory": "16Gi"}}}}),
        ("languageModel.resources.limits.memory is 16Gi", "needs 19800 MiB", "set at least 19800Mi"),
    ),
    "nano above the memory limit": (
        {"languageModel": {"resources": {"requests": {"memory": "256Mi"}, "limits": {"memory": "512Mi"}}}},
        ("languageModel.resources.limits.memory is 512Mi", "set at least 1550Mi"),
    ),
    "preset above the memory of its GPU": (
        merge(BASE, {"languageModel": {"gpu": {"memoryGiB": 16}}}),
        ("languageModel.gpu has 16384 MiB", "preset base needs 19800 MiB"),
    ),
    "several GPUs per pod": (
        merge(BASE, {"languageModel": {"gpu": {"count": 2}}}),
        ("languageModel.gpu.count is 2", "set it to 1"),
    ),
    "preset above the memory of its MIG slice": (
        merge(BASE, {"languageModel": {"gpu": {"resource": "nvidia.com/mig-1g.10gb"}}}),
        ("languageModel.gpu has 10240 MiB", "nvidia.com/mig-1g.10gb"),
    ),
    "weights above the size limit of their cache": (
        merge(BASE, {"weights": {"cache": {"sizeLimit": "10Gi"}}}),
        ("weights.cache.sizeLimit is 10Gi", "21600"),
    ),
    "minReplicas above maxReplicas": (
        {"gateway": {"autoscaling": {"mode": "hpa", "minReplicas": 9, "maxReplicas": 3}}},
        ("gateway.autoscaling.minReplicas is 9", "set maxReplicas to at least 9"),
    ),
    "HPA that scales to zero": (
        {"visionEncoder": {"autoscaling": {"mode": "hpa", "minReplicas": 0}}},
        ("visionEncoder.autoscaling.minReplicas is 0", "mode to keda"),
    ),
    "keda without Prometheus": (
        {"visionEncoder": {"autoscaling": {"mode": "keda"}}},
        ("visionEncoder.autoscaling.mode is keda", "set monitoring.prometheus.address"),
    ),
    "workers on Prometheus without Prometheus": (
        {"worker": {"trigger": "prometheus", "plan": {"autoscaling": {"mode": "keda"}}}},
        ("worker.plan.autoscaling.mode is keda", "worker.trigger to redis"),
    ),
    "grace period shorter than the longest stream": (
        {"languageModel": {"longestStreamSeconds": 1200, "terminationGracePeriodSeconds": 900}},
        ("languageModel.terminationGracePeriodSeconds is 900", "set more than 1205"),
    ),
    "request above limit": (
        {"worker": {"plan": {"resources": {"requests": {"memory": "5Gi"}}}}},
        ("worker.plan.resources.requests.memory is 5Gi, above its limit 4Gi",),
    ),
    "rollout that cannot make progress": (
        {"gateway": {"rollout": {"maxSurge": 0}}},
        ("gateway.rollout", "set maxSurge or maxUnavailable to at least 1"),
    ),
    "latest": ({"image": {"models": {"tag": "latest"}}}, ("/image/models/tag",)),
    "malformed digest": ({"image": {"models": {"digest": "sha256:abc"}}}, ("/image/models/digest", "pattern")),
    "checkpoint from packages": (
        merge(BASE, {"weights": {"source": "packages"}}),
        ("weights.source is packages", "preset base", "set weights.source to objectStore or volume"),
    ),
    "volume without a claim": ({"weights": {"source": "volume"}}, ("set weights.volume.existingClaim",)),
    "adapter named base": ({"adapters": ["base"]}, ("/adapters/0",)),
    "no API key": ({"keys": {"create": False}}, ("set keys.existingSecret",)),
    "external Redis without a host": ({"redis": {"mode": "external"}}, ("set redis.external.host",)),
    "external store without an endpoint": (
        {"objectStore": {"mode": "external"}},
        ("set objectStore.external.endpoint",),
    ),
    "Ingress and Gateway API together": (
        merge(SWITCHES["entrance"]["ingress"], SWITCHES["entrance"]["gateway-api"]),
        ("ingress.enabled and gatewayApi.enabled", "set one of them to false"),
    ),
    "ingress without a host": ({"ingress": {"enabled": True}}, ("set ingress.host",)),
    "training without data": ({"training": {"enabled": True}}, ("training.dataClaim is empty",)),
}


@pytest.mark.parametrize("case", sorted(REJECTED))
def test_invalid_values_are_rejected_by_name(case: str) -> None:
    values, expected = REJECTED[case]

    with pytest.raises(RenderError) as error:
        render(values)

    text = " ".join(str(error.value).split())
    assert [part for part in expected if part not in text] == [], text


def test_kubernetes_older_than_the_chart_requires_is_rejected() -> None:
    with pytest.raises(RenderError, match="kubeVersion"):
        render(options=("--kube-version", "1.29.0"))
