"""Requirements of manifests, versions, rollouts, metrics, names of components."""

from typing import Any

import pytest
import yaml

from services.operations.cluster.cluster_errors import ClusterError
from services.operations.cluster.metrics import is_client_call, parse
from services.operations.cluster.release import component_name, read_manifest
from services.operations.cluster.release_requirements import release_requirements
from services.operations.cluster.scaling import values_section
from services.operations.cluster.status import rollout
from services.operations.cluster.versions import CHART_RANGE, in_range, parse_version
from tests.paths import ROOT


def deployment(**spec: Any) -> dict[str, Any]:
    pod = {"containers": [{"name": "a"}], **spec.pop("pod", {})}
    template = {"spec": pod}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "lyra-gateway", "generation": 2},
        "spec": {"template": template, **spec},
    }


def test_default_range_is_that_of_the_chart() -> None:
    chart = yaml.safe_load((ROOT / "helm" / "lyra" / "Chart.yaml").read_text())
    assert chart["kubeVersion"] == CHART_RANGE


@pytest.mark.parametrize(
    ("version", "constraint", "fits"),
    [
        ("v1.33.4-eks-a1b2", ">=1.30.0-0", True),
        ("v1.29.9+k3s1", ">=1.30.0-0", False),
        ("v1.30", ">= 1.30.0-0, < 1.38.0-0", True),
        ("v1.38.0", ">=1.30.0-0 <1.38.0-0", False),
    ],
)
def test_versions_are_compared_with_ranges(version: str, constraint: str, fits: bool) -> None:
    assert in_range(parse_version(version), constraint) is fits


@pytest.mark.parametrize("constraint", ["~1.30", ">=1.30 || <1.2", "1.x", ""])
def test_unsupported_range_is_rejected(constraint: str) -> None:
    with pytest.raises(ClusterError, match="kubeVersion"):
        in_range((1, 30, 0), constraint)


def test_external_references_are_collected_with_their_keys() -> None:
    pod = {
        "imagePullSecrets": [{"name": "registry"}],
        "containers": [
            {
                "name": "a",
                "env": [{"name": "X", "valueFrom": {"secretKeyRef": {"name": "redis", "key": "password"}}}],
                "envFrom": [{"secretRef": {"name": "all"}}, {"secretRef": {"name": "maybe", "optional": True}}],
            }
        ],
        "volumes": [
            {"name": "k", "secret": {"secretName": "keys", "items": [{"key": "keys.json", "path": "keys.json"}]}},
            {"name": "c", "configMap": {"name": "own"}},
            {"name": "w", "persistentVolumeClaim": {"claimName": "weights"}},
        ],
    }
    own = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "own"}}
    references = release_requirements([deployment(pod=pod), own]).references
    assert {(each.kind, each.name): set(each.keys) for each in references} == {
        ("Secret", "registry"): {".dockerconfigjson"},
        ("Secret", "redis"): {"password"},
        ("Secret", "all"): set(),
        ("Secret", "keys"): {"keys.json"},
        ("PersistentVolumeClaim", "weights"): set(),
    }


def test_a_certificate_issued_by_cert_manager_is_not_required() -> None:
    ingress: dict[str, Any] = {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "Ingress",
        "metadata": {"name": "lyra"},
        "spec": {"tls": [{"secretName": "tls"}]},
    }
    assert release_requirements([ingress]).references
    ingress["metadata"]["annotations"] = {"cert-manager.io/cluster-issuer": "letsencrypt"}
    assert not release_requirements([ingress]).references


def test_replicas_of_a_scaled_workload_are_those_of_its_autoscaler() -> None:
    scaled = {
        "apiVersion": "keda.sh/v1alpha1",
        "kind": "ScaledObject",
        "metadata": {"name": "lyra-gateway"},
        "spec": {"scaleTargetRef": {"name": "lyra-gateway"}, "maxReplicaCount": 9},
    }
    (workload,) = release_requirements([deployment(replicas=3), scaled]).workloads
    assert (workload.replicas, workload.max_replicas) == (0, 9)


def test_helm_test_pods_are_ignored() -> None:
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "t", "annotations": {"helm.sh/hook": "test"}}}
    assert not release_requirements([pod]).apis


@pytest.mark.parametrize("text", ["a: [", "- 1", "kind: Pod", "just words"])
def test_invalid_manifest_is_rejected(text: str) -> None:
    with pytest.raises(ClusterError, match="manifest"):
        read_manifest(text)


@pytest.mark.parametrize(
    ("status", "word"),
    [
        ({"observedGeneration": 1}, "starting"),
        ({"observedGeneration": 2, "updatedReplicas": 1, "replicas": 3}, "1 of 3 pods updated"),
        ({"observedGeneration": 2, "updatedReplicas": 3, "replicas": 4}, "1 old pods terminating"),
        ({"observedGeneration": 2, "updatedReplicas": 3, "replicas": 3, "availableReplicas": 2}, "2 of 3 pods"),
        ({"observedGeneration": 2, "updatedReplicas": 3, "replicas": 3, "availableReplicas": 3}, "done"),
        (
            {
                "observedGeneration": 2,
                "conditions": [{"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded"}],
            },
            "stuck",
        ),
    ],
)
def test_rollout_progress(status: dict[str, Any], word: str) -> None:
    assert rollout({**deployment(replicas=3), "status": status}).startswith(word)


def test_probes_and_scrapes_are_not_client_calls() -> None:
    assert is_client_call("/lyra.v1.LanguageModel/Generate")
    assert is_client_call("POST /v1/chat/completions")
    assert not is_client_call("GET /metrics")
    assert not is_client_call("/grpc.health.v1.Health/Watch")


def test_samples_are_summed_over_labels() -> None:
    samples = parse(
        'lyra_requests_running{method="/lyra.v1.A/B"} 2\nlyra_requests_running{method="GET /metrics"} 1\n'
        'lyra_units_waiting{queue="clips"} 7\nlyra_units_waiting{queue="plans"} 1\n'
    )
    assert samples.running_calls == 2
    assert samples.sum_by("lyra_units_waiting", "queue") == {"clips": 7, "plans": 1}
    assert samples.sum("lyra_audio_seconds_waiting") is None


@pytest.mark.parametrize("name", ["speech-encoder", "speechEncoder", "speech_encoder"])
def test_component_may_be_named_as_in_values_or_modules(name: str) -> None:
    assert component_name(name) == "speech-encoder"


def test_section_of_a_component_in_the_values() -> None:
    assert values_section("speech-encoder") == "speechEncoder"
    assert values_section("worker-clips") == "worker.clips"
    assert component_name("worker.clips") == "worker-clips"
