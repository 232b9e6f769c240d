"""`lyra cluster doctor` finds what keeps a release from running, and nothing where all is there."""

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


def spoil(api: KubeApi, component: str, state: dict[str, Any], **status: Any) -> str:
    """Has a pod of a component wait, or end, in a certain way. Returns its name."""
    workload = api.find("Deployment", f"lyra-{component}")
    assert workload
    pod = pod_of(workload, 0, **status)
    pod["status"]["conditions"] = [{"type": "Ready", "status": "False"}]
    pod["status"]["containerStatuses"][0] |= {"ready": False, **state}
    api.add(pod)
    return str(pod["metadata"]["name"])


def test_a_release_that_has_all_it_needs_is_found_healthy(cluster: Cluster, lyra: Lyra) -> None:
    assert findings(cluster) == []
    result = lyra("doctor")
    assert result.exit_code == 0, result.output
    assert "9 of 9 ready" in result.stdout
    assert "revision 3, deployed" in result.stdout


def test_it_only_reads(api: KubeApi, cluster: Cluster) -> None:
    diagnose(cluster)
    assert {each.partition(" ")[0] for each in api.requests} == {"GET"}


def test_a_bare_cluster_is_told_all_that_a_release_would_lack(empty_api: KubeApi, lyra: Lyra, tmp_path: Any) -> None:
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


def test_a_manifest_may_come_from_stdin(api: KubeApi, lyra: Lyra) -> None:
    result = lyra("doctor", "--manifest", "-", input=manifest())
    assert result.exit_code == 0, result.output
    assert lyra("doctor", "--manifest", "-", input="a: [").exit_code == 1


def test_without_a_release_and_a_manifest_the_release_is_what_is_missing(empty_api: KubeApi, lyra: Lyra) -> None:
    result = lyra("doctor")
    assert result.exit_code == 1
    assert "there is no release of the chart lyra" in result.stdout


def test_a_server_that_is_too_old_is_found(api: KubeApi, cluster: Cluster) -> None:
    api.version = "v1.28.4"
    assert one(cluster, "Kubernetes").missing == "the chart asks for >=1.30.0-0"


def test_a_secret_that_is_not_there_comes_with_the_command_that_makes_it(api: KubeApi, cluster: Cluster) -> None:
    api.remove("Secret", "lyra-keys")
    found = one(cluster, "Secrets")
    assert "no Secret lyra-keys" in found.missing
    assert found.mend == ("kubectl -n lyra create secret generic lyra-keys --from-file=keys.json=keys.json",)


def test_a_secret_without_a_key_that_is_read_is_found(api: KubeApi, cluster: Cluster) -> None:
    secret = api.find("Secret", "lyra-object-store")
    assert secret
    del secret["data"]["secret-key"]
    api.add(secret)
    found = one(cluster, "Secrets")
    assert (found.found, found.missing) == ("Secret lyra-object-store has access-key", "it lacks secret-key")


def test_values_of_secrets_are_never_shown(api: KubeApi, lyra: Lyra) -> None:
    secret = api.find("Secret", "lyra-redis")
    assert secret
    secret["data"] = {"word": "aHVudGVyMg=="}
    api.add(secret)
    output = lyra("doctor").output + lyra("doctor", "--json").output
    assert "hunter2" not in output
    assert "aHVudGVyMg" not in output


def test_gpus_of_others_are_not_free(api: KubeApi, cluster: Cluster) -> None:
    notebook = api.find("Pod", "notebook-0")
    assert notebook
    notebook["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] = "2"
    api.add(notebook)
    found = one(cluster, "GPUs")
    assert "for each of 2 pods, and 1 find room: the others are taken" in found.missing
    assert "gpu-1 (NVIDIA-A100-SXM4-80GB): 0 of 3 nvidia.com/gpu free" in found.found


def test_a_release_that_may_outgrow_the_gpus_is_warned(cluster: Cluster) -> None:
    warned = findings(cluster, State.WARNING, "GPUs")
    assert any("lyra-language-model may grow to" in each.found for each in warned)


def test_a_slice_that_no_node_has_is_found(api: KubeApi, cluster: Cluster) -> None:
    for node in api.all("Node"):
        node["status"]["allocatable"].pop("nvidia.com/mig-2g.20gb", None)
        api.add(node)
    assert "no node has nvidia.com/mig-2g.20gb" in one(cluster, "GPUs").missing


def test_without_gpus_the_device_plugin_is_looked_at(api: KubeApi, cluster: Cluster) -> None:
    for node in api.all("Node"):
        node["status"]["allocatable"] = {"cpu": "8", "memory": "16Gi"}
        api.add(node)
    found = one(cluster, "GPUs")
    assert "device plugin nvidia-device-plugin/nvdp-nvidia-device-plugin: ready on 2 of 2 nodes" in found.found
    assert found.mend[0].startswith("kubectl -n nvidia-device-plugin logs")
    api.remove("DaemonSet", "nvdp-nvidia-device-plugin")
    assert any("nvdp/nvidia-device-plugin" in each for each in one(cluster, "GPUs").mend)


def test_kinds_that_the_server_does_not_know_are_found(api: KubeApi, cluster: Cluster) -> None:
    del api.kinds["keda.sh/v1alpha1"]
    found = one(cluster, "kinds of objects")
    assert "ScaledObject (keda.sh/v1alpha1)" in found.missing
    assert any("helm install keda" in each for each in found.mend)


def test_metrics_that_nobody_serves_are_found(api: KubeApi, cluster: Cluster) -> None:
    del api.kinds["metrics.k8s.io/v1beta1"]
    assert "metrics.k8s.io" in one(cluster, "metrics").missing


def test_an_image_that_cannot_be_fetched_is_told_with_the_reason_of_its_event(api: KubeApi, cluster: Cluster) -> None:
    waiting = {"state": {"waiting": {"reason": "ImagePullBackOff", "message": "Back-off pulling image"}}}
    pod = spoil(api, "gateway", waiting)
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
    assert "create secret docker-registry" in found.mend[0]
    event["message"] = f'Failed to pull image "{image}": manifest unknown: not found'
    api.add(event)
    assert "digest" in one(cluster, "images").mend[0]


@pytest.mark.parametrize(
    ("state", "words"),
    [
        (
            {"state": {"waiting": {"reason": "CrashLoopBackOff"}}, "lastState": {"terminated": {"exitCode": 2}}},
            "keeps ending with code 2",
        ),
        (
            {
                "state": {"waiting": {"reason": "CrashLoopBackOff"}},
                "lastState": {"terminated": {"reason": "OOMKilled"}},
            },
            "more memory than its limit",
        ),
        (
            {"state": {"waiting": {"reason": "CreateContainerConfigError", "message": 'secret "x" not found'}}},
            'secret "x" not found',
        ),
    ],
)
def test_pods_that_do_not_run_say_why(api: KubeApi, cluster: Cluster, state: dict[str, Any], words: str) -> None:
    spoil(api, "worker-clips", state)
    found = one(cluster, "pods")
    assert words in found.missing
    assert found.mend


def test_a_pod_that_finds_no_node_says_what_the_scheduler_says(api: KubeApi, cluster: Cluster) -> None:
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


def test_a_quota_that_is_too_small_for_what_is_not_running_yet_is_found(api: KubeApi, cluster: Cluster) -> None:
    for pod in api.all("Pod"):
        if pod["metadata"]["namespace"] == "lyra":
            api.remove("Pod", pod["metadata"]["name"])
    api.add(quota(pods="4", requests_cpu="100"))
    found = one(cluster, "quota")
    assert found.found == "team: 4 of 4 pods left"


def test_what_the_release_holds_already_is_not_counted_twice(api: KubeApi, cluster: Cluster) -> None:
    least = quota(pods="12")
    least["status"]["used"] = {"pods": "9"}  # those that run; two of the gateway and one of a model are to come
    api.add(least)
    assert findings(cluster, State.MISSING, "quota") == []
    least["status"]["used"] = {"pods": "11"}
    api.add(least)
    assert one(cluster, "quota").missing.endswith("more")


def test_a_limit_range_that_keeps_a_container_out_is_found(api: KubeApi, cluster: Cluster) -> None:
    limits = [{"type": "Container", "max": {"memory": "16Gi"}}]
    api.add({"apiVersion": "v1", "kind": "LimitRange", "metadata": {"name": "small"}, "spec": {"limits": limits}})
    words = " ".join(each.missing for each in findings(cluster, State.MISSING, "limit ranges"))
    assert "lyra-language-model: language-model may take 32 GiB memory, and at most 16Gi is allowed" in words


def test_what_may_not_be_read_is_told_and_the_rest_is_still_looked_at(api: KubeApi, lyra: Lyra) -> None:
    api.denied = {("list", "nodes"), ("list", "storageclasses"), ("list", "resourcequotas")}
    result = lyra("doctor", "--json")
    assert result.exit_code == 0
    page = json.loads(result.stdout)
    unknown = {each["check"]: each["missing"] for each in page["findings"] if each["state"] == "not checked"}
    assert unknown["GPUs"] == "you may not list nodes in the whole cluster"
    assert "quota" in unknown
    assert any(each["check"] == "pods" and each["state"] == "good" for each in page["findings"])


def test_a_release_that_helm_left_halfway_is_warned_of(api: KubeApi, cluster: Cluster) -> None:
    api.remove("Secret", "sh.helm.release.v1.lyra.v3")
    api.remove("Secret", "sh.helm.release.v1.lyra.v2")
    assert "Helm keeps no record" in one(cluster, "release", State.WARNING).missing


def test_a_namespace_that_is_not_there_is_found(empty_api: KubeApi, lyra: Lyra) -> None:
    result = lyra("doctor", "-n", "speech", "--manifest", "-", input=manifest())
    assert "kubectl create namespace speech" in result.stdout
    assert result.exit_code == 1
