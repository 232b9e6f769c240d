"""Checks of the namespace: Secrets and ConfigMaps that the release refers to, quotas, limit ranges."""

from collections.abc import Iterator
from decimal import Decimal

from services.operations.cluster.api import CONFIG_MAPS, LIMIT_RANGES, QUOTAS, SECRETS, Kind, Object
from services.operations.cluster.checks import CheckContext, shortened
from services.operations.cluster.findings import Finding, good, missing, unknown
from services.operations.cluster.objects import (
    ResourceList,
    container_limits,
    container_requests,
    format_quantity,
    multiply_resources,
    name_of,
    nested,
    pod_limits,
    pod_requests,
    quantity,
    sum_resources,
)
from services.operations.cluster.release_requirements import Reference, Workload

_PULL_KEY = ".dockerconfigjson"
_TLS_KEYS = {"tls.crt", "tls.key"}


def secrets(context: CheckContext) -> Iterator[Finding]:
    """Secrets that the release refers to exist and have the required keys. Values are not read."""
    yield from _present(context, SECRETS, "Secret")


def config_maps(context: CheckContext) -> Iterator[Finding]:
    """ConfigMaps that the release refers to exist and have the required keys."""
    yield from _present(context, CONFIG_MAPS, "ConfigMap")


def _present(context: CheckContext, kind: Kind, word: str) -> Iterator[Finding]:
    complete, references = [], [each for each in context.requirements.references if each.kind == word]
    for each in references:
        found = context.cluster.find(kind, each.name)
        if found is None:
            what = f"{word} {each.name}, used by {shortened(each.referrers, 3)}, does not exist"
            yield missing(f"{word}s", "", what, _create(each, context.namespace))
            continue
        keys = {*(found.get("data") or {}), *(found.get("binaryData") or {})}
        if lacking := sorted(each.keys - keys):
            found_text = f"{word} {each.name} has {shortened(sorted(keys)) or 'no keys'}"
            yield missing(
                f"{word}s", found_text, f"it has no {shortened(lacking)}", _add(each, lacking, context.namespace)
            )
        else:
            complete.append(each.name)
    if complete:
        yield good(f"{word}s", f"{shortened(complete, 12)}, with the required keys")
    elif not references:
        yield good(f"{word}s", "the release needs none but its own")


def _create(reference: Reference, namespace: str) -> str:
    """The command that creates a missing Secret or ConfigMap."""
    start = f"kubectl -n {namespace} create"
    if reference.kind == "ConfigMap":
        return f"{start} configmap {reference.name}" + _literals(reference.keys, "--from-literal")
    if _PULL_KEY in reference.keys:
        login = "--docker-server=REGISTRY --docker-username=NAME --docker-password=PASSWORD"
        return f"{start} secret docker-registry {reference.name} {login}"
    if reference.keys == _TLS_KEYS:
        return f"{start} secret tls {reference.name} --cert=tls.crt --key=tls.key"
    files = {key for key in reference.keys if key.endswith(".json")}
    return (
        f"{start} secret generic {reference.name}"
        + "".join(f" --from-file={key}={key}" for key in sorted(files))
        + _literals(reference.keys - files, "--from-literal")
    )


def _literals(keys: frozenset[str] | set[str], flag: str) -> str:
    return "".join(f" {flag}={key}=VALUE" for key in sorted(keys))


def _add(reference: Reference, keys: list[str], namespace: str) -> str:
    field = "stringData" if reference.kind == "Secret" else "data"
    values = ",".join(f'"{key}":"VALUE"' for key in keys)
    return f"kubectl -n {namespace} patch {reference.kind.lower()} {reference.name} -p '{{\"{field}\":{{{values}}}}}'"


def quotas(context: CheckContext) -> Iterator[Finding]:
    """Every quota of the namespace has enough left for what the release does not use yet.

    Considers CPU, memory, GPUs, pods and storage, with autoscaled workloads at their minimum
    (https://kubernetes.io/docs/concepts/policy/resource-quotas/).
    """
    found = list(context.cluster.list(QUOTAS))
    if not found:
        yield good("quota", "the namespace has none")
        return
    requested = _requested(context)
    used_by_release = _used(context)
    fits = True
    for quota in found:
        name, spec = name_of(quota), quota.get("spec") or {}
        if spec.get("scopes") or spec.get("scopeSelector"):
            yield unknown("quota", f"{name} applies to some pods only (scopes) and was not compared")
            continue
        used = nested(quota, "status", "used") or {}
        for resource, hard in sorted((nested(quota, "status", "hard") or spec.get("hard") or {}).items()):
            if resource not in requested:
                continue
            available = quantity(hard) - quantity(used.get(resource, "0"))
            needed = requested[resource] - used_by_release.get(resource, Decimal(0))
            if needed > available:
                fits = False
                left, total = format_quantity(resource, available), format_quantity(resource, quantity(hard))
                more = " more" if used_by_release.get(resource) else ""
                yield missing(
                    "quota",
                    f"{name}: {left} of {total} {resource} left",
                    f"the release needs {format_quantity(resource, needed)}{more}",
                    f"raise it: kubectl -n {context.namespace} edit resourcequota {name}",
                    "or lower replicas or resources in the values",
                )
    if fits:
        yield good("quota", f"{shortened(name_of(each) for each in found)}: enough left")


def _requested(context: CheckContext) -> ResourceList:
    """Resources of the release by their names in quotas."""
    requirements = context.requirements
    total = sum_resources(_quota_resources(each.pod, each.replicas) for each in requirements.workloads)
    total["persistentvolumeclaims"] = Decimal(sum(each.count for each in requirements.claims))
    total["requests.storage"] = sum((quantity(each.size) * each.count for each in requirements.claims), Decimal(0))
    return total


def _used(context: CheckContext) -> ResourceList:
    """Resources that the release's existing pods and volumes already use."""
    pods = [each for each in context.release_pods if nested(each, "status", "phase") not in ("Succeeded", "Failed")]
    total = sum_resources(_quota_resources(each["spec"], 1) for each in pods)
    volumes = list(context.release_claims)
    total["persistentvolumeclaims"] = Decimal(len(volumes))
    sizes = (quantity(nested(each, "spec", "resources", "requests", "storage") or "0") for each in volumes)
    total["requests.storage"] = sum(sizes, Decimal(0))
    return total


def _quota_resources(pod: Object, count: int) -> ResourceList:
    requests, limits = multiply_resources(pod_requests(pod), count), multiply_resources(pod_limits(pod), count)
    named = {f"requests.{resource}": value for resource, value in requests.items()}
    named |= {f"limits.{resource}": value for resource, value in limits.items()}
    return named | {each: requests[each] for each in ("cpu", "memory") if each in requests} | {"pods": Decimal(count)}


def limit_ranges(context: CheckContext) -> Iterator[Finding]:
    """The namespace's limit ranges admit the release's containers
    (https://kubernetes.io/docs/concepts/policy/limit-range/)."""
    ranges = list(context.cluster.list(LIMIT_RANGES))
    if not ranges:
        yield good("limit ranges", "the namespace has none")
        return
    fits = True
    for each in ranges:
        for limit in nested(each, "spec", "limits") or ():
            for workload in context.requirements.workloads:
                for what in _violations(limit, workload):
                    fits = False
                    edit = f"or: kubectl -n {context.namespace} edit limitrange {name_of(each)}"
                    yield missing("limit ranges", name_of(each), what, "change resources in the values", edit)
    if fits:
        yield good("limit ranges", f"{shortened(name_of(each) for each in ranges)} admit all containers")


def _violations(limit: Object, workload: Workload) -> Iterator[str]:
    """Ways in which a workload's pods violate a limit."""
    if limit.get("type") == "Pod":
        measured = [("a pod", pod_requests(workload.pod), pod_limits(workload.pod))]
    elif limit.get("type") == "Container":
        containers = (*(workload.pod.get("initContainers") or ()), *(workload.pod.get("containers") or ()))
        measured = [(str(each["name"]), container_requests(each), container_limits(each)) for each in containers]
    else:
        return
    for who, requests, limits in measured:
        for resource, maximum in (limit.get("max") or {}).items():
            if limits.get(resource, Decimal(0)) > quantity(maximum):
                given = format_quantity(resource, limits[resource])
                yield f"{workload.name}: {who} has a limit of {given} {resource}, and at most {maximum} is allowed"
        for resource, minimum in (limit.get("min") or {}).items():
            if resource in requests and requests[resource] < quantity(minimum):
                given = format_quantity(resource, requests[resource])
                yield f"{workload.name}: {who} requests {given} {resource}, and at least {minimum} is required"
