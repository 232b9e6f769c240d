"""Drains one pod without dropping calls: removes it from its Service, waits until it is idle, deletes it.

Services that receive calls select pods by an additional label. Changing it removes the pod from DNS; clients, whose
connections servers close periodically, move to other pods. Neither the pod's controller nor its network policies select
by that label.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

from services.operations.cluster import metrics
from services.operations.cluster.api import PODS, SERVICES, Cluster, Object
from services.operations.cluster.cluster_errors import ClusterError, NotFound, Rejected, Unreachable
from services.operations.cluster.objects import component_of, is_ready, labels_of, name_of, nested, selector_matches
from services.operations.cluster.release import Release

SERVING_LABEL = "lyra-platform/serving"
SERVING, DRAINING = "true", "draining"
_IDLE_POLLS = 3  # consecutive polls without a running call: clients may hold a connection a little longer
_MARGIN_SECONDS = 30.0  # beyond the grace period until the pod must be gone


class StillBusy(ClusterError):
    """Calls are still running on the pod to be drained. It has been removed from its Service."""


@dataclass(frozen=True, slots=True)
class DrainPlan:
    """What draining a pod would do.

    Attributes:
        services: Services that route calls to it; empty for a worker, which pulls its work.
        running_calls: None if the pod has no Service or no metrics.
        other_ready_pods: Ready pods of the same component that remain.
        grace_seconds: Its termination grace period.
    """

    pod: str
    uid: str
    component: str
    services: tuple[str, ...]
    running_calls: int | None
    other_ready_pods: int
    grace_seconds: float


def plan_drain(cluster: Cluster, release: Release, name: str) -> DrainPlan:
    """Plans to drain a pod. Raises NotFound, and Rejected if it cannot be drained."""
    pods = list(cluster.list(PODS, labels=release.labels))
    pod = next((each for each in pods if name_of(each) == name), None)
    if pod is None:
        names = ", ".join(sorted(name_of(each) for each in pods)) or "none"
        raise NotFound(f"release {release.name} has no pod {name}", f"pods: {names}")
    component = component_of(pod)
    # The labels before an earlier, interrupted drain.
    serving = labels_of(pod) | {SERVING_LABEL: SERVING}
    selecting = [each for each in cluster.list(SERVICES) if selector_matches(nested(each, "spec", "selector"), serving)]
    services = [each for each in selecting if _receives_calls(each)]
    fixed = [name_of(each) for each in services if SERVING_LABEL not in each["spec"]["selector"]]
    if fixed:
        raise Rejected(
            f"{name} cannot be removed from its Service {fixed[0]}, which does not select by the label {SERVING_LABEL}",
            f"`kubectl -n {release.namespace} delete pod {name}` deletes it with its grace period",
        )
    return DrainPlan(
        pod=name,
        uid=str(nested(pod, "metadata", "uid") or ""),
        component=component,
        services=tuple(name_of(each) for each in services),
        running_calls=running_calls(cluster, pod) if services else None,
        other_ready_pods=sum(
            is_ready(each)
            for each in pods
            if component_of(each) == component and name_of(each) != name and _serves(each)
        ),
        grace_seconds=float(nested(pod, "spec", "terminationGracePeriodSeconds") or 30),
    )


def running_calls(cluster: Cluster, pod: Object) -> int | None:
    """Calls that are running on a pod; None if it has no metrics. Raises Unreachable if they cannot be read."""
    if metrics.metrics_port(pod) is None:
        return None
    samples = metrics.scrape(cluster, pod)
    if samples is None:
        raise Unreachable(
            f"the metrics of {name_of(pod)} cannot be read through the API server",
            "its network policy must allow the API server (docs/deploy/cluster.md); `kubectl delete pod` deletes it "
            "with its grace period",
        )
    return samples.running_calls or 0


def drain(
    cluster: Cluster,
    plan: DrainPlan,
    timeout_seconds: float,
    on_poll: Callable[[int], None] = lambda running: None,
    poll_seconds: float = 2.0,
) -> None:
    """Removes the pod from its Service, waits until it is idle, deletes it, and returns when it is gone.

    Args:
        timeout_seconds: Time for running calls to finish.
        on_poll: Called with the number of running calls at each poll.
        poll_seconds: Interval between polls.

    Raises:
        StillBusy: Calls did not finish in time; the pod stays out of its Service and is not deleted.
        NotFound: The pod disappeared meanwhile.
    """
    if plan.services:
        cluster.patch(PODS, plan.pod, {"metadata": {"labels": {SERVING_LABEL: DRAINING}}})
        _await_idle(cluster, plan, timeout_seconds, on_poll, poll_seconds)
    cluster.delete(PODS, plan.pod)
    deadline = time.monotonic() + plan.grace_seconds + _MARGIN_SECONDS
    while True:
        pod = cluster.find(PODS, plan.pod)
        if pod is None or nested(pod, "metadata", "uid") != plan.uid:  # a StatefulSet creates another of the same name
            return
        if time.monotonic() > deadline:
            hint = f"see `kubectl -n {cluster.namespace} describe pod {plan.pod}`; its node may be gone"
            raise Unreachable(
                f"{plan.pod} still exists {plan.grace_seconds + _MARGIN_SECONDS:g} s after its deletion", hint
            )
        time.sleep(poll_seconds)


def undo(cluster: Cluster, pod: str) -> None:
    """Returns a drained pod to its Service. Raises NotFound."""
    cluster.patch(PODS, pod, {"metadata": {"labels": {SERVING_LABEL: SERVING}}})


def _await_idle(
    cluster: Cluster, plan: DrainPlan, timeout_seconds: float, on_poll: Callable[[int], None], poll_seconds: float
) -> None:
    deadline, idle = time.monotonic() + timeout_seconds, 0
    while True:
        running = running_calls(cluster, cluster.get(PODS, plan.pod)) or 0
        on_poll(running)
        idle = idle + 1 if running == 0 else 0
        if idle == _IDLE_POLLS:
            return
        if time.monotonic() > deadline:
            calls = "1 call is" if running == 1 else f"{running} calls are"
            raise StillBusy(
                f"{calls} still running on {plan.pod} after {timeout_seconds:g} s; it is out of its Service",
                f"keep waiting with `lyra cluster drain {plan.pod}`, return it with --undo, or delete it: "
                f"`kubectl -n {cluster.namespace} delete pod {plan.pod}` gives the calls {plan.grace_seconds:g} s",
            )
        time.sleep(poll_seconds)


def _receives_calls(service: Object) -> bool:
    """Whether a Service routes calls; Services of workers exist only for Prometheus."""
    return any(port.get("name") != "metrics" for port in nested(service, "spec", "ports") or ())


def _serves(pod: Object) -> bool:
    return labels_of(pod).get(SERVING_LABEL) != DRAINING
