"""Free GPUs, and whether pods find room, from plain objects."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from services.operations.cluster.capacity import gpu_nodes, room_for
from services.operations.cluster.objects import requests_of
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


def workload(replicas: int, count: int, resource: str = GPU, most: int = 0, **more: Any) -> Workload:
    return Workload("Deployment", "model", "model", replicas, most or replicas, spec(count, resource, **more))


def test_pods_that_run_hold_gpus_and_pods_that_ended_do_not() -> None:
    (found,) = gpu_nodes([node("a", gpu=4)], [pod("a", 1), pod("a", 2, "Succeeded"), pod("elsewhere", 1)])
    assert found.free == {GPU: 3}


def test_slices_are_counted_by_their_own_name() -> None:
    nodes = gpu_nodes([node("a", gpu=1, mig=7)], [])
    (room,) = room_for([workload(2, 3, MIG)], nodes)
    assert (room.wanted, room.fitting) == (2, 2)
    (room,) = room_for([workload(3, 3, MIG)], nodes)
    assert (room.fitting, room.why) == (2, "the others are taken")


def test_a_pod_does_not_spread_its_gpus_over_nodes() -> None:
    (room,) = room_for([workload(1, 2)], gpu_nodes([node("a", gpu=1), node("b", gpu=1)], []))
    assert (room.fitting, room.why) == (0, "a pod wants 2 and no node has more than 1")


def test_taints_that_are_not_tolerated_keep_pods_away_and_are_named() -> None:
    nodes = gpu_nodes([node("a", TAINT, gpu=1)], [])
    (room,) = room_for([workload(1, 1)], nodes)
    assert "nvidia.com/gpu=present:NoSchedule" in room.why
    (room,) = room_for([workload(1, 1, tolerations=[ANY_TOLERATION])], nodes)
    assert room.fitting == 1
    (room,) = room_for([workload(1, 1, tolerations=[{"key": "nvidia.com/gpu", "value": "other"}])], nodes)
    assert room.fitting == 0


def test_a_node_selector_keeps_pods_away_from_other_nodes() -> None:
    nodes = gpu_nodes([node("a", gpu=1), node("b", gpu=1)], [])
    (room,) = room_for([workload(2, 1, nodeSelector={"pool": "b"})], nodes)
    assert room.fitting == 1


def test_nodes_that_are_not_ready_or_cordoned_take_no_pods() -> None:
    nodes = gpu_nodes([node("a", ready=False, gpu=1), node("b", cordoned=True, gpu=1)], [])
    (room,) = room_for([workload(1, 1)], nodes)
    assert room.why == "the nodes that have it are not ready, or cordoned"


def test_pods_that_would_be_replaced_hold_nothing() -> None:
    own = pod("a", 1)
    (found,) = gpu_nodes([node("a", gpu=1)], [own], less=[own])
    assert found.free == {GPU: 1}


def test_an_init_container_counts_only_where_it_is_hungrier_than_the_rest() -> None:
    resources = [{"resources": {"requests": {"cpu": cpu}}} for cpu in ("500m", "1", "2")]
    total = requests_of({"initContainers": resources[2:], "containers": resources[:2], "overhead": {"cpu": "100m"}})
    assert float(total["cpu"]) == 2.1


@given(st.lists(st.integers(0, 8), min_size=1, max_size=5), st.integers(1, 4), st.integers(0, 12))
def test_pods_that_fit_are_never_more_than_there_is_room_for(sizes: list[int], each: int, wanted: int) -> None:
    nodes = gpu_nodes([node(str(number), gpu=size) for number, size in enumerate(sizes)], [])
    (room,) = room_for([workload(wanted, each)], nodes)
    assert room.fitting == min(wanted, sum(size // each for size in sizes))
