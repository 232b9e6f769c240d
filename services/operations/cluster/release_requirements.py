"""What a release asks of a cluster, read from its manifest: pods and their resources, Secrets, storage, APIs.

Works on what `helm template` renders, on what Helm keeps of a release, and on objects read from a cluster.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from services.operations.cluster.api import Object
from services.operations.cluster.objects import annotations_of, component_of, name_of, pick

_SCALABLE = ("Deployment", "StatefulSet")
_HPA_LEAST, _KEDA_LEAST, _KEDA_MOST = 1, 0, 100  # the API's own defaults
_NAMED = ("Secret", "ConfigMap", "PersistentVolumeClaim")
_PULL_KEY = ".dockerconfigjson"
_TEST_HOOK = "helm.sh/hook"


@dataclass(frozen=True, slots=True)
class Range:
    """Between how many pods an autoscaler keeps a workload.

    Attributes:
        by: Kind and name of the autoscaler, as in "HorizontalPodAutoscaler/lyra-gateway".
    """

    by: str
    least: int
    most: int


@dataclass(frozen=True, slots=True)
class Workload:
    """Pods that are all alike.

    Attributes:
        replicas: Pods wanted at least: as many as the autoscaler keeps at the least, else as it says itself.
        most: Pods that an autoscaler may make of it.
        pod: Spec of its pods.
    """

    kind: str
    name: str
    component: str
    replicas: int
    most: int
    pod: Object


@dataclass(frozen=True, slots=True)
class Named:
    """A Secret, ConfigMap or PersistentVolumeClaim that somebody names, and which keys of it.

    Attributes:
        by: The objects that name it.
    """

    kind: str
    name: str
    keys: frozenset[str]
    by: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Claim:
    """Storage that is asked for; `storage_class` is None where the default is meant."""

    name: str
    storage_class: str | None
    size: str
    count: int


@dataclass(frozen=True, slots=True)
class ReleaseRequirements:
    """What a release asks for.

    Attributes:
        named: Secrets, ConfigMaps and claims that it names and does not bring itself.
        apis: apiVersion and kind of every object.
        metric_types: Types of the metrics that its HorizontalPodAutoscalers read, as in "Resource".
    """

    workloads: tuple[Workload, ...]
    named: tuple[Named, ...]
    claims: tuple[Claim, ...]
    apis: frozenset[tuple[str, str]]
    metric_types: frozenset[str]


def requirements_of(objects: Iterable[Object]) -> ReleaseRequirements:
    """What these objects ask for together; pods of `helm test` are left out."""
    kept = [each for each in objects if annotations_of(each).get(_TEST_HOOK, "").find("test") < 0]
    return ReleaseRequirements(
        workloads=tuple(_workloads(kept)),
        named=tuple(_named(kept)),
        claims=tuple(_claims(kept)),
        apis=frozenset((str(each["apiVersion"]), str(each["kind"])) for each in kept),
        metric_types=frozenset(
            str(metric.get("type"))
            for each in kept
            if each["kind"] == "HorizontalPodAutoscaler"
            for metric in pick(each, "spec", "metrics") or ()
        ),
    )


def range_of(autoscaler: Object) -> Range:
    """Of a HorizontalPodAutoscaler or a ScaledObject."""
    spec = autoscaler.get("spec") or {}
    by = f"{autoscaler.get('kind')}/{name_of(autoscaler)}"
    if autoscaler.get("kind") == "ScaledObject":
        return Range(by, int(spec.get("minReplicaCount", _KEDA_LEAST)), int(spec.get("maxReplicaCount", _KEDA_MOST)))
    return Range(by, int(spec.get("minReplicas", _HPA_LEAST)), int(spec["maxReplicas"]))


def target_of(autoscaler: Object) -> tuple[str, str]:
    """Kind and name of what it scales."""
    reference = pick(autoscaler, "spec", "scaleTargetRef") or {}
    return str(reference.get("kind") or "Deployment"), str(reference.get("name") or "")


def _workloads(objects: list[Object]) -> Iterator[Workload]:
    ranges = {
        target_of(each): range_of(each)
        for each in objects
        if each["kind"] in ("HorizontalPodAutoscaler", "ScaledObject")
    }
    for each in objects:
        kind, name, spec = str(each["kind"]), name_of(each), each.get("spec") or {}
        pod = pick(spec, "template", "spec")
        if kind in _SCALABLE and pod:
            own = int(spec.get("replicas", 1))
            scaled = ranges.get((kind, name))
            least, most = (scaled.least, scaled.most) if scaled else (own, own)
            yield Workload(kind, name, component_of(each), least, most, pod)
        elif kind == "Job" and pod:
            count = 0 if spec.get("suspend") else int(spec.get("parallelism", 1))
            yield Workload(kind, name, component_of(each), count, count, pod)


def _claims(objects: list[Object]) -> Iterator[Claim]:
    for each in objects:
        if each["kind"] == "PersistentVolumeClaim":
            yield _claim(each, name_of(each), 1)
        elif each["kind"] == "StatefulSet":
            replicas = int(pick(each, "spec", "replicas") or 1)
            for template in pick(each, "spec", "volumeClaimTemplates") or ():
                yield _claim(template, f"{name_of(template)}-{name_of(each)}", replicas)


def _claim(template: Object, name: str, count: int) -> Claim:
    spec = template.get("spec") or {}
    size = pick(spec, "resources", "requests", "storage") or "0"
    return Claim(name, spec.get("storageClassName"), str(size), count)


def _named(objects: list[Object]) -> Iterator[Named]:
    keys: dict[tuple[str, str], set[str]] = {}
    by: dict[tuple[str, str], list[str]] = {}
    for each in objects:
        for kind, name, key in _references(each):
            keys.setdefault((kind, name), set()).update([key] if key else [])
            by.setdefault((kind, name), []).append(f"{each['kind']}/{name_of(each)}")
    brought = {(str(each["kind"]), name_of(each)) for each in objects if each["kind"] in _NAMED}
    for kind, name in sorted(keys):
        if (kind, name) not in brought:
            yield Named(kind, name, frozenset(keys[kind, name]), tuple(dict.fromkeys(by[kind, name])))


def _references(thing: Object) -> Iterator[tuple[str, str, str]]:
    """Kind, name and key of every Secret, ConfigMap and claim that an object names and cannot do without."""
    spec = thing.get("spec") or {}
    match thing["kind"]:
        case "Pod":
            yield from _of_pod(spec)
        case "CronJob":
            yield from _of_pod(pick(spec, "jobTemplate", "spec", "template", "spec") or {})
        case "ServiceAccount":
            yield from (("Secret", each["name"], _PULL_KEY) for each in thing.get("imagePullSecrets") or ())
        case "Ingress" if not any(key.startswith("cert-manager.io/") for key in annotations_of(thing)):
            for each in spec.get("tls") or ():
                if each.get("secretName"):
                    yield from (("Secret", each["secretName"], key) for key in ("tls.crt", "tls.key"))
        case "TriggerAuthentication":
            for each in spec.get("secretTargetRef") or ():
                yield "Secret", each["name"], each["key"]
        case _:
            yield from _of_pod(pick(spec, "template", "spec") or {})


def _of_pod(pod: Object) -> Iterator[tuple[str, str, str]]:
    for each in pod.get("imagePullSecrets") or ():
        yield "Secret", each["name"], _PULL_KEY
    for container in (*(pod.get("initContainers") or ()), *(pod.get("containers") or ())):
        for variable in container.get("env") or ():
            source = variable.get("valueFrom") or {}
            yield from _reference("Secret", source.get("secretKeyRef"))
            yield from _reference("ConfigMap", source.get("configMapKeyRef"))
        for source in container.get("envFrom") or ():
            yield from _reference("Secret", source.get("secretRef"))
            yield from _reference("ConfigMap", source.get("configMapRef"))
    for volume in pod.get("volumes") or ():
        if claim := pick(volume, "persistentVolumeClaim", "claimName"):
            yield "PersistentVolumeClaim", str(claim), ""
        for source in (volume, *(pick(volume, "projected", "sources") or ())):
            yield from _reference("Secret", source.get("secret"))
            yield from _reference("ConfigMap", source.get("configMap"))


def _reference(kind: str, source: Object | None) -> Iterator[tuple[str, str, str]]:
    if not source or source.get("optional"):
        return
    name = str(source.get("name") or source.get("secretName"))
    keys = [source["key"]] if "key" in source else [each["key"] for each in source.get("items") or ()]
    yield from ((kind, name, str(key)) for key in keys or [""])
