"""Environment variables of the chart are settings of the processes, and its queries use metrics that they export."""

import importlib
import importlib.util
import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from prometheus_client import REGISTRY
from pydantic_settings import BaseSettings

from services.gateway.settings import GatewaySettings
from services.language_model.settings import LanguageModelSettings
from services.operations.local.stack import WORKERS
from services.shared.settings import ServiceSettings
from services.shared.storage.settings import StoreSettings
from services.speech_encoder.settings import SpeechEncoderSettings
from services.speech_synthesizer.settings import SpeechSynthesizerSettings
from services.vision_encoder.settings import VisionEncoderSettings
from services.worker.settings import WorkerSettings
from tests.chart.chart import CHART, ROOT, Rendering, containers, environment, render

SETTINGS: dict[str, type[BaseSettings]] = {
    "services.speech_encoder": SpeechEncoderSettings,
    "services.vision_encoder": VisionEncoderSettings,
    "services.language_model": LanguageModelSettings,
    "services.speech_synthesizer": SpeechSynthesizerSettings,
    "services.gateway": GatewaySettings,
    "services.worker": WorkerSettings,
    "services.worker.clock": WorkerSettings,
    "services.shared.storage.folders": StoreSettings,
}
# Metrics of Prometheus, the kubelet and kube-state-metrics.
FOREIGN_METRICS = re.compile(r"up|kube_\w+|kubelet_\w+|container_\w+")
_METRIC_NAME = re.compile(r"(?<![\w\".])(?:lyra|kube|kubelet|container)_\w+(?=[\{\[\s)]|$)")


def modules(rendering: Rendering) -> Iterator[tuple[str, dict[str, str]]]:
    """Module and plain environment variables of every Lyra container."""
    for _, pod in rendering.pods():
        for container in containers(pod):
            if container.get("command", [])[:2] == ["python", "-m"]:
                yield container["command"][2], environment(container)


def test_commands_are_modules_and_variables_are_settings(renderings: tuple[Rendering, ...]) -> None:
    unknown = set()
    for rendering in renderings:
        for module, variables in modules(rendering):
            if importlib.util.find_spec(module) is None:
                unknown.add(module)
            names = {name for name in variables if name.startswith("LYRA_")}
            fields = SETTINGS.get(module, ServiceSettings).model_fields
            unknown |= {f"{module}: {name}" for name in names if name.removeprefix("LYRA_").lower() not in fields}

    assert not unknown


@pytest.mark.parametrize("file", ["nano", "base-gpu", "production"])
def test_processes_accept_their_environment(file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for module, variables in modules(render(files=(f"values-{file}.yaml",))):
        if module in SETTINGS:
            with monkeypatch.context() as own:
                for name, value in variables.items():
                    own.setenv(name, value)
                settings = SETTINGS[module]()
            if module != "services.shared.storage.folders":
                assert getattr(settings, "host", "") == "0.0.0.0"


def test_workers_consume_the_queues_of_the_local_stack(nano: Rendering) -> None:
    consumed = {
        environment(each["spec"]["template"]["spec"]["containers"][0]).get("LYRA_QUEUES")
        for each in nano.of("Deployment")
    }

    assert consumed - {None} == {queues for queues, _ in WORKERS.values()}


def alerts(rendering: Rendering) -> Iterator[dict[str, Any]]:
    """All alert rules."""
    for each in rendering.of("PrometheusRule"):
        for group in each["spec"]["groups"]:
            yield from group["rules"]


def queries(rendering: Rendering) -> Iterator[str]:
    """All Prometheus queries: of autoscalers, alerts and the dashboard."""
    for each in rendering.of("ScaledObject"):
        yield from (
            trigger["metadata"]["query"] for trigger in each["spec"]["triggers"] if trigger["type"] == "prometheus"
        )
    for each in rendering.of("HorizontalPodAutoscaler"):
        for metric in each["spec"]["metrics"]:
            if metric["type"] == "Pods":
                yield metric["pods"]["metric"]["name"]
    yield from (rule["expr"] for rule in alerts(rendering))
    for panel in json.loads((CHART / "dashboards/lyra.json").read_text())["panels"]:
        yield from (target["expr"] for target in panel["targets"])


def known_metrics() -> set[str]:
    """Names of the metrics that Lyra processes export."""
    for module in ("services.shared.telemetry", "services.gateway.http.telemetry", "services.worker.queue_metrics"):
        importlib.import_module(module)
    # The clock adds the last one when it is scraped, from Redis.
    return {*REGISTRY._names_to_collectors, "lyra_units_waiting"}


def test_every_queried_metric_is_exported(renderings: tuple[Rendering, ...]) -> None:
    used = {name for rendering in renderings for query in queries(rendering) for name in _METRIC_NAME.findall(query)}

    missing = {name for name in used if not FOREIGN_METRICS.fullmatch(name)} - known_metrics()

    assert used >= {"lyra_audio_seconds_waiting", "lyra_requests_waiting", "lyra_units_waiting"}
    assert not missing


def test_every_alert_links_to_an_existing_runbook(production: Rendering) -> None:
    text = (ROOT / "docs/deploy/runbooks.md").read_text()
    anchors = {heading.strip().lower() for heading in re.findall(r"(?m)^#+ (.+)$", text)}
    rules = [
        rule for each in production.of("PrometheusRule") for group in each["spec"]["groups"] for rule in group["rules"]
    ]

    missing = {
        rule["alert"]
        for rule in rules
        if rule["annotations"]["runbook_url"].partition("#")[2] not in anchors
        or rule["annotations"]["runbook_url"].partition("#")[2] != rule["alert"].lower()
    }

    assert len(rules) >= 10
    assert not missing


def test_every_runbook_has_its_alert(production: Rendering) -> None:
    text = (ROOT / "docs/deploy/runbooks.md").read_text()
    described = set(re.findall(r"(?m)^#+ (Lyra\w+)$", text))
    rules = (
        rule["alert"]
        for each in production.of("PrometheusRule")
        for group in each["spec"]["groups"]
        for rule in group["rules"]
    )

    assert described == set(rules)


def test_services_at_zero_scale_up_on_unserved_calls() -> None:
    values = {
        "monitoring": {"prometheus": {"address": "http://prometheus:9090"}},
        "visionEncoder": {"autoscaling": {"mode": "keda", "minReplicas": 0}},
    }
    rendering = render(values)
    triggers = rendering.get("ScaledObject", "-vision-encoder")["spec"]["triggers"]
    gateway = environment(rendering.get("Deployment", "-gateway")["spec"]["template"]["spec"]["containers"][0])

    assert (
        'lyra_calls_unserved_total{namespace="speech",job="demo",service="vision_encoder"}'
        in triggers[1]["metadata"]["query"]
    )
    assert gateway["LYRA_READY_WITHOUT"] == "vision_encoder"


def test_gateway_trusts_the_configured_proxies_and_none_by_default(nano: Rendering) -> None:
    def gateway(rendering: Rendering) -> dict[str, str]:
        return environment(rendering.get("Deployment", "-gateway")["spec"]["template"]["spec"]["containers"][0])

    named = gateway(render({"gateway": {"trustedProxies": ["10.244.0.0/16", "2001:db8::1"]}}))

    assert named["LYRA_TRUSTED_PROXIES"] == "10.244.0.0/16,2001:db8::1"
    assert "LYRA_TRUSTED_PROXIES" not in gateway(nano)
