"""Logs of all pods of a part of a release, one after the other or as they are written."""

import queue
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass

from services.operations.cluster.api import PODS, Cluster, Object
from services.operations.cluster.cluster_errors import ClusterError, NotFound, Refused
from services.operations.cluster.objects import annotations_of, container_states, name_of, pick
from services.operations.cluster.release import Release, component, component_name

_LOOK_SECONDS = 3.0  # between two looks for pods that are new
_DEFAULT_CONTAINER = "kubectl.kubernetes.io/default-container"
_KEPT_LINES = 10_000  # that a reader may be behind before pods have to wait for it


@dataclass(frozen=True, slots=True, kw_only=True)
class LogOptions:
    """Which lines.

    Attributes:
        tail: The last so many of each pod; None for all.
        since_seconds: Of the last so many seconds; None for all.
        previous: Of the container before the one that runs, which ended.
        container: Of the pod; empty for its first.
    """

    tail: int | None = 100
    since_seconds: int | None = None
    previous: bool = False
    container: str = ""


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a pod's log, as it is."""

    pod: str
    text: str


def component_pods(cluster: Cluster, release: Release, name: str) -> list[Object]:
    """Pods of a component, by name. Raises NotFound where there is no such component."""
    component(cluster, release, name)
    found = cluster.list(PODS, labels=release.component_labels(component_name(name)))
    return sorted(found, key=name_of)


def read(cluster: Cluster, release: Release, name: str, options: LogOptions) -> Iterator[Line]:
    """Lines of each pod of a component, pod by pod. Raises NotFound where it has none, or none that has a log."""
    pods = component_pods(cluster, release, name)
    if not pods:
        raise NotFound(f"{component_name(name)} has no pods", f"lyra cluster scale {name} 1")
    silent: ClusterError | None = None
    told = False
    for pod in pods:
        try:
            for line in cluster.pod_log(name_of(pod), _query(pod, options)):
                told = True
                yield Line(name_of(pod), line.decode(errors="replace"))
        except Refused as error:  # its container has not started, or there is none before it
            silent = error
    if silent is not None and not told:
        raise silent


def follow(cluster: Cluster, release: Release, name: str, options: LogOptions, stop: threading.Event) -> Iterator[Line]:
    """Lines of all pods of a component as they come, those of pods that are made later among them, until `stop`."""
    lines: queue.Queue[Line | ClusterError] = queue.Queue(_KEPT_LINES)
    followed: set[str] = set()
    found = component_pods(cluster, release, name)
    first = True

    def pump(pod: Object, query: dict[str, str]) -> None:
        try:
            for line in cluster.pod_log(name_of(pod), query):
                lines.put(Line(name_of(pod), line.decode(errors="replace")))
                if stop.is_set():
                    return
        except (NotFound, Refused):
            pass  # it went away, or its container did
        except ClusterError as error:
            lines.put(error)

    while not stop.is_set():
        for pod in found:
            uid = str(pick(pod, "metadata", "uid"))
            if uid not in followed and _has_started(pod):
                query = _query(pod, options if first else LogOptions(tail=None, container=options.container))
                threading.Thread(target=pump, args=(pod, query | {"follow": "true"}), daemon=True, name="log").start()
                followed.add(uid)
        first = False
        yield from _until_next_look(lines, stop)
        found = component_pods(cluster, release, name)


def _until_next_look(lines: "queue.Queue[Line | ClusterError]", stop: threading.Event) -> Iterator[Line]:
    """What comes until it is time to look for new pods."""
    until = time.monotonic() + _LOOK_SECONDS
    while not stop.is_set() and (left := until - time.monotonic()) > 0:
        try:
            line = lines.get(timeout=min(left, 0.2))
        except queue.Empty:
            continue
        if isinstance(line, ClusterError):
            raise line
        yield line


def _has_started(pod: Object) -> bool:
    return any("running" in (state.get("state") or {}) for state in container_states(pod))


def _query(pod: Object, options: LogOptions) -> dict[str, str]:
    containers = [str(each["name"]) for each in pick(pod, "spec", "containers") or ()]
    usual = annotations_of(pod).get(_DEFAULT_CONTAINER) or (containers[0] if containers else "")
    return {
        "container": options.container or usual,
        "tailLines": "" if options.tail is None else str(options.tail),
        "sinceSeconds": "" if options.since_seconds is None else str(options.since_seconds),
        "previous": "true" if options.previous else "",
    }
