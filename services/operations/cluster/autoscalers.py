"""Autoscalers of a namespace: HorizontalPodAutoscalers and ScaledObjects of KEDA."""

from dataclasses import dataclass
from typing import Any

from services.operations.cluster.api import AUTOSCALERS, SCALED_OBJECTS, Cluster
from services.operations.cluster.cluster_errors import NotFound
from services.operations.cluster.objects import annotations_of, name_of, nested
from services.operations.cluster.release_requirements import replica_range, scale_target

# https://keda.sh/docs/latest/concepts/scaling-deployments/#pause-autoscaling
PAUSED_AT = "autoscaling.keda.sh/paused-replicas"
PAUSED = "autoscaling.keda.sh/paused"


@dataclass(frozen=True, slots=True)
class Autoscaler:
    """An autoscaler of a workload.

    Attributes:
        kind: "HorizontalPodAutoscaler" or "ScaledObject".
        current: Current replicas; None if it has not evaluated its metrics yet.
        paused: Whether scaling is paused (KEDA).
    """

    kind: str
    name: str
    min_replicas: int
    max_replicas: int
    current: int | None
    paused: bool = False

    def as_json(self) -> dict[str, Any]:
        """As in the output of `--json`, whose keys are stable."""
        return {
            "kind": self.kind,
            "name": self.name,
            "least": self.min_replicas,
            "most": self.max_replicas,
            "current": self.current,
            "paused": self.paused,
        }


def autoscalers(cluster: Cluster) -> dict[tuple[str, str], Autoscaler]:
    """All autoscalers of the namespace, by kind and name of the workload.

    KEDA creates a HorizontalPodAutoscaler for each ScaledObject; only the ScaledObject is returned then.
    """
    found: dict[tuple[str, str], Autoscaler] = {}
    for each in cluster.list(AUTOSCALERS):
        scaler = replica_range({"kind": "HorizontalPodAutoscaler", **each})
        current = nested(each, "status", "currentReplicas")
        found[scale_target(each)] = Autoscaler(
            "HorizontalPodAutoscaler", name_of(each), scaler.min_replicas, scaler.max_replicas, current
        )
    try:
        scaled = list(cluster.list(SCALED_OBJECTS))
    except NotFound:
        scaled = []  # KEDA is not installed
    for each in scaled:
        target, scaler = scale_target(each), replica_range({**each, "kind": "ScaledObject"})
        annotations = annotations_of(each)
        hpa = found.get(target)
        paused = PAUSED_AT in annotations or annotations.get(PAUSED) == "true"
        current = hpa.current if hpa else None
        found[target] = Autoscaler(
            "ScaledObject", name_of(each), scaler.min_replicas, scaler.max_replicas, current, paused
        )
    return found
