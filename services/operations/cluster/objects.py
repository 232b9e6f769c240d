"""Kubernetes objects as dictionaries: the few questions that everybody asks of them. Pure functions."""

from collections.abc import Iterable, Iterator, Mapping
from decimal import Decimal
from typing import Any

from kubernetes.utils.quantity import parse_quantity

from services.operations.cluster.api import Object

NAME_LABEL = "app.kubernetes.io/name"
INSTANCE_LABEL = "app.kubernetes.io/instance"
COMPONENT_LABEL = "app.kubernetes.io/component"

Amounts = dict[str, Decimal]


def name_of(thing: Object) -> str:
    return str(thing["metadata"]["name"])


def labels_of(thing: Object) -> dict[str, str]:
    return dict(thing["metadata"].get("labels") or {})


def annotations_of(thing: Object) -> dict[str, str]:
    return dict(thing["metadata"].get("annotations") or {})


def component_of(thing: Object) -> str:
    """Which part of a release it belongs to, as in "speech-encoder"; empty for none."""
    return labels_of(thing).get(COMPONENT_LABEL, "")


def pick(thing: Mapping[str, Any] | None, *path: str) -> Any:
    """What lies under `path`; None where the way there ends before."""
    for key in path:
        if not isinstance(thing, Mapping):
            return None
        thing = thing.get(key)
    return thing


def selects(selector: Mapping[str, str] | None, labels: Mapping[str, str]) -> bool:
    """Whether a Service's selector takes an object with these labels; an empty one takes none."""
    return bool(selector) and all(labels.get(key) == value for key, value in (selector or {}).items())


def amount(quantity: object) -> Decimal:
    """Of a resource, in its base unit: cores, bytes, pieces. Raises ValueError for what is no quantity."""
    return Decimal(parse_quantity(quantity))  # type: ignore[no-untyped-call]


def requests_of(pod_spec: Object) -> Amounts:
    """What the scheduler sets aside for a pod: its containers together, or its hungriest init container, and overhead.

    Where only a limit is given, it is the request as well, as the API server has it. Init containers that restart
    always run beside the containers and count like them.
    """
    together: Amounts = {}
    most: Amounts = {}
    for container in pod_spec.get("initContainers") or ():
        own = container_requests(container)
        if container.get("restartPolicy") == "Always":
            _add(together, own)
        for resource in own:
            most[resource] = max(most.get(resource, Decimal(0)), own[resource])
    for container in pod_spec.get("containers") or ():
        _add(together, container_requests(container))
    total = {resource: max(together.get(resource, Decimal(0)), value) for resource, value in most.items()}
    total = together | total
    _add(total, {resource: amount(value) for resource, value in (pod_spec.get("overhead") or {}).items()})
    return total


def limits_of(pod_spec: Object) -> Amounts:
    """Limits of a pod's containers together."""
    total: Amounts = {}
    for container in pod_spec.get("containers") or ():
        _add(total, container_limits(container))
    return total


def container_limits(container: Object) -> Amounts:
    return {resource: amount(value) for resource, value in (pick(container, "resources", "limits") or {}).items()}


def container_requests(container: Object) -> Amounts:
    """What it requests; a limit without a request is one."""
    resources = container.get("resources") or {}
    merged = {**(resources.get("limits") or {}), **(resources.get("requests") or {})}
    return {resource: amount(value) for resource, value in merged.items()}


def sum_of(several: Iterable[Amounts]) -> Amounts:
    total: Amounts = {}
    for each in several:
        _add(total, each)
    return total


def times(amounts: Amounts, count: int) -> Amounts:
    return {resource: value * count for resource, value in amounts.items()}


def is_gpu(resource: str) -> bool:
    """Whether it is a GPU of NVIDIA, or a part of one (MIG: nvidia.com/mig-1g.10gb), also a shared one."""
    kind = resource.removeprefix("nvidia.com/")
    return kind != resource and (kind.startswith("mig-") or kind in ("gpu", "gpu.shared"))


def is_running(pod: Object) -> bool:
    """Whether it holds what it requests: it has a node and has not ended."""
    return bool(pick(pod, "spec", "nodeName")) and pick(pod, "status", "phase") not in ("Succeeded", "Failed")


def is_ready(thing: Object) -> bool:
    """Whether its condition Ready (of a pod, of a node) is true."""
    conditions = pick(thing, "status", "conditions") or ()
    return any(each.get("type") == "Ready" and each.get("status") == "True" for each in conditions)


def container_states(pod: Object) -> Iterator[Object]:
    """Of init containers first."""
    status = pod.get("status") or {}
    yield from status.get("initContainerStatuses") or ()
    yield from status.get("containerStatuses") or ()


def show_amount(resource: str, value: Decimal) -> str:
    """For people: memory and storage in GiB, CPU in cores, anything else in pieces."""
    if "memory" in resource or "storage" in resource:
        return f"{float(value) / 2**30:.3g} GiB"
    return f"{float(value):.4g}"


def _add(total: Amounts, more: Amounts) -> None:
    for resource, value in more.items():
        total[resource] = total.get(resource, Decimal(0)) + value
