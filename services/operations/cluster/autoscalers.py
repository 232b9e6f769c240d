"""Who decides how many pods a workload has: a HorizontalPodAutoscaler, a ScaledObject of KEDA, or nobody."""

from dataclasses import dataclass

from services.operations.cluster.api import AUTOSCALERS, SCALED_OBJECTS, Cluster
from services.operations.cluster.cluster_errors import NotFound
from services.operations.cluster.objects import annotations_of, name_of, pick
from services.operations.cluster.release_requirements import range_of, target_of

# https://keda.sh/docs/latest/concepts/scaling-deployments/#pause-autoscaling
PAUSED_AT = "autoscaling.keda.sh/paused-replicas"
PAUSED = "autoscaling.keda.sh/paused"


@dataclass(frozen=True, slots=True)
class Autoscaler:
    """An autoscaler of a workload.

    Attributes:
        kind, name: As in "HorizontalPodAutoscaler", "ScaledObject".
        current: Pods that it has made of it; None where it has not looked yet.
        paused: It leaves the number of pods alone (KEDA).
    """

    kind: str
    name: str
    least: int
    most: int
    current: int | None
    paused: bool = False


def autoscalers(cluster: Cluster) -> dict[tuple[str, str], Autoscaler]:
    """All autoscalers of the namespace, by kind and name of what they scale.

    KEDA works through a HorizontalPodAutoscaler of its own; of the two, its ScaledObject is told.
    """
    found: dict[tuple[str, str], Autoscaler] = {}
    for each in cluster.list(AUTOSCALERS):
        scaler = range_of({"kind": "HorizontalPodAutoscaler", **each})
        current = pick(each, "status", "currentReplicas")
        found[target_of(each)] = Autoscaler(
            "HorizontalPodAutoscaler", name_of(each), scaler.least, scaler.most, current
        )
    try:
        scaled = list(cluster.list(SCALED_OBJECTS))
    except NotFound:
        scaled = []  # KEDA is not installed
    for each in scaled:
        target, scaler = target_of(each), range_of({**each, "kind": "ScaledObject"})
        notes = annotations_of(each)
        behind = found.get(target)
        paused = PAUSED_AT in notes or notes.get(PAUSED) == "true"
        current = behind.current if behind else None
        found[target] = Autoscaler("ScaledObject", name_of(each), scaler.least, scaler.most, current, paused)
    return found
