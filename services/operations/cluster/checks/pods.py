"""What the release's pods say themselves: images that cannot be had, pods that wait or keep ending."""

from collections.abc import Iterator

from services.operations.cluster.api import EVENTS, Object
from services.operations.cluster.checks import Subject, some
from services.operations.cluster.findings import Finding, good, missing, warning
from services.operations.cluster.objects import container_states, is_ready, name_of, pick

# Reasons of the kubelet (pkg/kubelet/images) that mean: there is no image.
_NO_IMAGE = {
    "ErrImagePull",
    "ImagePullBackOff",
    "ErrImageNeverPull",
    "InvalidImageName",
    "ImageInspectError",
    "RegistryUnavailable",
    "SignatureValidationFailed",
}
_REFUSED = ("unauthorized", "denied", "forbidden", "authentication required", "401", "403")
_NOT_THERE = ("not found", "manifest unknown", "no such image", "404")
# A pod that has not come up after so many restarts will not by itself.
_MANY_RESTARTS = 5


def images(subject: Subject) -> Iterator[Finding]:
    """Images that nodes could not fetch, and why, by the pods' events."""
    broken: dict[str, list[str]] = {}
    reasons: dict[str, str] = {}
    for pod in subject.own_pods:
        for state in container_states(pod):
            waiting = pick(state, "state", "waiting") or {}
            if waiting.get("reason") in _NO_IMAGE:
                image = str(state.get("image"))
                broken.setdefault(image, []).append(name_of(pod))
                reasons[image] = _pull_event(subject, pod, image) or str(waiting.get("message") or waiting["reason"])
    for image, pods in broken.items():
        what = f"{image} cannot be fetched for {some(dict.fromkeys(pods))}: {reasons[image]}"
        yield missing("images", "", what, *_mend_image(subject, pods[0], reasons[image]))
    if not broken and subject.own_pods:
        yield good("images", f"all images of {len(subject.own_pods)} pods are there")


def _pull_event(subject: Subject, pod: Object, image: str) -> str:
    """The latest event that says why an image was not fetched; empty where events are gone (an hour, by default)."""
    told = [
        str(event.get("message") or "")
        for event in subject.cluster.list(EVENTS, fields=f"involvedObject.name={name_of(pod)},reason=Failed")
    ]
    return next((each for each in reversed(told) if image in each), "")


def _mend_image(subject: Subject, pod: str, reason: str) -> tuple[str, ...]:
    lower, namespace = reason.lower(), subject.namespace
    upgrade = (
        f"helm upgrade {subject.release.name if subject.release else 'lyra'} helm/lyra -n {namespace} --reuse-values"
    )
    if any(word in lower for word in _REFUSED):
        login = "--docker-server=REGISTRY --docker-username=NAME --docker-password=PASSWORD"
        return (
            f"kubectl -n {namespace} create secret docker-registry lyra-registry {login}",
            f"{upgrade} --set image.pullSecrets={{lyra-registry}}",
        )
    if any(word in lower for word in _NOT_THERE):
        return (
            "set image.registry, tag or digest to an image that is there",
            "helm show values helm/lyra | grep -A20 ^image",
        )
    return (
        f"kubectl -n {namespace} describe pod {pod}",
        "where nodes do not reach the registry, have a copy of the images: docs/deploy/air-gapped.md",
    )


def pods(subject: Subject) -> Iterator[Finding]:
    """Pods that find no node, do not start, or keep ending; those whose image is missing are told of elsewhere."""
    if subject.release is None:
        return
    good_ones, bad = 0, False
    for pod in subject.own_pods:
        if pick(pod, "status", "phase") == "Succeeded":
            continue
        finding = _unplaced(pod, subject.namespace) or _failing(pod, subject.namespace)
        if finding:
            bad = True
            yield finding
        elif is_ready(pod):
            good_ones += 1
    total = len(subject.own_pods)
    if not bad:
        yield good("pods", f"{good_ones} of {total} ready")


def _unplaced(pod: Object, namespace: str) -> Finding | None:
    for condition in pick(pod, "status", "conditions") or ():
        if condition.get("type") == "PodScheduled" and condition.get("reason") == "Unschedulable":
            what = f"{name_of(pod)} finds no node: {condition.get('message')}"
            return missing("pods", "", what, f"kubectl -n {namespace} describe pod {name_of(pod)}")
    return None


def _failing(pod: Object, namespace: str) -> Finding | None:
    name = name_of(pod)
    for state in container_states(pod):
        reason = str(pick(state, "state", "waiting", "reason") or "")
        container, restarts = state.get("name"), int(state.get("restartCount", 0))
        if reason in ("CreateContainerConfigError", "CreateContainerError", "RunContainerError"):
            message = pick(state, "state", "waiting", "message")
            return missing(
                "pods",
                "",
                f"{name} ({container}) does not start: {message}",
                f"kubectl -n {namespace} describe pod {name}",
            )
        log = f"kubectl -n {namespace} logs {name} -c {container} --previous"
        if pick(state, "lastState", "terminated", "reason") == "OOMKilled":
            what = f"{name} ({container}) was ended for taking more memory than its limit, {restarts} times so far"
            return (missing if reason else warning)(
                "pods", "", what, "raise resources.limits.memory of the service", log
            )
        if reason == "CrashLoopBackOff":
            code = pick(state, "lastState", "terminated", "exitCode")
            return missing(
                "pods", "", f"{name} ({container}) keeps ending with code {code}, {restarts} times so far", log
            )
        if restarts >= _MANY_RESTARTS:
            return warning("pods", "", f"{name} ({container}) was started again {restarts} times", log)
    return None
