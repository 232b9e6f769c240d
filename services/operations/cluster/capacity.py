"""GPUs of a cluster, which of them are free, and whether a release's pods can be scheduled. Pure functions.

Free means allocatable minus what pods request, as the scheduler counts
(https://kubernetes.io/docs/concepts/scheduling-eviction/). MIG slices are resources of their own.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal

from services.operations.cluster.api import Object
from services.operations.cluster.objects import (
    ResourceList,
    holds_resources,
    is_gpu_resource,
    is_ready,
    labels_of,
    name_of,
    nested,
    pod_requests,
    quantity,
)
from services.operations.cluster.release_requirements import Workload


@dataclass(frozen=True, slots=True)
class GpuNode:
    """A node with GPUs.

    Attributes:
        allocatable, free: Number of GPUs by resource name, as in "nvidia.com/gpu".
        schedulable: Ready and not cordoned.
        taints: With effect NoSchedule or NoExecute.
        product: GPU model by the label of NVIDIA's GPU feature discovery; empty if unknown.
    """

    name: str
    labels: dict[str, str]
    taints: tuple[Object, ...]
    schedulable: bool
    product: str
    allocatable: dict[str, int]
    free: dict[str, int]


@dataclass(frozen=True, slots=True)
class Placement:
    """How many pods of a workload fit on the GPUs of a cluster.

    Attributes:
        resource: GPU resource that the pods request.
        per_pod: Number of GPUs per pod.
        replicas: Number of pods.
        placed: Number of them that fit.
        reason: Why not all of them fit; empty if they do.
    """

    workload: str
    resource: str
    per_pod: int
    replicas: int
    placed: int
    reason: str


def gpu_nodes(nodes: Iterable[Object], pods: Iterable[Object], excluding: Iterable[Object] = ()) -> list[GpuNode]:
    """Nodes that have GPUs.

    Args:
        nodes: All nodes of the cluster.
        pods: All pods of the cluster; their GPUs are not free.
        excluding: Pods among them whose GPUs count as free because the pods would be replaced.
    """
    excluded = {nested(each, "metadata", "uid") for each in excluding}
    held: dict[str, ResourceList] = {}
    for pod in pods:
        if holds_resources(pod) and nested(pod, "metadata", "uid") not in excluded:
            own = held.setdefault(str(nested(pod, "spec", "nodeName")), {})
            for resource, value in pod_requests(pod["spec"]).items():
                if is_gpu_resource(resource):
                    own[resource] = own.get(resource, Decimal(0)) + value
    found = []
    for node in nodes:
        offered = {
            resource: int(quantity(value))
            for resource, value in (nested(node, "status", "allocatable") or {}).items()
            if is_gpu_resource(resource) and quantity(value) > 0
        }
        if offered:
            found.append(_node(node, offered, held.get(name_of(node), {})))
    return found


def _node(node: Object, offered: dict[str, int], held: ResourceList) -> GpuNode:
    labels = labels_of(node)
    return GpuNode(
        name=name_of(node),
        labels=labels,
        taints=tuple(
            each for each in nested(node, "spec", "taints") or () if each.get("effect") in ("NoSchedule", "NoExecute")
        ),
        schedulable=is_ready(node) and not nested(node, "spec", "unschedulable"),
        product=labels.get("nvidia.com/gpu.product", ""),
        allocatable=offered,
        free={resource: max(0, count - int(held.get(resource, 0))) for resource, count in offered.items()},
    )


def place_gpu_pods(
    workloads: Sequence[Workload], nodes: Sequence[GpuNode], *, at_max_replicas: bool = False
) -> list[Placement]:
    """Places pods with GPUs on nodes greedily, those with the most GPUs first.

    Args:
        workloads: Those without GPUs are skipped.
        nodes: Nodes with their free GPUs.
        at_max_replicas: Whether to place the maximum instead of the minimum number of pods of autoscaled workloads.
    """
    free = {node.name: dict(node.free) for node in nodes}
    requests = []
    for each in workloads:
        for resource, value in pod_requests(each.pod).items():
            if is_gpu_resource(resource) and value > 0:
                requests.append((int(value), resource, each))
    placements = []
    for size, resource, workload in sorted(requests, key=lambda each: -each[0]):
        replicas = workload.max_replicas if at_max_replicas else workload.replicas
        allowed = [node for node in nodes if node.schedulable and _allows(node, workload.pod)]
        left = replicas
        for node in allowed:
            placed = min(left, free[node.name].get(resource, 0) // size)
            if placed:
                free[node.name][resource] -= placed * size
                left -= placed
        reason = _reason(resource, size, nodes, allowed) if left else ""
        placements.append(Placement(workload.name, resource, size, replicas, replicas - left, reason))
    return placements


def _allows(node: GpuNode, pod: Object) -> bool:
    """Whether a pod's node selector and tolerations allow a node; affinity is not evaluated.

    Tolerations that the admission plugin ExtendedResourceToleration would add are not considered.
    """
    selector = pod.get("nodeSelector") or {}
    return all(node.labels.get(key) == value for key, value in selector.items()) and all(
        any(_tolerates(toleration, taint) for toleration in pod.get("tolerations") or ()) for taint in node.taints
    )


def _tolerates(toleration: Object, taint: Object) -> bool:
    """https://kubernetes.io/docs/concepts/scheduling-eviction/taint-and-toleration/."""
    if toleration.get("effect") not in (None, "", taint.get("effect")):
        return False
    if toleration.get("operator", "Equal") == "Exists":
        return toleration.get("key") in (None, "", taint.get("key"))
    return bool(toleration.get("key") == taint.get("key") and toleration.get("value", "") == taint.get("value", ""))


def _reason(resource: str, size: int, nodes: Sequence[GpuNode], allowed: Sequence[GpuNode]) -> str:
    offering = [node for node in nodes if resource in node.allocatable]
    if not offering:
        return f"no node has {resource}"
    if not any(node in allowed for node in offering):
        schedulable = [node for node in offering if node.schedulable]
        if not schedulable:
            return "the nodes that have it are not ready or cordoned"
        taints = sorted(
            {f"{taint['key']}={taint.get('value', '')}:{taint['effect']}" for n in schedulable for taint in n.taints}
        )
        listed = f" (taints: {', '.join(taints)})" if taints else ""
        return f"node selector and tolerations exclude every node that has it{listed}"
    largest = max(node.allocatable[resource] for node in offering if node in allowed)
    if largest < size:
        return f"a pod needs {size} and no node has more than {largest}"
    return "the others are in use"
