"""Logs of all pods of a component, one after the other or streamed."""

import queue
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass

from services.operations.cluster.api import PODS, Cluster, Object
from services.operations.cluster.cluster_errors import ClusterError, NotFound, Rejected
from services.operations.cluster.objects import annotations_of, container_statuses, name_of, nested
from services.operations.cluster.release import Release, component, component_name

_POLL_SECONDS = 3.0  # interval at which new pods are discovered
_DEFAULT_CONTAINER = "kubectl.kubernetes.io/default-container"
_MAX_BUFFERED_LINES = 10_000  # beyond this, streams wait for the reader


@dataclass(frozen=True, slots=True, kw_only=True)
class LogOptions:
    """Selection of log lines.

    Attributes:
        tail: Number of last lines of each pod; None for all.
        since_seconds: Only lines of this many last seconds; None for all.
        previous: Whether to read the previous, terminated container.
        container: Name of the container; empty for the default one.
    """

    tail: int | None = 100
    since_seconds: int | None = None
    previous: bool = False
    container: str = ""


@dataclass(frozen=True, slots=True)
class LogLine:
    """An unmodified line of a pod's log."""

    pod: str
    text: str


def component_pods(cluster: Cluster, release: Release, name: str) -> list[Object]:
    """Pods of a component, sorted by name. Raises NotFound if there is no such component."""
    component(cluster, release, name)
    found = cluster.list(PODS, labels=release.component_labels(component_name(name)))
    return sorted(found, key=name_of)


def read(cluster: Cluster, release: Release, name: str, options: LogOptions) -> Iterator[LogLine]:
    """Log lines of a component, pod by pod. Raises NotFound if it has no pods, and Rejected if no pod has a log."""
    pods = component_pods(cluster, release, name)
    if not pods:
        raise NotFound(f"{component_name(name)} has no pods", f"lyra cluster scale {name} 1")
    failure: ClusterError | None = None
    any_lines = False
    for pod in pods:
        try:
            for line in cluster.pod_log(name_of(pod), _query(pod, options)):
                any_lines = True
                yield LogLine(name_of(pod), line.decode(errors="replace"))
        except Rejected as error:  # its container has not started, or there is no previous one
            failure = error
    if failure is not None and not any_lines:
        raise failure


def follow(
    cluster: Cluster, release: Release, name: str, options: LogOptions, stop: threading.Event
) -> Iterator[LogLine]:
    """Streams the log lines of all pods of a component, including pods created later, until `stop` is set."""
    lines: queue.Queue[LogLine | ClusterError] = queue.Queue(_MAX_BUFFERED_LINES)
    followed: set[str] = set()
    found = component_pods(cluster, release, name)
    first = True

    def pump(pod: Object, query: dict[str, str]) -> None:
        try:
            for line in cluster.pod_log(name_of(pod), query):
                lines.put(LogLine(name_of(pod), line.decode(errors="replace")))
                if stop.is_set():
                    return
        except (NotFound, Rejected):
            pass  # the pod or its container is gone
        except ClusterError as error:
            lines.put(error)

    while not stop.is_set():
        for pod in found:
            uid = str(nested(pod, "metadata", "uid"))
            if uid not in followed and _has_started(pod):
                query = _query(pod, options if first else LogOptions(tail=None, container=options.container))
                threading.Thread(target=pump, args=(pod, query | {"follow": "true"}), daemon=True, name="log").start()
                followed.add(uid)
        first = False
        yield from _until_next_poll(lines, stop)
        found = component_pods(cluster, release, name)


def _until_next_poll(lines: "queue.Queue[LogLine | ClusterError]", stop: threading.Event) -> Iterator[LogLine]:
    """Lines that arrive until it is time to look for new pods."""
    until = time.monotonic() + _POLL_SECONDS
    while not stop.is_set() and (left := until - time.monotonic()) > 0:
        try:
            line = lines.get(timeout=min(left, 0.2))
        except queue.Empty:
            continue
        if isinstance(line, ClusterError):
            raise line
        yield line


def _has_started(pod: Object) -> bool:
    return any("running" in (state.get("state") or {}) for state in container_statuses(pod))


def _query(pod: Object, options: LogOptions) -> dict[str, str]:
    containers = [str(each["name"]) for each in nested(pod, "spec", "containers") or ()]
    default = annotations_of(pod).get(_DEFAULT_CONTAINER) or (containers[0] if containers else "")
    return {
        "container": options.container or default,
        "tailLines": "" if options.tail is None else str(options.tail),
        "sinceSeconds": "" if options.since_seconds is None else str(options.since_seconds),
        "previous": "true" if options.previous else "",
    }
