"""Scales a component of a release, taking its autoscaler into account."""

from dataclasses import dataclass

from services.operations.cluster.api import BUDGETS, DEPLOYMENTS, Cluster, Object
from services.operations.cluster.autoscalers import PAUSED_AT, Autoscaler, autoscalers
from services.operations.cluster.cluster_errors import Rejected
from services.operations.cluster.objects import component_of, name_of, nested, selector_matches
from services.operations.cluster.release import Release, component
from services.operations.cluster.status import CLOCK


@dataclass(frozen=True, slots=True)
class ScalePlan:
    """What scaling would do.

    Attributes:
        workload: Name of the Deployment.
        current, replicas: Number of pods before and after.
        autoscaler: Autoscaler that would revert it; None if there is none or it is paused.
        permanent_commands: Commands that make the change permanent; empty without an autoscaler.
        warnings: Other consequences.
    """

    workload: str
    current: int
    replicas: int
    autoscaler: Autoscaler | None
    permanent_commands: tuple[str, ...]
    warnings: tuple[str, ...]


def plan_scale(cluster: Cluster, release: Release, name: str, replicas: int) -> ScalePlan:
    """Plans to scale a component. Raises NotFound, and Rejected if the component cannot be scaled that way."""
    workload = component(cluster, release, name)
    label = component_of(workload)
    if workload["kind"] != "Deployment":
        raise Rejected(
            f"{label} is stateful and has one pod",
            "use external stores if one is not enough: docs/deploy/production.md",
        )
    if label == CLOCK and replicas > 1:
        raise Rejected(f"{label} schedules periodic tasks and must have at most one pod")
    scaler = autoscalers(cluster).get((workload["kind"], name_of(workload)))
    active = scaler if scaler is not None and not scaler.paused else None
    return ScalePlan(
        workload=name_of(workload),
        current=int(nested(workload, "spec", "replicas") or 0),
        replicas=replicas,
        autoscaler=active,
        permanent_commands=_permanent_commands(active, release, label, replicas) if active else (),
        warnings=tuple(_warnings(cluster, workload, replicas)),
    )


def scale(cluster: Cluster, plan: ScalePlan) -> None:
    """Carries out a plan. The next `helm upgrade` resets the number to that of the values."""
    cluster.patch(DEPLOYMENTS, plan.workload, {"spec": {"replicas": plan.replicas}}, "scale")


def _permanent_commands(scaler: Autoscaler, release: Release, component_label: str, replicas: int) -> tuple[str, ...]:
    """Commands that make the number permanent despite an autoscaler."""
    section = values_section(component_label)
    upgrade = f"helm upgrade {release.name} helm/lyra -n {release.namespace} --reuse-values"
    commands = [f"{upgrade} --set {section}.autoscaling.minReplicas={replicas}"]
    if replicas > scaler.max_replicas:
        commands[0] += f" --set {section}.autoscaling.maxReplicas={replicas}"
    if scaler.kind == "ScaledObject":
        annotate = f"kubectl -n {release.namespace} annotate scaledobject {scaler.name} {PAUSED_AT}={replicas}"
        commands.append(annotate)
    return tuple(commands)


def values_section(component_label: str) -> str:
    """Section of a component in the values: speechEncoder for speech-encoder, worker.clips for worker-clips."""
    if component_label.startswith("worker-"):
        return component_label.replace("-", ".", 1)
    first, *rest = component_label.split("-")
    return first + "".join(word.capitalize() for word in rest)


def _warnings(cluster: Cluster, workload: Object, replicas: int) -> list[str]:
    labels = nested(workload, "spec", "template", "metadata", "labels") or {}
    warnings = []
    if replicas == 0:
        warnings.append("without pods, requests that need it fail until it is scaled up again")
    for budget in cluster.list(BUDGETS):
        min_available = nested(budget, "spec", "minAvailable")
        if (
            selector_matches(nested(budget, "spec", "selector", "matchLabels"), labels)
            and isinstance(min_available, int)
            and replicas <= min_available
        ):
            warnings.append(
                f"PodDisruptionBudget {name_of(budget)} requires {min_available}: its nodes could not be drained"
            )
    return warnings
