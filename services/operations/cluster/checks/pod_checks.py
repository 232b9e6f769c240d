"""Checks of the release's pods: images that cannot be pulled, pods that are pending or keep failing."""

from collections.abc import Iterator

from services.operations.cluster.api import EVENTS, Object
from services.operations.cluster.checks import CheckContext, shortened
from services.operations.cluster.findings import Finding, good, missing, warning
from services.operations.cluster.objects import container_statuses, is_ready, name_of, nested

# Waiting reasons of the kubelet (pkg/kubelet/images) for images that cannot be pulled.
_IMAGE_ERRORS = {
    "ErrImagePull",
    "ImagePullBackOff",
    "ErrImageNeverPull",
    "InvalidImageName",
    "ImageInspectError",
    "RegistryUnavailable",
    "SignatureValidationFailed",
}
_UNAUTHORIZED = ("unauthorized", "denied", "forbidden", "authentication required", "401", "403")
_NOT_FOUND = ("not found", "manifest unknown", "no such image", "404")
# From here on, restarts are worth a warning.
_MANY_RESTARTS = 5


def images(context: CheckContext) -> Iterator[Finding]:
    """All images could be pulled; if not, the pods' events tell why."""
    broken: dict[str, list[str]] = {}
    reasons: dict[str, str] = {}
    for pod in context.release_pods:
        for state in container_statuses(pod):
            waiting = nested(state, "state", "waiting") or {}
            if waiting.get("reason") in _IMAGE_ERRORS:
                image = str(state.get("image"))
                broken.setdefault(image, []).append(name_of(pod))
                reasons[image] = _pull_event(context, pod, image) or str(waiting.get("message") or waiting["reason"])
    for image, pods in broken.items():
        what = f"{image} cannot be pulled for {shortened(dict.fromkeys(pods))}: {reasons[image]}"
        yield missing("images", "", what, *_image_remedies(context, pods[0], reasons[image]))
    if not broken and context.release_pods:
        yield good("images", f"the images of all {len(context.release_pods)} pods are available")


def _pull_event(context: CheckContext, pod: Object, image: str) -> str:
    """Message of the latest event about a failed pull; empty if events have expired (after an hour by default)."""
    messages = [
        str(event.get("message") or "")
        for event in context.cluster.list(EVENTS, fields=f"involvedObject.name={name_of(pod)},reason=Failed")
    ]
    return next((each for each in reversed(messages) if image in each), "")


def _image_remedies(context: CheckContext, pod: str, reason: str) -> tuple[str, ...]:
    lower, namespace = reason.lower(), context.namespace
    upgrade = (
        f"helm upgrade {context.release.name if context.release else 'lyra'} helm/lyra -n {namespace} --reuse-values"
    )
    if any(word in lower for word in _UNAUTHORIZED):
        login = "--docker-server=REGISTRY --docker-username=NAME --docker-password=PASSWORD"
        return (
            f"kubectl -n {namespace} create secret docker-registry lyra-registry {login}",
            f"{upgrade} --set image.pullSecrets={{lyra-registry}}",
        )
    if any(word in lower for word in _NOT_FOUND):
        return (
            "set image.registry, tag or digest to an existing image",
            "helm show values helm/lyra | grep -A20 ^image",
        )
    return (
        f"kubectl -n {namespace} describe pod {pod}",
        "if nodes cannot reach the registry, mirror the images: docs/deploy/air-gapped.md",
    )


def pods(context: CheckContext) -> Iterator[Finding]:
    """Pods are scheduled, start and keep running; `images` reports those without an image."""
    if context.release is None:
        return
    ready, failing = 0, False
    for pod in context.release_pods:
        if nested(pod, "status", "phase") == "Succeeded":
            continue
        finding = _unschedulable(pod, context.namespace) or _failing(pod, context.namespace)
        if finding:
            failing = True
            yield finding
        elif is_ready(pod):
            ready += 1
    total = len(context.release_pods)
    if not failing:
        yield good("pods", f"{ready} of {total} ready")


def _unschedulable(pod: Object, namespace: str) -> Finding | None:
    for condition in nested(pod, "status", "conditions") or ():
        if condition.get("type") == "PodScheduled" and condition.get("reason") == "Unschedulable":
            what = f"{name_of(pod)} cannot be scheduled: {condition.get('message')}"
            return missing("pods", "", what, f"kubectl -n {namespace} describe pod {name_of(pod)}")
    return None


def _failing(pod: Object, namespace: str) -> Finding | None:
    name = name_of(pod)
    for state in container_statuses(pod):
        reason = str(nested(state, "state", "waiting", "reason") or "")
        container, restarts = state.get("name"), int(state.get("restartCount", 0))
        if reason in ("CreateContainerConfigError", "CreateContainerError", "RunContainerError"):
            message = nested(state, "state", "waiting", "message")
            return missing(
                "pods",
                "",
                f"{name} ({container}) does not start: {message}",
                f"kubectl -n {namespace} describe pod {name}",
            )
        log = f"kubectl -n {namespace} logs {name} -c {container} --previous"
        if nested(state, "lastState", "terminated", "reason") == "OOMKilled":
            what = f"{name} ({container}) exceeded its memory limit and was killed, with {restarts} restarts so far"
            return (missing if reason else warning)(
                "pods", "", what, "raise resources.limits.memory of the service", log
            )
        if reason == "CrashLoopBackOff":
            code = nested(state, "lastState", "terminated", "exitCode")
            return missing(
                "pods", "", f"{name} ({container}) keeps exiting with code {code}, with {restarts} restarts so far", log
            )
        if restarts >= _MANY_RESTARTS:
            return warning("pods", "", f"{name} ({container}) was restarted {restarts} times", log)
    return None
