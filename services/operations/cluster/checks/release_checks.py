"""What the release asks of its namespace: Secrets and ConfigMaps that it names, room in quotas and limit ranges."""

from collections.abc import Iterator
from decimal import Decimal

from services.operations.cluster.api import CONFIG_MAPS, LIMIT_RANGES, QUOTAS, SECRETS, Kind, Object
from services.operations.cluster.checks import Subject, some
from services.operations.cluster.findings import Finding, good, missing, unknown
from services.operations.cluster.objects import (
    Amounts,
    amount,
    container_limits,
    container_requests,
    limits_of,
    name_of,
    pick,
    requests_of,
    show_amount,
    sum_of,
    times,
)
from services.operations.cluster.release_requirements import Named, Workload

_PULL_KEY = ".dockerconfigjson"
_TLS_KEYS = {"tls.crt", "tls.key"}


def secrets(subject: Subject) -> Iterator[Finding]:
    """Secrets that the release names are there, with the keys that it reads. Their values are not looked at."""
    yield from _present(subject, SECRETS, "Secret")


def config_maps(subject: Subject) -> Iterator[Finding]:
    """ConfigMaps that the release names are there, with the keys that it reads."""
    yield from _present(subject, CONFIG_MAPS, "ConfigMap")


def _present(subject: Subject, kind: Kind, word: str) -> Iterator[Finding]:
    there, named = [], [each for each in subject.requirements.named if each.kind == word]
    for each in named:
        found = subject.cluster.find(kind, each.name)
        if found is None:
            what = f"there is no {word} {each.name}, which {some(each.by, 3)} name{'s' if len(each.by) == 1 else ''}"
            yield missing(f"{word}s", "", what, _create(each, subject.namespace))
            continue
        keys = {*(found.get("data") or {}), *(found.get("binaryData") or {})}
        if lacking := sorted(each.keys - keys):
            found_text = f"{word} {each.name} has {some(sorted(keys)) or 'nothing in it'}"
            yield missing(f"{word}s", found_text, f"it lacks {some(lacking)}", _add(each, lacking, subject.namespace))
        else:
            there.append(each.name)
    if there:
        yield good(f"{word}s", f"{some(there, 12)}, with the keys that are read")
    elif not named:
        yield good(f"{word}s", "the release names none but its own")


def _create(named: Named, namespace: str) -> str:
    """The command that makes what is not there."""
    start = f"kubectl -n {namespace} create"
    if named.kind == "ConfigMap":
        return f"{start} configmap {named.name}" + _literals(named.keys, "--from-literal")
    if _PULL_KEY in named.keys:
        login = "--docker-server=REGISTRY --docker-username=NAME --docker-password=PASSWORD"
        return f"{start} secret docker-registry {named.name} {login}"
    if named.keys == _TLS_KEYS:
        return f"{start} secret tls {named.name} --cert=tls.crt --key=tls.key"
    files = {key for key in named.keys if key.endswith(".json")}
    return (
        f"{start} secret generic {named.name}"
        + "".join(f" --from-file={key}={key}" for key in sorted(files))
        + _literals(named.keys - files, "--from-literal")
    )


def _literals(keys: frozenset[str] | set[str], flag: str) -> str:
    return "".join(f" {flag}={key}=VALUE" for key in sorted(keys))


def _add(named: Named, keys: list[str], namespace: str) -> str:
    field = "stringData" if named.kind == "Secret" else "data"
    values = ",".join(f'"{key}":"VALUE"' for key in keys)
    return f"kubectl -n {namespace} patch {named.kind.lower()} {named.name} -p '{{\"{field}\":{{{values}}}}}'"


def quotas(subject: Subject) -> Iterator[Finding]:
    """Whether what the release asks for, less what it holds already, is left of each quota of the namespace.

    Counted are CPU, memory, GPUs, pods and storage, at the least number of pods that autoscalers keep
    (https://kubernetes.io/docs/concepts/policy/resource-quotas/).
    """
    found = list(subject.cluster.list(QUOTAS))
    if not found:
        yield good("quota", "the namespace has none")
        return
    asked = _asked(subject)
    held = _held(subject)
    fits = True
    for quota in found:
        name, spec = name_of(quota), quota.get("spec") or {}
        if spec.get("scopes") or spec.get("scopeSelector"):
            yield unknown("quota", f"{name} counts some pods only (scopes): it was not compared")
            continue
        used = pick(quota, "status", "used") or {}
        for resource, hard in sorted((pick(quota, "status", "hard") or spec.get("hard") or {}).items()):
            if resource not in asked:
                continue
            left = amount(hard) - amount(used.get(resource, "0"))
            more = asked[resource] - held.get(resource, Decimal(0))
            if more > left:
                fits = False
                yield missing(
                    "quota",
                    f"{name}: {show_amount(resource, left)} of {show_amount(resource, amount(hard))} {resource} left",
                    f"the release asks for {show_amount(resource, more)} {'more' if held.get(resource) else 'of it'}",
                    f"raise it: kubectl -n {subject.namespace} edit resourcequota {name}",
                    "or lower replicas or resources in the values",
                )
    if fits:
        yield good("quota", f"{some(name_of(each) for each in found)}: enough is left")


def _asked(subject: Subject) -> Amounts:
    """What quotas count of the release, by their names for it."""
    requirements = subject.requirements
    total = sum_of(_counted(each.pod, each.replicas) for each in requirements.workloads)
    total["persistentvolumeclaims"] = Decimal(sum(each.count for each in requirements.claims))
    total["requests.storage"] = sum((amount(each.size) * each.count for each in requirements.claims), Decimal(0))
    return total


def _held(subject: Subject) -> Amounts:
    """Of it, what the release's own pods and volumes have been counted for."""
    pods = [each for each in subject.own_pods if pick(each, "status", "phase") not in ("Succeeded", "Failed")]
    total = sum_of(_counted(each["spec"], 1) for each in pods)
    volumes = list(subject.own_volumes)
    total["persistentvolumeclaims"] = Decimal(len(volumes))
    sizes = (amount(pick(each, "spec", "resources", "requests", "storage") or "0") for each in volumes)
    total["requests.storage"] = sum(sizes, Decimal(0))
    return total


def _counted(pod: Object, count: int) -> Amounts:
    requests, limits = times(requests_of(pod), count), times(limits_of(pod), count)
    named = {f"requests.{resource}": value for resource, value in requests.items()}
    named |= {f"limits.{resource}": value for resource, value in limits.items()}
    return named | {each: requests[each] for each in ("cpu", "memory") if each in requests} | {"pods": Decimal(count)}


def limit_ranges(subject: Subject) -> Iterator[Finding]:
    """Whether the namespace's limit ranges let the release's containers in as they are
    (https://kubernetes.io/docs/concepts/policy/limit-range/)."""
    ranges = list(subject.cluster.list(LIMIT_RANGES))
    if not ranges:
        yield good("limit ranges", "the namespace has none")
        return
    fits = True
    for each in ranges:
        for limit in pick(each, "spec", "limits") or ():
            for workload in subject.requirements.workloads:
                for what in _breaks(limit, workload):
                    fits = False
                    edit = f"or: kubectl -n {subject.namespace} edit limitrange {name_of(each)}"
                    yield missing("limit ranges", name_of(each), what, "change resources in the values", edit)
    if fits:
        yield good("limit ranges", f"{some(name_of(each) for each in ranges)} let all containers in")


def _breaks(limit: Object, workload: Workload) -> Iterator[str]:
    """In which ways a workload's pods are outside a limit."""
    if limit.get("type") == "Pod":
        measured = [("a pod", requests_of(workload.pod), limits_of(workload.pod))]
    elif limit.get("type") == "Container":
        containers = (*(workload.pod.get("initContainers") or ()), *(workload.pod.get("containers") or ()))
        measured = [(str(each["name"]), container_requests(each), container_limits(each)) for each in containers]
    else:
        return
    for who, requests, limits in measured:
        for resource, most in (limit.get("max") or {}).items():
            if limits.get(resource, Decimal(0)) > amount(most):
                given = show_amount(resource, limits[resource])
                yield f"{workload.name}: {who} may take {given} {resource}, and at most {most} is allowed"
        for resource, least in (limit.get("min") or {}).items():
            if resource in requests and requests[resource] < amount(least):
                given = show_amount(resource, requests[resource])
                yield f"{workload.name}: {who} requests {given} {resource}, and at least {least} is demanded"
