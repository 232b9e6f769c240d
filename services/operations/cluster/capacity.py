"""Which GPUs a cluster has, which of them are free, and whether a release's pods would find room. Pure functions.

Free is what a node has to give (allocatable) less what its pods request, as the scheduler counts
(https://kubernetes.io/docs/concepts/scheduling-eviction/). Parts of GPUs (MIG) are resources of their own.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal

from services.operations.cluster.api import Object
from services.operations.cluster.objects import (
    Amounts,
    amount,
    is_gpu,
    is_ready,
    is_running,
    labels_of,
    name_of,
    pick,
    requests_of,
)
from services.operations.cluster.release_requirements import Workload


@dataclass(frozen=True, slots=True)
class Node:
    """A node with GPUs.

    Attributes:
        allocatable, free: GPUs by resource name, as in "nvidia.com/gpu".
        usable: It is ready, and takes new pods.
        taints: Those that keep pods away which do not tolerate them.
    """

    name: str
    labels: dict[str, str]
    taints: tuple[Object, ...]
    usable: bool
    product: str
    allocatable: dict[str, int]
    free: dict[str, int]


@dataclass(frozen=True, slots=True)
class Room:
    """How many pods of a workload would find their GPUs, and why not all of them would.

    Attributes:
        wanted: Pods.
        fitting: Of them, those that find room.
        resource: That they want.
        each: Pieces of it that one pod wants.
        why: Empty where all fit.
    """

    workload: str
    resource: str
    each: int
    wanted: int
    fitting: int
    why: str


def gpu_nodes(nodes: Iterable[Object], pods: Iterable[Object], less: Iterable[Object] = ()) -> list[Node]:
    """Nodes that have GPUs.

    Args:
        nodes: All of the cluster.
        pods: All of the cluster; what they hold is not free.
        less: Of them, pods that do not count because they would be replaced.
    """
    ignored = {pick(each, "metadata", "uid") for each in less}
    held: dict[str, Amounts] = {}
    for pod in pods:
        if is_running(pod) and pick(pod, "metadata", "uid") not in ignored:
            own = held.setdefault(str(pick(pod, "spec", "nodeName")), {})
            for resource, value in requests_of(pod["spec"]).items():
                if is_gpu(resource):
                    own[resource] = own.get(resource, Decimal(0)) + value
    found = []
    for node in nodes:
        offered = {
            resource: int(amount(value))
            for resource, value in (pick(node, "status", "allocatable") or {}).items()
            if is_gpu(resource) and amount(value) > 0
        }
        if offered:
            found.append(_node(node, offered, held.get(name_of(node), {})))
    return found


def _node(node: Object, offered: dict[str, int], held: Amounts) -> Node:
    labels = labels_of(node)
    return Node(
        name=name_of(node),
        labels=labels,
        taints=tuple(
            each for each in pick(node, "spec", "taints") or () if each.get("effect") in ("NoSchedule", "NoExecute")
        ),
        usable=is_ready(node) and not pick(node, "spec", "unschedulable"),
        product=labels.get("nvidia.com/gpu.product", ""),
        allocatable=offered,
        free={resource: max(0, count - int(held.get(resource, 0))) for resource, count in offered.items()},
    )


def room_for(workloads: Sequence[Workload], nodes: Sequence[Node], *, most: bool = False) -> list[Room]:
    """Places the pods that want GPUs, the hungriest first, as many on a node as fit, and tells how far that goes.

    Args:
        workloads: Those without GPUs are passed over.
        nodes: With what is free on them.
        most: Whether to place as many pods as autoscalers may make, instead of as many as they keep.
    """
    free = {node.name: dict(node.free) for node in nodes}
    asking = []
    for each in workloads:
        for resource, value in requests_of(each.pod).items():
            if is_gpu(resource) and value > 0:
                asking.append((int(value), resource, each))
    rooms = []
    for size, resource, workload in sorted(asking, key=lambda each: -each[0]):
        wanted = workload.most if most else workload.replicas
        allowed = [node for node in nodes if node.usable and _allows(node, workload.pod)]
        left = wanted
        for node in allowed:
            placed = min(left, free[node.name].get(resource, 0) // size)
            if placed:
                free[node.name][resource] -= placed * size
                left -= placed
        why = _why_not(resource, size, nodes, allowed) if left else ""
        rooms.append(Room(workload.name, resource, size, wanted, wanted - left, why))
    return rooms


def _allows(node: Node, pod: Object) -> bool:
    """Whether a node's labels and taints let a pod on it; its affinity is left to the scheduler.

    Some clusters add the toleration of a GPU's taint by themselves (ExtendedResourceToleration); what is said here
    holds without.
    """
    wanted = pod.get("nodeSelector") or {}
    return all(node.labels.get(key) == value for key, value in wanted.items()) and all(
        any(_tolerates(toleration, taint) for toleration in pod.get("tolerations") or ()) for taint in node.taints
    )


def _tolerates(toleration: Object, taint: Object) -> bool:
    """https://kubernetes.io/docs/concepts/scheduling-eviction/taint-and-toleration/."""
    if toleration.get("effect") not in (None, "", taint.get("effect")):
        return False
    if toleration.get("operator", "Equal") == "Exists":
        return toleration.get("key") in (None, "", taint.get("key"))
    return bool(toleration.get("key") == taint.get("key") and toleration.get("value", "") == taint.get("value", ""))


def _why_not(resource: str, size: int, nodes: Sequence[Node], allowed: Sequence[Node]) -> str:
    having = [node for node in nodes if resource in node.allocatable]
    if not having:
        return f"no node has {resource}"
    if not any(node in allowed for node in having):
        kept_off = [node for node in having if node.usable]
        if not kept_off:
            return "the nodes that have it are not ready, or cordoned"
        taints = sorted(
            {f"{taint['key']}={taint.get('value', '')}:{taint['effect']}" for n in kept_off for taint in n.taints}
        )
        reason = f" (taints: {', '.join(taints)})" if taints else ""
        return f"node selector and tolerations keep its pods off every node that has it{reason}"
    largest = max(node.allocatable[resource] for node in having if node in allowed)
    if largest < size:
        return f"a pod wants {size} and no node has more than {largest}"
    return "the others are taken"
