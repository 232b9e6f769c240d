"""Free GPUs, and placement of pods on them."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from services.operations.cluster.capacity import gpu_nodes, place_gpu_pods
from services.operations.cluster.objects import pod_requests
from services.operations.cluster.release_requirements import Workload

GPU, MIG = "nvidia.com/gpu", "nvidia.com/mig-1g.10gb"
TAINT = {"key": "nvidia.com/gpu", "value": "present", "effect": "NoSchedule"}
ANY_TOLERATION = {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}


def node(name: str, *taints: dict[str, str], ready: bool = True, cordoned: bool = False, **gpus: int) -> dict[str, Any]:
    allocatable = {"cpu": "8", **{{"gpu": GPU, "mig": MIG}[kind]: str(count) for kind, count in gpus.items()}}
    return {
        "metadata": {"name": name, "labels": {"pool": name}},
        "spec": {"taints": list(taints), "unschedulable": cordoned},
        "status": {
            "allocatable": allocatable,
            "conditions": [{"type": "Ready", "status": "True" if ready else "False"}],
        },
    }


def spec(count: int, resource: str = GPU, **more: Any) -> dict[str, Any]:
    return {"containers": [{"name": "model", "resources": {"limits": {resource: str(count)}}}], **more}


def pod(on: str, count: int, phase: str = "Running") -> dict[str, Any]:
    return {
        "metadata": {"name": f"{on}-{count}", "uid": f"{on}-{count}"},
        "spec": {**spec(count), "nodeName": on},
        "status": {"phase": phase},
    }


def workload(replicas: int, count: int, resource: str = GPU, max_replicas: int = 0, **more: Any) -> Workload:
    return Workload("Deployment", "model", "model", replicas, max_replicas or replicas, spec(count, resource, **more))


def test_running_pods_occupy_gpus_and_finished_pods_do_not() -> None:
    (found,) = gpu_nodes([node("a", gpu=4)], [pod("a", 1), pod("a", 2, "Succeeded"), pod("elsewhere", 1)])
    assert found.free == {GPU: 3}


def test_mig_slices_are_separate_resources() -> None:
    nodes = gpu_nodes([node("a", gpu=1, mig=7)], [])
    (placement,) = place_gpu_pods([workload(2, 3, MIG)], nodes)
    assert (placement.replicas, placement.placed) == (2, 2)
    (placement,) = place_gpu_pods([workload(3, 3, MIG)], nodes)
    assert (placement.placed, placement.reason) == (2, "the others are in use")


def test_a_pod_cannot_use_gpus_of_several_nodes() -> None:
    (placement,) = place_gpu_pods([workload(1, 2)], gpu_nodes([node("a", gpu=1), node("b", gpu=1)], []))
    assert (placement.placed, placement.reason) == (0, "a pod needs 2 and no node has more than 1")


def test_untolerated_taints_exclude_a_node_and_are_named() -> None:
    nodes = gpu_nodes([node("a", TAINT, gpu=1)], [])
    (placement,) = place_gpu_pods([workload(1, 1)], nodes)
    assert "nvidia.com/gpu=present:NoSchedule" in placement.reason
    (placement,) = place_gpu_pods([workload(1, 1, tolerations=[ANY_TOLERATION])], nodes)
    assert placement.placed == 1
    (placement,) = place_gpu_pods([workload(1, 1, tolerations=[{"key": "nvidia.com/gpu", "value": "other"}])], nodes)
    assert placement.placed == 0


def test_node_selector_excludes_other_nodes() -> None:
    nodes = gpu_nodes([node("a", gpu=1), node("b", gpu=1)], [])
    (placement,) = place_gpu_pods([workload(2, 1, nodeSelector={"pool": "b"})], nodes)
    assert placement.placed == 1


def test_unready_and_cordoned_nodes_take_no_pods() -> None:
    nodes = gpu_nodes([node("a", ready=False, gpu=1), node("b", cordoned=True, gpu=1)], [])
    (placement,) = place_gpu_pods([workload(1, 1)], nodes)
    assert placement.reason == "the nodes that have it are not ready or cordoned"


def test_gpus_of_excluded_pods_are_free() -> None:
    own = pod("a", 1)
    (found,) = gpu_nodes([node("a", gpu=1)], [own], excluding=[own])
    assert found.free == {GPU: 1}


def test_init_container_counts_only_if_it_requests_more_than_all_containers() -> None:
    resources = [{"resources": {"requests": {"cpu": cpu}}} for cpu in ("500m", "1", "2")]
    total = pod_requests({"initContainers": resources[2:], "containers": resources[:2], "overhead": {"cpu": "100m"}})
    assert float(total["cpu"]) == 2.1


@given(st.lists(st.integers(0, 8), min_size=1, max_size=5), st.integers(1, 4), st.integers(0, 12))
def test_as_many_pods_are_placed_as_fit(sizes: list[int], per_pod: int, replicas: int) -> None:
    nodes = gpu_nodes([node(str(number), gpu=size) for number, size in enumerate(sizes)], [])
    (placement,) = place_gpu_pods([workload(replicas, per_pod)], nodes)
    assert placement.placed == min(replicas, sum(size // per_pod for size in sizes))
