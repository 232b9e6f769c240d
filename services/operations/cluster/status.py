"""How a release is, one row for each of its parts: pods, restarts, image, rollout, autoscaler, what waits and runs."""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

from services.operations.cluster import metrics
from services.operations.cluster.api import PODS, Cluster, Object
from services.operations.cluster.autoscalers import Autoscaler, autoscalers
from services.operations.cluster.metrics import Samples
from services.operations.cluster.objects import component_of, container_states, is_ready, name_of, pick
from services.operations.cluster.release import Release, workloads

_SCRAPES_AT_ONCE = 8
# In the order in which a request passes them.
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
# Queues that workers serve, as docs/long-audio.md has them.
QUEUES = {
    "worker-plan": ("plans", "webhooks", "housekeeping"),
    "worker-clips": ("clips",),
    "worker-answers": ("answers",),
}
CLOCK = "beat"
HEARS = "speech-encoder"  # every process has the gauge of audio; only here it says something


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A part of a release.

    Attributes:
        ready, wanted: Pods.
        restarts: Of all containers of its pods together.
        image: As the workload names it.
        rollout: In words: "done", "3 of 4 pods are new", "stuck: ..."
        autoscaler: None where nobody scales it.
        waiting: Calls that wait for the model; for workers, units that wait in their queues. None where it is not told.
        audio_seconds_waiting: Of the speech encoder alone.
        running: Calls that are open; None where it is not told.
        silent: Ready pods that have metrics and did not tell them.
    """

    component: str
    kind: str
    name: str
    ready: int
    wanted: int
    restarts: int
    image: str
    rollout: str
    autoscaler: Autoscaler | None
    waiting: int | None
    audio_seconds_waiting: float | None
    running: int | None
    silent: int

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def status(cluster: Cluster, release: Release, *, with_metrics: bool = True) -> list[Row]:
    """All parts of a release, in the order in which a request passes them.

    Args:
        with_metrics: Whether pods are asked what waits and runs, which wants `get pods/proxy`.
    """
    parts = workloads(cluster, release)
    pods: dict[str, list[Object]] = {}
    for pod in cluster.list(PODS, labels=release.labels):
        pods.setdefault(component_of(pod), []).append(pod)
    scalers = autoscalers(cluster)
    samples = _scrape(cluster, [pod for some in pods.values() for pod in some if is_ready(pod)]) if with_metrics else {}
    queues = _queues(samples[name_of(pod)] for pod in pods.get(CLOCK, ()) if name_of(pod) in samples)
    rows = [
        _row(part, pods.get(component_of(part), []), scalers.get((part["kind"], name_of(part))), samples, queues)
        for part in parts
    ]
    return sorted(rows, key=lambda row: (_place(row.component), row.name))


def rollout(workload: Object) -> str:
    """How far a Deployment or StatefulSet has come, as `kubectl rollout status` judges it."""
    spec, state = workload.get("spec") or {}, workload.get("status") or {}
    wanted = int(spec.get("replicas", 1))
    if int(state.get("observedGeneration", 0)) < int(workload["metadata"].get("generation", 0)):
        return "begins"
    for condition in state.get("conditions") or ():
        if condition.get("type") == "Progressing" and condition.get("reason") == "ProgressDeadlineExceeded":
            return "stuck: no progress within its deadline"
        if condition.get("type") == "ReplicaFailure" and condition.get("status") == "True":
            return f"stuck: {condition.get('message') or condition.get('reason')}"
    if spec.get("paused"):
        return "paused"
    new = int(state.get("updatedReplicas", 0))
    available = int(state.get("availableReplicas", 0))
    if workload["kind"] == "StatefulSet" and state.get("updateRevision") == state.get("currentRevision"):
        new = int(state.get("replicas", 0))
    if new < wanted:
        return f"{new} of {wanted} pods are new"
    if int(state.get("replicas", 0)) > new:
        return f"{int(state['replicas']) - new} old pods have to end"
    return "done" if available >= wanted else f"{available} of {wanted} pods are available"


def _row(
    part: Object,
    pods: list[Object],
    autoscaler: Autoscaler | None,
    samples: dict[str, Samples | None],
    queues: dict[str, float] | None,
) -> Row:
    component = component_of(part)
    asked = [samples[name_of(pod)] for pod in pods if name_of(pod) in samples and metrics.metrics_port(pod)]
    told = [each for each in asked if each is not None]
    waiting = _sum(each.total(metrics.WAITING) for each in told)
    if component in QUEUES:
        waiting = None if queues is None else sum(queues.get(queue, 0.0) for queue in QUEUES[component])
    images = [str(each.get("image")) for each in pick(part, "spec", "template", "spec", "containers") or ()]
    return Row(
        component=component,
        kind=part["kind"],
        name=name_of(part),
        ready=sum(is_ready(pod) for pod in pods),
        wanted=int(pick(part, "spec", "replicas") if pick(part, "spec", "replicas") is not None else 1),
        restarts=sum(int(state.get("restartCount", 0)) for pod in pods for state in container_states(pod)),
        image=images[0] if images else "",
        rollout=rollout(part),
        autoscaler=autoscaler,
        waiting=None if waiting is None else round(waiting),
        audio_seconds_waiting=_sum(each.total(metrics.AUDIO_WAITING) for each in told) if component == HEARS else None,
        running=_whole(_sum(each.calls_running for each in told)),
        silent=len(asked) - len(told),
    )


def _scrape(cluster: Cluster, pods: list[Object]) -> dict[str, Samples | None]:
    with ThreadPoolExecutor(_SCRAPES_AT_ONCE, thread_name_prefix="scrape") as threads:
        found = threads.map(lambda pod: metrics.scrape(cluster, pod), pods)
        return {name_of(pod): samples for pod, samples in zip(pods, found, strict=True)}


def _queues(clocks: Iterable[Samples | None]) -> dict[str, float] | None:
    """Units that wait, by queue, as the clock tells; None where no clock does."""
    for samples in clocks:
        if samples is not None and metrics.UNITS_WAITING in samples.values:
            return samples.by(metrics.UNITS_WAITING, "queue")
    return None


def _sum(values: Iterable[float | None]) -> float | None:
    told = [value for value in values if value is not None]
    return sum(told) if told else None


def _whole(value: float | None) -> int | None:
    return None if value is None else round(value)


def _place(component: str) -> int:
    return _ORDER.index(component) if component in _ORDER else len(_ORDER)
