"""`lyra cluster doctor` finds what prevents a release from running, and nothing if it is healthy."""

import json
from typing import Any

import pytest

from services.operations.cluster.api import Cluster
from services.operations.cluster.doctor import diagnose
from services.operations.cluster.findings import Finding, State
from tests.integration.cluster.conftest import Lyra, manifest, pod_of
from tests.integration.cluster.kube_api import KubeApi, Object


def findings(cluster: Cluster, state: State = State.MISSING, check: str = "") -> list[Finding]:
    found = diagnose(cluster).findings
    return [each for each in found if each.state is state and check in ("", each.check)]


def one(cluster: Cluster, check: str, state: State = State.MISSING) -> Finding:
    (found,) = findings(cluster, state, check)
    return found


def break_pod(api: KubeApi, component: str, state: dict[str, Any], **status: Any) -> str:
    """Puts a pod of a component into a failing state. Returns its name."""
    workload = api.find("Deployment", f"lyra-{component}")
    assert workload
    pod = pod_of(workload, 0, **status)
    pod["status"]["conditions"] = [{"type": "Ready", "status": "False"}]
    pod["status"]["containerStatuses"][0] |= {"ready": False, **state}
    api.add(pod)
    return str(pod["metadata"]["name"])


def test_healthy_release_has_no_problems(cluster: Cluster, lyra: Lyra) -> None:
    assert findings(cluster) == []
    result = lyra("doctor")
    assert result.exit_code == 0, result.output
    assert "9 of 9 ready" in result.stdout
    assert "revision 3, deployed" in result.stdout


def test_it_is_read_only(api: KubeApi, cluster: Cluster) -> None:
    diagnose(cluster)
    assert {each.partition(" ")[0] for each in api.requests} == {"GET"}


def test_bare_cluster_lacks_what_a_manifest_needs(empty_api: KubeApi, lyra: Lyra, tmp_path: Any) -> None:
    path = tmp_path / "rendered.yaml"
    path.write_text(manifest())
    result = lyra("doctor", "--manifest", path, "--json")
    assert result.exit_code == 1
    page = json.loads(result.stdout)
    missing = [each for each in page["findings"] if each["state"] == "missing"]
    words = " ".join(each["missing"] for each in missing)
    for each in ("ScaledObject", "ServiceMonitor", "metrics.k8s.io", "Secret lyra-keys", "PersistentVolumeClaim"):
        assert each in words
    assert all(each["mend"] for each in missing)


def test_manifest_from_stdin(api: KubeApi, lyra: Lyra) -> None:
    result = lyra("doctor", "--manifest", "-", input=manifest())
    assert result.exit_code == 0, result.output
    assert lyra("doctor", "--manifest", "-", input="a: [").exit_code == 1


def test_without_a_manifest_a_missing_release_is_reported(empty_api: KubeApi, lyra: Lyra) -> None:
    result = lyra("doctor")
    assert result.exit_code == 1
    assert "there is no release of chart lyra" in result.stdout


def test_server_that_is_too_old_is_reported(api: KubeApi, cluster: Cluster) -> None:
    api.version = "v1.28.4"
    assert one(cluster, "Kubernetes").missing == "the chart requires >=1.30.0-0"


def test_missing_secret_comes_with_the_command_that_creates_it(api: KubeApi, cluster: Cluster) -> None:
    api.remove("Secret", "lyra-keys")
    found = one(cluster, "Secrets")
    assert "Secret lyra-keys, used by Deployment/lyra-gateway, does not exist" in found.missing
    assert found.remedies == ("kubectl -n lyra create secret generic lyra-keys --from-file=keys.json=keys.json",)


def test_secret_without_a_required_key_is_reported(api: KubeApi, cluster: Cluster) -> None:
    secret = api.find("Secret", "lyra-object-store")
    assert secret
    del secret["data"]["secret-key"]
    api.add(secret)
    found = one(cluster, "Secrets")
    assert (found.found, found.missing) == ("Secret lyra-object-store has access-key", "it has no secret-key")


def test_secret_values_are_never_shown(api: KubeApi, lyra: Lyra) -> None:
    secret = api.find("Secret", "lyra-redis")
    assert secret
    secret["data"] = {"word": "aHVudGVyMg=="}
    api.add(secret)
    output = lyra("doctor").output + lyra("doctor", "--json").output
    assert "hunter2" not in output
    assert "aHVudGVyMg" not in output


def test_gpus_of_other_pods_are_not_free(api: KubeApi, cluster: Cluster) -> None:
    notebook = api.find("Pod", "notebook-0")
    assert notebook
    notebook["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] = "2"
    api.add(notebook)
    found = one(cluster, "GPUs")
    assert "for each of 2 pods, of which 1 fit: the others are in use" in found.missing
    assert "gpu-1 (NVIDIA-A100-SXM4-80GB): 0 of 3 nvidia.com/gpu free" in found.found


def test_maximum_replicas_above_the_number_of_gpus_warn(cluster: Cluster) -> None:
    warned = findings(cluster, State.WARNING, "GPUs")
    assert any("pods of lyra-language-model fit" in each.found for each in warned)


def test_mig_slice_that_no_node_has_is_reported(api: KubeApi, cluster: Cluster) -> None:
    for node in api.all("Node"):
        node["status"]["allocatable"].pop("nvidia.com/mig-2g.20gb", None)
        api.add(node)
    assert "no node has nvidia.com/mig-2g.20gb" in one(cluster, "GPUs").missing


def test_without_gpus_the_device_plugin_is_checked(api: KubeApi, cluster: Cluster) -> None:
    for node in api.all("Node"):
        node["status"]["allocatable"] = {"cpu": "8", "memory": "16Gi"}
        api.add(node)
    found = one(cluster, "GPUs")
    assert "device plugin nvidia-device-plugin/nvdp-nvidia-device-plugin: ready on 2 of 2 nodes" in found.found
    assert found.remedies[0].startswith("kubectl -n nvidia-device-plugin logs")
    api.remove("DaemonSet", "nvdp-nvidia-device-plugin")
    assert any("nvdp/nvidia-device-plugin" in each for each in one(cluster, "GPUs").remedies)


def test_unknown_kinds_are_reported(api: KubeApi, cluster: Cluster) -> None:
    del api.kinds["keda.sh/v1alpha1"]
    found = one(cluster, "kinds of objects")
    assert "ScaledObject (keda.sh/v1alpha1)" in found.missing
    assert any("helm install keda" in each for each in found.remedies)


def test_missing_metrics_api_is_reported(api: KubeApi, cluster: Cluster) -> None:
    del api.kinds["metrics.k8s.io/v1beta1"]
    assert "metrics.k8s.io" in one(cluster, "metrics").missing


def test_failed_image_pull_is_reported_with_the_reason_of_its_event(api: KubeApi, cluster: Cluster) -> None:
    waiting = {"state": {"waiting": {"reason": "ImagePullBackOff", "message": "Back-off pulling image"}}}
    pod = break_pod(api, "gateway", waiting)
    image = "ghcr.io/lyra-platform/lyra-services:0.1.0"
    event = {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": "e1"},
        "involvedObject": {"kind": "Pod", "name": pod, "namespace": "lyra"},
        "reason": "Failed",
        "message": f'Failed to pull image "{image}": unexpected status: 401 Unauthorized',
    }
    api.add(event)
    found = one(cluster, "images")
    assert image in found.missing
    assert "401 Unauthorized" in found.missing
    assert "create secret docker-registry" in found.remedies[0]
    event["message"] = f'Failed to pull image "{image}": manifest unknown: not found'
    api.add(event)
    assert "digest" in one(cluster, "images").remedies[0]


@pytest.mark.parametrize(
    ("state", "words"),
    [
        (
            {"state": {"waiting": {"reason": "CrashLoopBackOff"}}, "lastState": {"terminated": {"exitCode": 2}}},
            "keeps exiting with code 2",
        ),
        (
            {
                "state": {"waiting": {"reason": "CrashLoopBackOff"}},
                "lastState": {"terminated": {"reason": "OOMKilled"}},
            },
            "exceeded its memory limit",
        ),
        (
            {"state": {"waiting": {"reason": "CreateContainerConfigError", "message": 'secret "x" not found'}}},
            'secret "x" not found',
        ),
    ],
)
def test_failing_pods_are_reported_with_their_reason(
    api: KubeApi, cluster: Cluster, state: dict[str, Any], words: str
) -> None:
    break_pod(api, "worker-clips", state)
    found = one(cluster, "pods")
    assert words in found.missing
    assert found.remedies


def test_unschedulable_pod_is_reported_with_the_scheduler_s_message(api: KubeApi, cluster: Cluster) -> None:
    workload = api.find("Deployment", "lyra-language-model")
    assert workload
    message = "0/3 nodes are available: 3 Insufficient nvidia.com/gpu."
    pod = pod_of(workload, 7, phase="Pending", containerStatuses=[])
    pod["status"]["conditions"] = [
        {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}
    ]
    del pod["spec"]["nodeName"]
    api.add(pod)
    assert message in one(cluster, "pods").missing


def quota(**hard: str) -> Object:
    hard = {name.replace("_", "."): value for name, value in hard.items()}
    used = dict.fromkeys(hard, "0")
    return {
        "apiVersion": "v1",
        "kind": "ResourceQuota",
        "metadata": {"name": "team"},
        "spec": {"hard": hard},
        "status": {"hard": hard, "used": used},
    }


def test_quota_too_small_for_missing_pods_is_reported(api: KubeApi, cluster: Cluster) -> None:
    for pod in api.all("Pod"):
        if pod["metadata"]["namespace"] == "lyra":
            api.remove("Pod", pod["metadata"]["name"])
    api.add(quota(pods="4", requests_cpu="100"))
    found = one(cluster, "quota")
    assert found.found == "team: 4 of 4 pods left"


def test_pods_of_the_release_are_not_counted_twice(api: KubeApi, cluster: Cluster) -> None:
    small = quota(pods="12")
    small["status"]["used"] = {"pods": "9"}  # those that run; two of the gateway and one of a model are missing
    api.add(small)
    assert findings(cluster, State.MISSING, "quota") == []
    small["status"]["used"] = {"pods": "11"}
    api.add(small)
    assert one(cluster, "quota").missing.endswith("more")


def test_limit_range_that_rejects_a_container_is_reported(api: KubeApi, cluster: Cluster) -> None:
    limits = [{"type": "Container", "max": {"memory": "16Gi"}}]
    api.add({"apiVersion": "v1", "kind": "LimitRange", "metadata": {"name": "small"}, "spec": {"limits": limits}})
    words = " ".join(each.missing for each in findings(cluster, State.MISSING, "limit ranges"))
    assert "lyra-language-model: language-model has a limit of 32 GiB memory, and at most 16Gi is allowed" in words


def test_checks_without_rights_are_skipped_and_reported(api: KubeApi, lyra: Lyra) -> None:
    api.denied = {("list", "nodes"), ("list", "storageclasses"), ("list", "resourcequotas")}
    result = lyra("doctor", "--json")
    assert result.exit_code == 0
    page = json.loads(result.stdout)
    unknown = {each["check"]: each["missing"] for each in page["findings"] if each["state"] == "not checked"}
    assert unknown["GPUs"] == "not allowed to list nodes in all namespaces"
    assert "quota" in unknown
    assert any(each["check"] == "pods" and each["state"] == "good" for each in page["findings"])


def test_release_without_a_helm_record_warns(api: KubeApi, cluster: Cluster) -> None:
    api.remove("Secret", "sh.helm.release.v1.lyra.v3")
    api.remove("Secret", "sh.helm.release.v1.lyra.v2")
    assert "Helm has no record" in one(cluster, "release", State.WARNING).missing


def test_missing_namespace_is_reported(empty_api: KubeApi, lyra: Lyra) -> None:
    result = lyra("doctor", "-n", "speech", "--manifest", "-", input=manifest())
    assert "kubectl create namespace speech" in result.stdout
    assert result.exit_code == 1
