"""The autoscalers of the chart, read from its rendered objects."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from bench.scaling.rules import DEFAULT_DOWN, DEFAULT_UP, Behavior, Policy, Settings, Trigger

MODEL_SERVICES = ("speech-encoder", "vision-encoder", "language-model", "speech-synthesizer")
# Method of each service, a label of its metrics.
METHODS = {
    "speech_encoder": "/lyra.v1.SpeechEncoder/Encode",
    "vision_encoder": "/lyra.v1.VisionEncoder/Encode",
    "language_model": "/lyra.v1.LanguageModel/Generate",
    "speech_synthesizer": "/lyra.v1.SpeechSynthesizer/Synthesize",
}
# Labels of the metrics of a service's pods, if not `service`.
_LABELS = {"lyra_audio_seconds_waiting": "", "lyra_requests_running": 'method="{method}"'}
_MIG = re.compile(r"nvidia\.com/mig-(\d+)g\..*")
_MIG_SLICES = 7  # compute slices of a GPU (NVIDIA Multi-Instance GPU user guide)
_SUFFIXES = {"m": 1e-3, "": 1.0, "k": 1e3}


class UnknownObject(ValueError):
    """A rendered object requires something that the simulation does not support."""


@dataclass(frozen=True, slots=True)
class ScaledService:
    """A model service as deployed by the chart. `gpus` are those of a pod; a MIG slice is a fraction."""

    name: str
    replicas: int
    autoscaler: Settings | None
    gpus: float


def read_services(objects: Iterable[Mapping[str, Any]]) -> list[ScaledService]:
    """The model services among the chart's rendered objects.

    Raises UnknownObject for a metric or trigger that is not supported.
    """
    deployments: dict[str, Mapping[str, Any]] = {}
    scalers: dict[str, Settings] = {}
    for each in objects:
        if each["kind"] == "Deployment":
            deployments[each["metadata"]["name"]] = each
        elif each["kind"] == "HorizontalPodAutoscaler":
            target = each["spec"]["scaleTargetRef"]["name"]
            if target.endswith(MODEL_SERVICES):
                scalers[target] = _from_hpa(target, each["spec"])
        elif each["kind"] == "ScaledObject":
            target = each["spec"]["scaleTargetRef"]["name"]
            if target.endswith(MODEL_SERVICES):
                scalers[target] = _from_scaled_object(target, each["spec"])
    found = {name: each for each in MODEL_SERVICES for name in deployments if name.endswith(each)}
    if len(found) != len(MODEL_SERVICES):
        raise UnknownObject(f"of {', '.join(MODEL_SERVICES)}, the chart renders only {', '.join(found) or 'none'}")
    return [
        ScaledService(
            name=next(service for service in MODEL_SERVICES if name.endswith(service)),
            replicas=int(deployments[name]["spec"].get("replicas") or 1),
            autoscaler=scalers.get(name),
            gpus=_gpus(deployments[name]["spec"]["template"]["spec"]),
        )
        for name in found
    ]


def _from_scaled_object(name: str, spec: Mapping[str, Any]) -> Settings:
    triggers = []
    for trigger in spec["triggers"]:
        metadata = trigger["metadata"]
        if trigger["type"] != "prometheus" or trigger.get("metricType", "AverageValue") != "AverageValue":
            raise UnknownObject(f"{name}: only Prometheus triggers by AverageValue are simulated, not {trigger}")
        activation = float(metadata.get("activationThreshold") or 0)
        triggers.append(Trigger(metadata["query"], float(metadata["threshold"]), activation))
    behavior = spec.get("advanced", {}).get("horizontalPodAutoscalerConfig", {}).get("behavior", {})
    return Settings(
        min_replicas=int(spec.get("minReplicaCount", 0)),
        max_replicas=int(spec.get("maxReplicaCount", 100)),
        triggers=tuple(triggers),
        up=_behavior(behavior.get("scaleUp"), DEFAULT_UP),
        down=_behavior(behavior.get("scaleDown"), DEFAULT_DOWN),
        polling_seconds=float(spec.get("pollingInterval", 30)),
        cooldown_seconds=float(spec.get("cooldownPeriod", 300)),
    )


def _from_hpa(name: str, spec: Mapping[str, Any]) -> Settings:
    triggers = []
    service = next(each for each in MODEL_SERVICES if name.endswith(each)).replace("-", "_")
    for metric in spec["metrics"]:
        source = metric.get("pods") or metric.get("external")
        if source is None or "averageValue" not in source["target"]:
            raise UnknownObject(f"{name}: only Pods and External metrics by averageValue are simulated, not {metric}")
        kind = source["metric"]["name"]
        labels = _LABELS.get(kind, 'service="{service}"').format(service=service, method=METHODS[service])
        triggers.append(Trigger(f"sum({kind}{{{labels}}})", _quantity(source["target"]["averageValue"])))
    behavior = spec.get("behavior", {})
    return Settings(
        min_replicas=int(spec.get("minReplicas", 1)),
        max_replicas=int(spec["maxReplicas"]),
        triggers=tuple(triggers),
        up=_behavior(behavior.get("scaleUp"), DEFAULT_UP),
        down=_behavior(behavior.get("scaleDown"), DEFAULT_DOWN),
        keda=False,
    )


def _behavior(given: Mapping[str, Any] | None, default: Behavior) -> Behavior:
    """Missing fields have Kubernetes' defaults."""
    if not given:
        return default
    policies = tuple(
        Policy(each["type"], int(each["value"]), float(each["periodSeconds"])) for each in given.get("policies") or ()
    )
    return Behavior(
        stabilization_seconds=float(given.get("stabilizationWindowSeconds", default.stabilization_seconds)),
        policies=policies or default.policies,
        select=given.get("selectPolicy", "Max"),
        tolerance=_quantity(given.get("tolerance", default.tolerance)),
    )


def _quantity(text: Any) -> float:
    found = re.fullmatch(r"([\d.]+)([mk]?)", str(text))
    if found is None:
        raise UnknownObject(f"{text!r} is not a supported quantity")
    return float(found[1]) * _SUFFIXES[found[2]]


def _gpus(pod: Mapping[str, Any]) -> float:
    total = 0.0
    for container in pod["containers"]:
        for resource, count in container.get("resources", {}).get("limits", {}).items():
            if resource == "nvidia.com/gpu":
                total += float(count)
            elif slices := _MIG.fullmatch(resource):
                total += float(count) * int(slices[1]) / _MIG_SLICES
    return total
