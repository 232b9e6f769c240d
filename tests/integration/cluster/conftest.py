"""An API server with the chart's production release, and a `lyra cluster` that uses it."""

import base64
import copy
import gzip
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import CollectorRegistry, Gauge, start_http_server
from typer.testing import CliRunner, Result

from cli.main import app
from services.operations.cluster.api import Cluster
from tests.chart.programs import helm
from tests.integration.cluster.kube_api import KEDA, PROMETHEUS, KubeApi, Object
from tests.paths import ROOT

HERE = Path(__file__).parent
CHART = ROOT / "helm" / "lyra"
NODES = {"speech-encoder": "mig-1", "vision-encoder": "mig-1", "language-model": "gpu-1", "speech-synthesizer": "mig-1"}

Lyra = Callable[..., Result]


@cache
def _parsed(text: str) -> tuple[Object, ...]:
    return tuple(each for each in yaml.load_all(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader)) if each)


def objects(text: str) -> list[Object]:
    """Objects of a YAML stream, which callers may change."""
    return copy.deepcopy(list(_parsed(text)))


def recorded() -> list[Object]:
    return objects((HERE / "recorded" / "cluster.yaml").read_text())


@cache
def manifest() -> str:
    """The chart rendered with the production values."""
    values = ("--values", CHART / "values-production.yaml", "--values", HERE / "recorded" / "values.yaml")
    rendered = helm("template", "lyra", CHART, "--namespace", "lyra", *values)
    assert rendered.returncode == 0, rendered.stderr
    return rendered.stdout


def pod_of(workload: Object, number: int, **changes: Any) -> Object:
    """A running, ready pod of a Deployment."""
    template = workload["spec"]["template"]
    name, part = workload["metadata"]["name"], workload["metadata"]["labels"]["app.kubernetes.io/component"]
    container = template["spec"]["containers"][0]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": f"{name}-{number}", "namespace": "lyra", "labels": dict(template["metadata"]["labels"])},
        "spec": {**template["spec"], "nodeName": NODES.get(part, "cpu-1")},
        "status": {
            "phase": "Running",
            "conditions": [{"type": "PodScheduled", "status": "True"}, {"type": "Ready", "status": "True"}],
            "containerStatuses": [
                {
                    "name": container["name"],
                    "image": container["image"],
                    "imageID": "",
                    "ready": True,
                    "restartCount": 0,
                    "state": {"running": {"startedAt": "2026-01-31T10:00:00Z"}},
                }
            ],
            **changes,
        },
    }


def install(api: KubeApi) -> None:
    """Adds what Helm and the controllers would create: the rendered objects, Helm's record, ready pods."""
    for each in objects(manifest()):
        if "helm.sh/hook" in (each["metadata"].get("annotations") or {}):
            continue
        each["metadata"]["generation"] = 1
        if each["kind"] == "Deployment":
            count = each["spec"].setdefault("replicas", 1)
            each["status"] = {
                "observedGeneration": 1,
                "replicas": count,
                "updatedReplicas": count,
                "readyReplicas": count,
                "availableReplicas": count,
                "conditions": [{"type": "Progressing", "status": "True", "reason": "NewReplicaSetAvailable"}],
            }
            api.add(*(pod_of(each, number) for number in range(count)))
        if each["kind"] == "HorizontalPodAutoscaler":
            each["status"] = {"currentReplicas": each["spec"]["minReplicas"], "desiredReplicas": 1, "conditions": []}
        if each["kind"] == "ScaledObject":
            api.add(_hpa_of(each))
        api.add(each)
    record = {
        "name": "lyra",
        "version": 3,
        "info": {"status": "deployed"},
        "chart": {"metadata": {"name": "lyra", "version": "0.1.0", "kubeVersion": ">=1.30.0-0"}},
        "manifest": manifest(),
    }
    packed = base64.b64encode(base64.b64encode(gzip.compress(json.dumps(record).encode()))).decode()
    for revision in (2, 3):
        labels = {"owner": "helm", "name": "lyra", "status": "deployed", "version": str(revision)}
        name = f"sh.helm.release.v1.lyra.v{revision}"
        data = {"release": packed if revision == 3 else "bm90aGluZw=="}
        api.add(
            {
                "apiVersion": "v1",
                "kind": "Secret",
                "metadata": {"name": name, "namespace": "lyra", "labels": labels},
                "type": "helm.sh/release.v1",
                "data": data,
            }
        )


def _hpa_of(scaled: Object) -> Object:
    """The HorizontalPodAutoscaler that KEDA creates for a ScaledObject."""
    spec, name = scaled["spec"], scaled["metadata"]["name"]
    target = {"apiVersion": "apps/v1", "kind": "Deployment", "name": spec["scaleTargetRef"]["name"]}
    bounds = {"minReplicas": max(1, spec["minReplicaCount"]), "maxReplicas": spec["maxReplicaCount"]}
    return {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": f"keda-hpa-{name}", "namespace": scaled["metadata"]["namespace"]},
        "spec": {"scaleTargetRef": target, **bounds},
        "status": {"currentReplicas": 1, "desiredReplicas": 1},
    }


def secret(name: str, *keys: str) -> Object:
    value = base64.b64encode(b"x").decode()
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "data": dict.fromkeys(keys, value)}


@pytest.fixture
def empty_api() -> Iterator[KubeApi]:
    """A server with nodes, a storage class and a namespace, but without Lyra."""
    api = KubeApi()
    api.add(*recorded())
    yield api
    api.close()


@pytest.fixture
def api(empty_api: KubeApi) -> KubeApi:
    """A server with the production release and everything it requires."""
    api = empty_api
    api.kinds |= {
        "keda.sh/v1alpha1": KEDA,
        "monitoring.coreos.com/v1": PROMETHEUS,
        "metrics.k8s.io/v1beta1": {"pods": "PodMetrics"},
    }
    more = {"cpu-1": {}, "gpu-1": {"nvidia.com/gpu": "3"}, "mig-1": {"nvidia.com/mig-2g.20gb": "2"}}
    for node in api.all("Node"):
        node["status"]["allocatable"] |= more[node["metadata"]["name"]]
        api.add(node)
    api.add(
        secret("lyra-keys", "keys.json"),
        secret("lyra-webhooks", "webhook_secrets.json"),
        secret("lyra-object-store", "access-key", "secret-key"),
        secret("lyra-redis", "password"),
        secret("lyra-registry", ".dockerconfigjson"),
        secret("lyra-tls", "tls.crt", "tls.key"),
        {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {"name": "lyra-weights"},
            "spec": {"accessModes": ["ReadOnlyMany"], "resources": {"requests": {"storage": "100Gi"}}},
            "status": {"phase": "Bound"},
        },
    )
    install(api)
    return api


class Measured:
    """Serves the metrics of a pod over HTTP; tests set its gauges."""

    def __init__(self, api: KubeApi, pod: str) -> None:
        registry = CollectorRegistry()
        self.running = Gauge("lyra_requests_running", "", ("method",), registry=registry)
        self.waiting = Gauge("lyra_requests_waiting", "", ("service",), registry=registry)
        self.audio = Gauge("lyra_audio_seconds_waiting", "", registry=registry)
        self.units = Gauge("lyra_units_waiting", "", ("queue",), registry=registry)
        self._server, self._thread = start_http_server(0, "127.0.0.1", registry)
        api.upstreams[pod] = f"http://127.0.0.1:{self._server.server_port}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


Measure = Callable[[str], Measured]


@pytest.fixture
def measure(api: KubeApi) -> Iterator[Measure]:
    """`measure("lyra-gateway-0")` adds metrics to a pod."""
    with ExitStack() as cleanup:

        def start(pod: str) -> Measured:
            measured = Measured(api, pod)
            cleanup.callback(measured.close)
            return measured

        yield start


@pytest.fixture
def kubeconfig(empty_api: KubeApi, tmp_path: Path) -> Path:
    return empty_api.kubeconfig(tmp_path / "kubeconfig")


@pytest.fixture
def cluster(api: KubeApi, kubeconfig: Path) -> Cluster:
    return Cluster.connect(kubeconfig)


@pytest.fixture
def lyra(kubeconfig: Path, monkeypatch: pytest.MonkeyPatch) -> Lyra:
    """`lyra("status")` runs `lyra cluster status` in this process against the server."""
    monkeypatch.setenv("KUBECONFIG", str(kubeconfig))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)

    def run(*arguments: object, input: str = "") -> Result:
        return CliRunner().invoke(app, ["cluster", *(str(each) for each in arguments)], input=input)

    return run
