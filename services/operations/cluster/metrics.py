"""What pods measure of themselves, read through the API server's pod proxy: no port has to be opened for it."""

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from prometheus_client.parser import text_string_to_metric_families

from services.operations.cluster.api import Cluster, Object
from services.operations.cluster.cluster_errors import NotFound, Refused, Unreachable
from services.operations.cluster.objects import name_of, pick

PATH = "metrics"
_PORT_NAMES = ("metrics", "http")  # of the container's ports; the gateway has its metrics beside its API

RUNNING, WAITING, MODEL_RUNNING = "lyra_requests_running", "lyra_requests_waiting", "lyra_model_running"
AUDIO_WAITING, UNITS_WAITING = "lyra_audio_seconds_waiting", "lyra_units_waiting"


@dataclass(frozen=True)
class Samples:
    """Values of a pod's metrics, by name, each with its labels."""

    values: Mapping[str, list[tuple[dict[str, str], float]]] = field(default_factory=dict)

    def total(self, name: str, where: Callable[[dict[str, str]], bool] = lambda labels: True) -> float | None:
        """Sum over all labels that `where` takes; None where the pod does not have this metric."""
        if name not in self.values:
            return None
        return sum(value for labels, value in self.values[name] if where(labels))

    def by(self, name: str, label: str) -> dict[str, float]:
        """Sums by the value of a label."""
        sums: dict[str, float] = defaultdict(float)
        for labels, value in self.values.get(name, ()):
            sums[labels.get(label, "")] += value
        return dict(sums)

    @property
    def calls_running(self) -> int | None:
        """Calls that clients made and that are open; probes and scrapes of the gateway are none."""
        total = self.total(RUNNING, lambda labels: is_call(labels.get("method", "")))
        return None if total is None else round(total)


def is_call(method: str) -> bool:
    """Whether `method` is work for a client: "/lyra.v1.LanguageModel/Generate", "POST /v1/chat/completions"."""
    return method.startswith("/lyra.") or method.partition(" ")[2].startswith("/v1/")


def metrics_port(pod: Object) -> int | None:
    """The port of a pod's metrics, by name; None where it has none."""
    ports = {
        each.get("name"): each["containerPort"]
        for container in pick(pod, "spec", "containers") or ()
        for each in container.get("ports") or ()
    }
    return next((int(ports[name]) for name in _PORT_NAMES if name in ports), None)


def scrape(cluster: Cluster, pod: Object) -> Samples | None:
    """What a pod measures; None where it has no metrics, or does not answer (it may still start).

    Raises Forbidden where pods/proxy is not allowed.
    """
    port = metrics_port(pod)
    if port is None:
        return None
    try:
        return parse(cluster.pod_page(name_of(pod), port, PATH))
    except (Unreachable, NotFound, Refused, ValueError):
        return None


def parse(text: str) -> Samples:
    """Reads the text format of Prometheus. Raises ValueError."""
    values: dict[str, list[tuple[dict[str, str], float]]] = defaultdict(list)
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            values[sample.name].append((dict(sample.labels), sample.value))
    return Samples(dict(values))
