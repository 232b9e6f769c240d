"""Status of a release by component: pods, restarts, image, rollout, autoscaler, waiting and running work."""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from services.operations.cluster import metrics
from services.operations.cluster.api import PODS, Cluster, Object
from services.operations.cluster.autoscalers import Autoscaler, autoscalers
from services.operations.cluster.metrics import Samples
from services.operations.cluster.objects import component_of, container_statuses, is_ready, name_of, nested
from services.operations.cluster.release import Release, workloads

_CONCURRENT_SCRAPES = 8
# In the order in which a request passes through them.
_ORDER = (
    "gateway",
    "speech-encoder",
    "vision-encoder",
    "language-model",
    "speech-synthesizer",
    "worker-plan",
    "worker-clips",
    "worker-answers",
    "beat",
    "redis",
    "object-store",
)
# Queues that workers consume (docs/long-audio.md).
QUEUES = {
    "worker-plan": ("plans", "webhooks", "housekeeping"),
    "worker-clips": ("clips",),
    "worker-answers": ("answers",),
}
CLOCK = "beat"
AUDIO_COMPONENT = "speech-encoder"  # the only one whose gauge of waiting audio is meaningful


@dataclass(frozen=True, slots=True, kw_only=True)
class ComponentStatus:
    """Status of a component of a release.

    Attributes:
        ready, desired: Number of pods.
        restarts: Sum over all containers of its pods.
        image: Image in the pod template.
        rollout: Progress, as in "done", "3 of 4 pods updated", "stuck: ..."
        autoscaler: None without one.
        waiting: Calls that wait for the model or, for workers, units that wait in their queues; None if unknown.
        audio_seconds_waiting: Seconds of audio that wait, for the speech encoder only.
        running: Calls that are running; None if unknown.
        without_metrics: Number of ready pods whose metrics could not be read.
    """

    component: str
    kind: str
    name: str
    ready: int
    desired: int
    restarts: int
    image: str
    rollout: str
    autoscaler: Autoscaler | None
    waiting: int | None
    audio_seconds_waiting: float | None
    running: int | None
    without_metrics: int

    def as_json(self) -> dict[str, Any]:
        """As in the output of `--json`, whose keys are stable."""
        return {
            "component": self.component,
            "kind": self.kind,
            "name": self.name,
            "ready": self.ready,
            "wanted": self.desired,
            "restarts": self.restarts,
            "image": self.image,
            "rollout": self.rollout,
            "autoscaler": self.autoscaler.as_json() if self.autoscaler else None,
            "waiting": self.waiting,
            "audio_seconds_waiting": self.audio_seconds_waiting,
            "running": self.running,
            "silent": self.without_metrics,
        }


def status(cluster: Cluster, release: Release, *, with_metrics: bool = True) -> list[ComponentStatus]:
    """All components of a release, in the order in which a request passes through them.

    Args:
        with_metrics: Whether to scrape pods for waiting and running work, which needs the right `get pods/proxy`.
    """
    found = workloads(cluster, release)
    pods: dict[str, list[Object]] = {}
    for pod in cluster.list(PODS, labels=release.labels):
        pods.setdefault(component_of(pod), []).append(pod)
    scalers = autoscalers(cluster)
    samples = _scrape(cluster, [pod for some in pods.values() for pod in some if is_ready(pod)]) if with_metrics else {}
    queues = _queues(samples[name_of(pod)] for pod in pods.get(CLOCK, ()) if name_of(pod) in samples)
    rows = [
        _component_status(
            each, pods.get(component_of(each), []), scalers.get((each["kind"], name_of(each))), samples, queues
        )
        for each in found
    ]
    return sorted(rows, key=lambda row: (_sort_key(row.component), row.name))


def rollout(workload: Object) -> str:
    """Progress of the rollout of a Deployment or StatefulSet, determined as in `kubectl rollout status`."""
    spec, state = workload.get("spec") or {}, workload.get("status") or {}
    desired = int(spec.get("replicas", 1))
    if int(state.get("observedGeneration", 0)) < int(workload["metadata"].get("generation", 0)):
        return "starting"
    for condition in state.get("conditions") or ():
        if condition.get("type") == "Progressing" and condition.get("reason") == "ProgressDeadlineExceeded":
            return "stuck: progress deadline exceeded"
        if condition.get("type") == "ReplicaFailure" and condition.get("status") == "True":
            return f"stuck: {condition.get('message') or condition.get('reason')}"
    if spec.get("paused"):
        return "paused"
    updated = int(state.get("updatedReplicas", 0))
    available = int(state.get("availableReplicas", 0))
    if workload["kind"] == "StatefulSet" and state.get("updateRevision") == state.get("currentRevision"):
        updated = int(state.get("replicas", 0))
    if updated < desired:
        return f"{updated} of {desired} pods updated"
    if int(state.get("replicas", 0)) > updated:
        return f"{int(state['replicas']) - updated} old pods terminating"
    return "done" if available >= desired else f"{available} of {desired} pods available"


def _component_status(
    workload: Object,
    pods: list[Object],
    autoscaler: Autoscaler | None,
    samples: dict[str, Samples | None],
    queues: dict[str, float] | None,
) -> ComponentStatus:
    component = component_of(workload)
    scraped = [samples[name_of(pod)] for pod in pods if name_of(pod) in samples and metrics.metrics_port(pod)]
    readable = [each for each in scraped if each is not None]
    waiting = _sum(each.sum(metrics.WAITING) for each in readable)
    if component in QUEUES:
        waiting = None if queues is None else sum(queues.get(queue, 0.0) for queue in QUEUES[component])
    images = [str(each.get("image")) for each in nested(workload, "spec", "template", "spec", "containers") or ()]
    return ComponentStatus(
        component=component,
        kind=workload["kind"],
        name=name_of(workload),
        ready=sum(is_ready(pod) for pod in pods),
        desired=int(nested(workload, "spec", "replicas") if nested(workload, "spec", "replicas") is not None else 1),
        restarts=sum(int(state.get("restartCount", 0)) for pod in pods for state in container_statuses(pod)),
        image=images[0] if images else "",
        rollout=rollout(workload),
        autoscaler=autoscaler,
        waiting=None if waiting is None else round(waiting),
        audio_seconds_waiting=_sum(each.sum(metrics.AUDIO_WAITING) for each in readable)
        if component == AUDIO_COMPONENT
        else None,
        running=_rounded(_sum(each.running_calls for each in readable)),
        without_metrics=len(scraped) - len(readable),
    )


def _scrape(cluster: Cluster, pods: list[Object]) -> dict[str, Samples | None]:
    with ThreadPoolExecutor(_CONCURRENT_SCRAPES, thread_name_prefix="scrape") as threads:
        found = threads.map(lambda pod: metrics.scrape(cluster, pod), pods)
        return {name_of(pod): samples for pod, samples in zip(pods, found, strict=True)}


def _queues(clocks: Iterable[Samples | None]) -> dict[str, float] | None:
    """Waiting units by queue, from the clock's metrics; None if they are unavailable."""
    for samples in clocks:
        if samples is not None and metrics.UNITS_WAITING in samples.values:
            return samples.sum_by(metrics.UNITS_WAITING, "queue")
    return None


def _sum(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def _rounded(value: float | None) -> int | None:
    return None if value is None else round(value)


def _sort_key(component: str) -> int:
    return _ORDER.index(component) if component in _ORDER else len(_ORDER)
