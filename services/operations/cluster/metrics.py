"""Metrics of pods, read through the API server's pod proxy."""

import math
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from prometheus_client.parser import text_string_to_metric_families

from services.operations.cluster.api import Cluster, Object
from services.operations.cluster.cluster_errors import NotFound, Rejected, Unreachable
from services.operations.cluster.objects import name_of, nested

PATH = "metrics"
_PORT_NAMES = ("metrics", "http")  # of container ports; the gateway serves its metrics on its API port

RUNNING, WAITING, MODEL_RUNNING = "lyra_requests_running", "lyra_requests_waiting", "lyra_model_running"
AUDIO_WAITING, UNITS_WAITING = "lyra_audio_seconds_waiting", "lyra_units_waiting"


@dataclass(frozen=True)
class Samples:
    """Samples of a pod's metrics by name, with their labels."""

    values: Mapping[str, list[tuple[dict[str, str], float]]] = field(default_factory=dict)

    def sum(self, name: str, where: Callable[[dict[str, str]], bool] = lambda labels: True) -> float | None:
        """Sum over the samples whose labels satisfy `where`; None if the pod does not have this metric."""
        if name not in self.values:
            return None
        return math.fsum(value for labels, value in self.values[name] if where(labels))

    def sum_by(self, name: str, label: str) -> dict[str, float]:
        """Sums by the value of a label."""
        sums: dict[str, float] = defaultdict(float)
        for labels, value in self.values.get(name, ()):
            sums[labels.get(label, "")] += value
        return dict(sums)

    @property
    def running_calls(self) -> int | None:
        """Running calls of clients, without probes and scrapes; None if the pod does not have this metric."""
        total = self.sum(RUNNING, lambda labels: is_client_call(labels.get("method", "")))
        return None if total is None else round(total)


def is_client_call(method: str) -> bool:
    """Whether a method is called by clients, as in "/lyra.v1.LanguageModel/Generate", "POST /v1/chat/completions"."""
    return method.startswith("/lyra.") or method.partition(" ")[2].startswith("/v1/")


def metrics_port(pod: Object) -> int | None:
    """Port of a pod's metrics; None if it has none."""
    ports = {
        each.get("name"): each["containerPort"]
        for container in nested(pod, "spec", "containers") or ()
        for each in container.get("ports") or ()
    }
    return next((int(ports[name]) for name in _PORT_NAMES if name in ports), None)


def scrape(cluster: Cluster, pod: Object) -> Samples | None:
    """Scrapes a pod; None if it has no metrics or does not respond, as while it starts.

    Raises Forbidden if RBAC does not allow pods/proxy.
    """
    port = metrics_port(pod)
    if port is None:
        return None
    try:
        return parse(cluster.proxy_get(name_of(pod), port, PATH))
    except (Unreachable, NotFound, Rejected, ValueError):
        return None


def parse(text: str) -> Samples:
    """Parses the Prometheus text format. Raises ValueError."""
    values: dict[str, list[tuple[dict[str, str], float]]] = defaultdict(list)
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            values[sample.name].append((dict(sample.labels), sample.value))
    return Samples(dict(values))
