"""Takes one pod out of work without cutting anybody off: out of its Service, idle, then deleted.

Pods of Services bear a label that their Service asks for. Without it, a pod is found no more: DNS leaves it out, and
clients, whose connections servers close now and then, look for others. Its controller and its network policies do not
go by that label, so nothing else changes for it.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

from services.operations.cluster import metrics
from services.operations.cluster.api import PODS, SERVICES, Cluster, Object
from services.operations.cluster.cluster_errors import ClusterError, NotFound, Refused, Unreachable
from services.operations.cluster.objects import component_of, is_ready, labels_of, name_of, pick, selects
from services.operations.cluster.release import Release

SERVING_LABEL = "lyra-platform/serving"
SERVING, DRAINING = "true", "draining"
_LOOKS = 3  # without a running call, one after the other: clients may hold a connection a little longer
_MARGIN_SECONDS = 30.0  # beyond a pod's grace period, until it has to be gone


class StillBusy(ClusterError):
    """Calls still run on a pod that was to be drained. It is out of its Service."""


@dataclass(frozen=True, slots=True)
class DrainPlan:
    """What draining a pod would do.

    Attributes:
        services: That send it calls now; empty for a worker, which takes work by itself.
        running: Calls that are open; None where it has no metrics.
        others: Ready pods of the same component that are left.
        grace_seconds: That it has for what still runs once it is deleted.
    """

    pod: str
    uid: str
    component: str
    services: tuple[str, ...]
    running: int | None
    others: int
    grace_seconds: float


def plan_drain(cluster: Cluster, release: Release, name: str) -> DrainPlan:
    """What it means to drain a pod. Raises NotFound, and Refused for a pod that cannot be drained."""
    pods = list(cluster.list(PODS, labels=release.labels))
    pod = next((each for each in pods if name_of(each) == name), None)
    if pod is None:
        there = ", ".join(sorted(name_of(each) for each in pods)) or "none"
        raise NotFound(f"release {release.name} has no pod {name}", f"it has {there}")
    part = component_of(pod)
    # As it was before an earlier drain took it out.
    serving = labels_of(pod) | {SERVING_LABEL: SERVING}
    found_by = [each for each in cluster.list(SERVICES) if selects(pick(each, "spec", "selector"), serving)]
    services = [each for each in found_by if _takes_calls(each)]
    fixed = [name_of(each) for each in services if SERVING_LABEL not in each["spec"]["selector"]]
    if fixed:
        raise Refused(
            f"{name} cannot be taken out of its Service {fixed[0]}, which does not ask for the label {SERVING_LABEL}",
            f"`kubectl -n {release.namespace} delete pod {name}` ends it with its grace period",
        )
    return DrainPlan(
        pod=name,
        uid=str(pick(pod, "metadata", "uid") or ""),
        component=part,
        services=tuple(name_of(each) for each in services),
        running=running_calls(cluster, pod) if services else None,
        others=sum(
            is_ready(each) for each in pods if component_of(each) == part and name_of(each) != name and _serves(each)
        ),
        grace_seconds=float(pick(pod, "spec", "terminationGracePeriodSeconds") or 30),
    )


def running_calls(cluster: Cluster, pod: Object) -> int | None:
    """Calls that are open on a pod; None where it has no metrics. Raises Unreachable where it does not tell them."""
    if metrics.metrics_port(pod) is None:
        return None
    samples = metrics.scrape(cluster, pod)
    if samples is None:
        raise Unreachable(
            f"{name_of(pod)} does not tell its running calls through the API server",
            "its network policy has to let the API server in (docs/deploy/cluster.md); `kubectl delete pod` ends it "
            "with its grace period",
        )
    return samples.calls_running or 0


def drain(
    cluster: Cluster,
    plan: DrainPlan,
    timeout_seconds: float,
    on_look: Callable[[int], None] = lambda running: None,
    look_seconds: float = 2.0,
) -> None:
    """Takes the pod out of its Service, waits until it is idle, deletes it, and returns when it is gone.

    Args:
        timeout_seconds: That running calls may take.
        on_look: Called with the calls that are open, at each look.
        look_seconds: Between two looks.

    Raises:
        StillBusy: calls ran on; the pod is left as it is, out of its Service.
        NotFound: it went away meanwhile.
    """
    if plan.services:
        cluster.patch(PODS, plan.pod, {"metadata": {"labels": {SERVING_LABEL: DRAINING}}})
        _await_idle(cluster, plan, timeout_seconds, on_look, look_seconds)
    cluster.delete(PODS, plan.pod)
    deadline = time.monotonic() + plan.grace_seconds + _MARGIN_SECONDS
    while True:
        pod = cluster.find(PODS, plan.pod)
        if pod is None or pick(pod, "metadata", "uid") != plan.uid:  # a StatefulSet makes another of the same name
            return
        if time.monotonic() > deadline:
            hint = f"`kubectl -n {cluster.namespace} describe pod {plan.pod}` tells why; its node may be gone"
            raise Unreachable(
                f"{plan.pod} is still there {plan.grace_seconds + _MARGIN_SECONDS:g} s after its deletion", hint
            )
        time.sleep(look_seconds)


def undo(cluster: Cluster, pod: str) -> None:
    """Puts a pod back into its Service that a drain took out. Raises NotFound."""
    cluster.patch(PODS, pod, {"metadata": {"labels": {SERVING_LABEL: SERVING}}})


def _await_idle(
    cluster: Cluster, plan: DrainPlan, timeout_seconds: float, on_look: Callable[[int], None], look_seconds: float
) -> None:
    deadline, idle = time.monotonic() + timeout_seconds, 0
    while True:
        running = running_calls(cluster, cluster.get(PODS, plan.pod)) or 0
        on_look(running)
        idle = idle + 1 if running == 0 else 0
        if idle == _LOOKS:
            return
        if time.monotonic() > deadline:
            calls = "1 call runs" if running == 1 else f"{running} calls run"
            raise StillBusy(
                f"{calls} on {plan.pod} after {timeout_seconds:g} s; it is out of its Service and was not deleted",
                f"wait on with `lyra cluster drain {plan.pod}`, put it back with --undo, or end it now: "
                f"`kubectl -n {cluster.namespace} delete pod {plan.pod}` gives the calls {plan.grace_seconds:g} s",
            )
        time.sleep(look_seconds)


def _takes_calls(service: Object) -> bool:
    """Workers have Services, too, but only for Prometheus."""
    return any(port.get("name") != "metrics" for port in pick(service, "spec", "ports") or ())


def _serves(pod: Object) -> bool:
    return labels_of(pod).get(SERVING_LABEL) != DRAINING
