"""Requirements of a release, read from its manifest: pods and their resources, Secrets, storage, APIs.

Works on the output of `helm template`, on Helm's record of a release and on objects read from a cluster.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from services.operations.cluster.api import Object
from services.operations.cluster.objects import annotations_of, component_of, name_of, nested

_SCALABLE = ("Deployment", "StatefulSet")
_HPA_MIN, _KEDA_MIN, _KEDA_MAX = 1, 0, 100  # defaults of the APIs
_REFERENCED_KINDS = ("Secret", "ConfigMap", "PersistentVolumeClaim")
_PULL_KEY = ".dockerconfigjson"
_HOOK_ANNOTATION = "helm.sh/hook"


@dataclass(frozen=True, slots=True)
class ReplicaRange:
    """The range in which an autoscaler keeps the replicas of a workload."""

    min_replicas: int
    max_replicas: int


@dataclass(frozen=True, slots=True)
class Workload:
    """A controller of identical pods.

    Attributes:
        replicas: Minimum replicas of its autoscaler, or its own `replicas` without one.
        max_replicas: Maximum replicas of its autoscaler, or its own `replicas` without one.
        pod: Spec of its pods.
    """

    kind: str
    name: str
    component: str
    replicas: int
    max_replicas: int
    pod: Object


@dataclass(frozen=True, slots=True)
class Reference:
    """A referenced Secret, ConfigMap or PersistentVolumeClaim.

    Attributes:
        keys: Keys of it that are used.
        referrers: Objects that refer to it, as in "Deployment/lyra-gateway".
    """

    kind: str
    name: str
    keys: frozenset[str]
    referrers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class VolumeClaim:
    """Requested persistent volumes; `storage_class` is None for the default class."""

    name: str
    storage_class: str | None
    size: str
    count: int


@dataclass(frozen=True, slots=True)
class ReleaseRequirements:
    """What a release requires of a cluster.

    Attributes:
        references: Secrets, ConfigMaps and PersistentVolumeClaims that it refers to but does not contain.
        apis: apiVersion and kind of every object.
        metric_types: Types of the metrics that its HorizontalPodAutoscalers read, as in "Resource".
    """

    workloads: tuple[Workload, ...]
    references: tuple[Reference, ...]
    claims: tuple[VolumeClaim, ...]
    apis: frozenset[tuple[str, str]]
    metric_types: frozenset[str]


def release_requirements(objects: Iterable[Object]) -> ReleaseRequirements:
    """Combined requirements of these objects, without the pods of `helm test`."""
    kept = [each for each in objects if annotations_of(each).get(_HOOK_ANNOTATION, "").find("test") < 0]
    return ReleaseRequirements(
        workloads=tuple(_workloads(kept)),
        references=tuple(_external_references(kept)),
        claims=tuple(_claims(kept)),
        apis=frozenset((str(each["apiVersion"]), str(each["kind"])) for each in kept),
        metric_types=frozenset(
            str(metric.get("type"))
            for each in kept
            if each["kind"] == "HorizontalPodAutoscaler"
            for metric in nested(each, "spec", "metrics") or ()
        ),
    )


def replica_range(autoscaler: Object) -> ReplicaRange:
    """Range of a HorizontalPodAutoscaler or ScaledObject."""
    spec = autoscaler.get("spec") or {}
    if autoscaler.get("kind") == "ScaledObject":
        return ReplicaRange(int(spec.get("minReplicaCount", _KEDA_MIN)), int(spec.get("maxReplicaCount", _KEDA_MAX)))
    return ReplicaRange(int(spec.get("minReplicas", _HPA_MIN)), int(spec["maxReplicas"]))


def scale_target(autoscaler: Object) -> tuple[str, str]:
    """Kind and name of the workload that an autoscaler scales."""
    reference = nested(autoscaler, "spec", "scaleTargetRef") or {}
    return str(reference.get("kind") or "Deployment"), str(reference.get("name") or "")


def _workloads(objects: list[Object]) -> Iterator[Workload]:
    ranges = {
        scale_target(each): replica_range(each)
        for each in objects
        if each["kind"] in ("HorizontalPodAutoscaler", "ScaledObject")
    }
    for each in objects:
        kind, name, spec = str(each["kind"]), name_of(each), each.get("spec") or {}
        pod = nested(spec, "template", "spec")
        if kind in _SCALABLE and pod:
            own = int(spec.get("replicas", 1))
            scaled = ranges.get((kind, name))
            scaled = scaled or ReplicaRange(own, own)
            yield Workload(kind, name, component_of(each), scaled.min_replicas, scaled.max_replicas, pod)
        elif kind == "Job" and pod:
            count = 0 if spec.get("suspend") else int(spec.get("parallelism", 1))
            yield Workload(kind, name, component_of(each), count, count, pod)


def _claims(objects: list[Object]) -> Iterator[VolumeClaim]:
    for each in objects:
        if each["kind"] == "PersistentVolumeClaim":
            yield _claim(each, name_of(each), 1)
        elif each["kind"] == "StatefulSet":
            replicas = int(nested(each, "spec", "replicas") or 1)
            for template in nested(each, "spec", "volumeClaimTemplates") or ():
                yield _claim(template, f"{name_of(template)}-{name_of(each)}", replicas)


def _claim(template: Object, name: str, count: int) -> VolumeClaim:
    spec = template.get("spec") or {}
    size = nested(spec, "resources", "requests", "storage") or "0"
    return VolumeClaim(name, spec.get("storageClassName"), str(size), count)


def _external_references(objects: list[Object]) -> Iterator[Reference]:
    keys: dict[tuple[str, str], set[str]] = {}
    referrers: dict[tuple[str, str], list[str]] = {}
    for each in objects:
        for kind, name, key in _references(each):
            keys.setdefault((kind, name), set()).update([key] if key else [])
            referrers.setdefault((kind, name), []).append(f"{each['kind']}/{name_of(each)}")
    contained = {(str(each["kind"]), name_of(each)) for each in objects if each["kind"] in _REFERENCED_KINDS}
    for kind, name in sorted(keys):
        if (kind, name) not in contained:
            yield Reference(kind, name, frozenset(keys[kind, name]), tuple(dict.fromkeys(referrers[kind, name])))


def _references(thing: Object) -> Iterator[tuple[str, str, str]]:
    """Kind, name and key of every required Secret, ConfigMap and PersistentVolumeClaim of an object."""
    spec = thing.get("spec") or {}
    match thing["kind"]:
        case "Pod":
            yield from _pod_references(spec)
        case "CronJob":
            yield from _pod_references(nested(spec, "jobTemplate", "spec", "template", "spec") or {})
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
            yield from _pod_references(nested(spec, "template", "spec") or {})


def _pod_references(pod: Object) -> Iterator[tuple[str, str, str]]:
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
        if claim := nested(volume, "persistentVolumeClaim", "claimName"):
            yield "PersistentVolumeClaim", str(claim), ""
        for source in (volume, *(nested(volume, "projected", "sources") or ())):
            yield from _reference("Secret", source.get("secret"))
            yield from _reference("ConfigMap", source.get("configMap"))


def _reference(kind: str, source: Object | None) -> Iterator[tuple[str, str, str]]:
    if not source or source.get("optional"):
        return
    name = str(source.get("name") or source.get("secretName"))
    keys = [source["key"]] if "key" in source else [each["key"] for each in source.get("items") or ()]
    yield from ((kind, name, str(key)) for key in keys or [""])
