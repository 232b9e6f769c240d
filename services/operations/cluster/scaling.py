"""Changes how many pods a part of a release has, knowing who else decides that."""

from dataclasses import dataclass

from services.operations.cluster.api import BUDGETS, DEPLOYMENTS, Cluster, Object
from services.operations.cluster.autoscalers import PAUSED_AT, Autoscaler, autoscalers
from services.operations.cluster.cluster_errors import Refused
from services.operations.cluster.objects import labels_of, name_of, pick, selects
from services.operations.cluster.release import Release, component
from services.operations.cluster.status import CLOCK


@dataclass(frozen=True, slots=True)
class ScalePlan:
    """What scaling would do.

    Attributes:
        workload: Name of the Deployment.
        now, wanted: Pods.
        autoscaler: That would undo it; None where nobody would.
        undone: How to have it last, in commands; empty where nobody undoes it.
        cautions: What else follows.
    """

    workload: str
    now: int
    wanted: int
    autoscaler: Autoscaler | None
    undone: tuple[str, ...]
    cautions: tuple[str, ...]


def plan_scale(cluster: Cluster, release: Release, name: str, replicas: int) -> ScalePlan:
    """What it means to give a component so many pods. Raises NotFound, and Refused where it may not have them."""
    workload = component(cluster, release, name)
    part = labels_of(workload).get("app.kubernetes.io/component", "")
    if workload["kind"] != "Deployment":
        raise Refused(
            f"{part} holds data and has one pod",
            "use external stores where one is not enough: docs/deploy/production.md",
        )
    if part == CLOCK and replicas > 1:
        raise Refused(f"{part} calls for what happens again and again: one is enough")
    scaler = autoscalers(cluster).get((workload["kind"], name_of(workload)))
    active = scaler if scaler is not None and not scaler.paused else None
    return ScalePlan(
        workload=name_of(workload),
        now=int(pick(workload, "spec", "replicas") or 0),
        wanted=replicas,
        autoscaler=active,
        undone=_lasting(active, release, part, replicas) if active else (),
        cautions=tuple(_cautions(cluster, workload, replicas)),
    )


def scale(cluster: Cluster, plan: ScalePlan) -> None:
    """Does it. Helm sets the number of the values again with the next upgrade."""
    cluster.patch(DEPLOYMENTS, plan.workload, {"spec": {"replicas": plan.wanted}}, "scale")


def _lasting(scaler: Autoscaler, release: Release, part: str, replicas: int) -> tuple[str, ...]:
    """How to have the number last in spite of an autoscaler."""
    section = values_section(part)
    bounds = f"helm upgrade {release.name} helm/lyra -n {release.namespace} --reuse-values"
    lasting = [f"{bounds} --set {section}.autoscaling.minReplicas={replicas}"]
    if replicas > scaler.most:
        lasting[0] += f" --set {section}.autoscaling.maxReplicas={replicas}"
    if scaler.kind == "ScaledObject":
        note = f"kubectl -n {release.namespace} annotate scaledobject {scaler.name} {PAUSED_AT}={replicas}"
        lasting.append(note)
    return tuple(lasting)


def values_section(part: str) -> str:
    """Where the values have a component: "speech-encoder" is speechEncoder, "worker-clips" is worker.clips."""
    if part.startswith("worker-"):
        return part.replace("-", ".", 1)
    first, *rest = part.split("-")
    return first + "".join(word.capitalize() for word in rest)


def _cautions(cluster: Cluster, workload: Object, replicas: int) -> list[str]:
    labels = pick(workload, "spec", "template", "metadata", "labels") or {}
    cautions = []
    if replicas == 0:
        cautions.append("with no pod, what needs it fails until there is one again")
    for budget in cluster.list(BUDGETS):
        least = pick(budget, "spec", "minAvailable")
        if (
            selects(pick(budget, "spec", "selector", "matchLabels"), labels)
            and isinstance(least, int)
            and replicas <= least
        ):
            cautions.append(
                f"PodDisruptionBudget {name_of(budget)} keeps {least}: nodes with its pods could not be drained"
            )
    return cautions
