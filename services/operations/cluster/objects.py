"""Accessors for Kubernetes objects, which are plain dictionaries. Pure functions."""

from collections.abc import Iterable, Iterator, Mapping
from decimal import Decimal
from typing import Any

from kubernetes.utils.quantity import parse_quantity

from services.operations.cluster.api import Object

NAME_LABEL = "app.kubernetes.io/name"
INSTANCE_LABEL = "app.kubernetes.io/instance"
COMPONENT_LABEL = "app.kubernetes.io/component"

ResourceList = dict[str, Decimal]  # quantities in base units by resource name, as in "cpu" or "nvidia.com/gpu"


def name_of(thing: Object) -> str:
    """`metadata.name`."""
    return str(thing["metadata"]["name"])


def labels_of(thing: Object) -> dict[str, str]:
    """`metadata.labels`; empty if there are none."""
    return dict(thing["metadata"].get("labels") or {})


def annotations_of(thing: Object) -> dict[str, str]:
    """`metadata.annotations`; empty if there are none."""
    return dict(thing["metadata"].get("annotations") or {})


def component_of(thing: Object) -> str:
    """Component of a release that the object belongs to, as in "speech-encoder"; empty for none."""
    return labels_of(thing).get(COMPONENT_LABEL, "")


def nested(thing: Mapping[str, Any] | None, *path: str) -> Any:
    """Value of a nested field; None if any part of the path is missing."""
    for key in path:
        if not isinstance(thing, Mapping):
            return None
        thing = thing.get(key)
    return thing


def selector_matches(selector: Mapping[str, str] | None, labels: Mapping[str, str]) -> bool:
    """Whether a Service's selector matches these labels; an empty selector matches none."""
    return bool(selector) and all(labels.get(key) == value for key, value in (selector or {}).items())


def quantity(text: object) -> Decimal:
    """Parses a quantity such as "500m" or "2Gi" into its base unit (cores, bytes, pieces). Raises ValueError."""
    return Decimal(parse_quantity(text))  # type: ignore[no-untyped-call]


def pod_requests(pod_spec: Object) -> ResourceList:
    """Resources that the scheduler reserves for a pod.

    That is the larger of the sum of all containers and the maximum of the init containers, plus the overhead. A limit
    without a request counts as the request, as in the API server. Sidecars (init containers with restartPolicy Always)
    count like containers.
    """
    total: ResourceList = {}
    init_max: ResourceList = {}
    for container in pod_spec.get("initContainers") or ():
        own = container_requests(container)
        if container.get("restartPolicy") == "Always":
            _add(total, own)
        for resource in own:
            init_max[resource] = max(init_max.get(resource, Decimal(0)), own[resource])
    for container in pod_spec.get("containers") or ():
        _add(total, container_requests(container))
    total |= {resource: max(total.get(resource, Decimal(0)), value) for resource, value in init_max.items()}
    _add(total, {resource: quantity(value) for resource, value in (pod_spec.get("overhead") or {}).items()})
    return total


def pod_limits(pod_spec: Object) -> ResourceList:
    """Sum of the limits of a pod's containers."""
    total: ResourceList = {}
    for container in pod_spec.get("containers") or ():
        _add(total, container_limits(container))
    return total


def container_limits(container: Object) -> ResourceList:
    """Limits of a container."""
    return {resource: quantity(value) for resource, value in (nested(container, "resources", "limits") or {}).items()}


def container_requests(container: Object) -> ResourceList:
    """Requests of a container; a limit without a request counts as the request."""
    resources = container.get("resources") or {}
    merged = {**(resources.get("limits") or {}), **(resources.get("requests") or {})}
    return {resource: quantity(value) for resource, value in merged.items()}


def sum_resources(lists: Iterable[ResourceList]) -> ResourceList:
    """Sum by resource name."""
    total: ResourceList = {}
    for each in lists:
        _add(total, each)
    return total


def multiply_resources(resources: ResourceList, count: int) -> ResourceList:
    """Resources of `count` pods that are alike."""
    return {resource: value * count for resource, value in resources.items()}


def is_gpu_resource(resource: str) -> bool:
    """Whether a resource is an NVIDIA GPU, whole, time-sliced or a MIG slice such as nvidia.com/mig-1g.10gb."""
    kind = resource.removeprefix("nvidia.com/")
    return kind != resource and (kind.startswith("mig-") or kind in ("gpu", "gpu.shared"))


def holds_resources(pod: Object) -> bool:
    """Whether a pod occupies what it requests: it is bound to a node and has not terminated."""
    return bool(nested(pod, "spec", "nodeName")) and nested(pod, "status", "phase") not in ("Succeeded", "Failed")


def is_ready(thing: Object) -> bool:
    """Whether the condition Ready of a pod or node is true."""
    conditions = nested(thing, "status", "conditions") or ()
    return any(each.get("type") == "Ready" and each.get("status") == "True" for each in conditions)


def container_statuses(pod: Object) -> Iterator[Object]:
    """Container statuses of a pod, those of init containers first."""
    status = pod.get("status") or {}
    yield from status.get("initContainerStatuses") or ()
    yield from status.get("containerStatuses") or ()


def format_quantity(resource: str, value: Decimal) -> str:
    """A quantity for output: memory and storage in GiB, CPU in cores, anything else in pieces."""
    if "memory" in resource or "storage" in resource:
        return f"{float(value) / 2**30:.3g} GiB"
    return f"{float(value):.4g}"


def _add(total: ResourceList, more: ResourceList) -> None:
    for resource, value in more.items():
        total[resource] = total.get(resource, Decimal(0)) + value
