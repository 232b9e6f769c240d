"""Renders what the chart says of itself: `make docs`.

helm/lyra/README.md gets a table of all values, from the `# --` comments of values.yaml; values.schema.json gets every
setting that may be given in `settings`, from the settings classes.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic_settings import BaseSettings

from services.gateway.settings import GatewaySettings
from services.language_model.settings import LanguageModelSettings
from services.shared.jobs.settings import JobSettings
from services.shared.media.settings import MediaSettings
from services.shared.outbound.settings import OutboundSettings
from services.shared.settings import ProcessSettings
from services.shared.webhooks.settings import WebhookSettings
from services.speech_encoder.settings import SpeechEncoderSettings
from services.speech_synthesizer.settings import SpeechSynthesizerSettings
from services.vision_encoder.settings import VisionEncoderSettings
from services.worker.settings import WorkerSettings

CHART = Path(__file__).parent.parent / "helm/lyra"
README, SCHEMA, VALUES = CHART / "README.md", CHART / "values.schema.json", CHART / "values.yaml"

# Said by other values, or by the chart itself.
SET_BY_CHART = {
    *ProcessSettings.model_fields,
    *("preset", "checkpoint", "device", "metrics_port", "threads", "adapters", "adapters_dir", "queues", "concurrency"),
    *("ready_without", "gateway_tls_cert_file", "gateway_tls_key_file", "redis_url", "trusted_proxies"),
    *("webhook_secrets_file",),
    *("speech_encoder_address", "vision_encoder_address", "language_model_address", "speech_synthesizer_address"),
    *("store_endpoint", "store_public_endpoint", "store_secure", "store_public_secure", "store_region"),
    *("store_bucket", "store_access_key", "store_secret_key"),
}
_SHARED = (MediaSettings, JobSettings, WebhookSettings, OutboundSettings)
# Definition in the schema: the classes whose settings it holds, and those whose settings stand elsewhere.
SETTINGS: dict[str, tuple[tuple[type[BaseSettings], ...], tuple[type[BaseSettings], ...]]] = {
    "speechEncoderSettings": ((SpeechEncoderSettings,), ()),
    "visionEncoderSettings": ((VisionEncoderSettings,), ()),
    "languageModelSettings": ((LanguageModelSettings,), ()),
    "speechSynthesizerSettings": ((SpeechSynthesizerSettings,), ()),
    "gatewaySettings": ((GatewaySettings,), _SHARED),
    "workerSettings": ((WorkerSettings,), _SHARED),
    "sharedSettings": (_SHARED, ()),
}
_KEPT = ("type", "enum", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "minLength")

# Sections whose keys are explained where their like stands.
_LIKE = {
    **dict.fromkeys(("visionEncoder", "languageModel", "speechSynthesizer"), "speechEncoder"),
    **dict.fromkeys(("gateway", "beat", "training"), "speechEncoder"),
    "worker.plan": "speechEncoder",
    "worker.clips": "worker.plan",
    "worker.answers": "worker.plan",
    "redis.bundled": "speechEncoder",
    "objectStore.bundled": "speechEncoder",
}
_KEY = re.compile(r"(?P<indent> *)(?P<key>[A-Za-z][\w.-]*):(?P<value>.*)")

_INTRODUCTION = """\
# lyra

{description}

Rendered by `make docs` from values.yaml; edit that, not this file. Version {version}, of Lyra {app}; Kubernetes {kube}.

```sh
helm install lyra helm/lyra --namespace lyra --create-namespace --values helm/lyra/values-nano.yaml
helm test lyra --namespace lyra --logs
```

| values | for |
| --- | --- |
| `values-nano.yaml` | one small machine (kind, k3s), without GPUs: trying out |
| `values-base-gpu.yaml` | a published checkpoint on GPUs, one pod of each service |
| `values-production.yaml` | external stores, autoscaling by KEDA, alerts, ingress: to start from |

[examples](examples/) has the chart rendered with values-production.yaml; [docs/deploy](../../docs/deploy/index.md) explains how to
run it.
A value that is wrong is refused before anything is made, with its name and what to set.

## Values
"""


@dataclass(frozen=True, slots=True)
class Row:
    """A value: its path with dots, its default as in YAML, and what it is."""

    path: str
    default: str
    text: str


def rows() -> list[Row]:
    """Every value, in the order of values.yaml. Raises ValueError for one that nobody explains."""
    values = yaml.safe_load(VALUES.read_text())
    texts = dict(_comments(VALUES.read_text().splitlines()))
    return list(_rows(values, "", texts))


def readme() -> str:
    """The whole of README.md."""
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    head = _INTRODUCTION.format(
        description=chart["description"], version=chart["version"], app=chart["appVersion"], kube=chart["kubeVersion"]
    )
    table = ["| value | default | what it is |", "| --- | --- | --- |"]
    table += [f"| `{row.path}` | `{row.default}` | {row.text} |" for row in rows()]
    return "\n".join([head, *table, ""])


def schema() -> str:
    """The whole of values.schema.json: as it is, with the settings made anew."""
    whole = json.loads(SCHEMA.read_text())
    for name, (classes, elsewhere) in SETTINGS.items():
        whole["definitions"][name] = {
            "type": "object",
            "additionalProperties": False,
            "properties": dict(_settings(classes, elsewhere)),
        }
    return json.dumps(whole, indent=2) + "\n"


def _settings(
    classes: tuple[type[BaseSettings], ...], elsewhere: tuple[type[BaseSettings], ...]
) -> Iterator[tuple[str, dict[str, Any]]]:
    known = {*SET_BY_CHART, *(name for each in elsewhere for name in each.model_fields)}
    found: dict[str, dict[str, Any]] = {}
    for each in classes:
        found |= each.model_json_schema()["properties"]
    for name, field in sorted(found.items()):
        if name not in known:
            given = next((option for option in field.get("anyOf", ()) if option["type"] != "null"), field)
            yield f"LYRA_{name.upper()}", {key: given[key] for key in _KEPT if key in given}


def _comments(lines: list[str]) -> Iterator[tuple[str, str]]:
    """Path and text of each value with a `# --` comment above it."""
    path: list[tuple[int, str]] = []
    said: list[str] = []
    for line in lines:
        text = line.strip()
        if text.startswith("# -- "):
            said = [text.removeprefix("# -- ")]
        elif text.startswith("# ") and said:
            said.append(text.removeprefix("# "))
        elif found := _KEY.fullmatch(line):
            indent = len(found["indent"])
            path = [(depth, key) for depth, key in path if depth < indent] + [(indent, found["key"])]
            if said:
                yield ".".join(key for _, key in path), " ".join(said)
            said = []
        else:
            said = []


def _rows(value: Any, path: str, texts: Mapping[str, str]) -> Iterator[Row]:
    text = texts.get(path) or _borrowed(path, texts)
    if text:
        yield Row(path, _flow(value), text.replace("|", "\\|"))
    elif isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _rows(inner, f"{path}.{key}" if path else key, texts)
    else:
        raise ValueError(f"values.yaml: {path} has no `# --` comment")


def _borrowed(path: str, texts: Mapping[str, str]) -> str | None:
    for section, like in _LIKE.items():
        if path.startswith(section + "."):
            other = like + path.removeprefix(section)
            found = texts.get(other) or _borrowed(other, texts)
            if found:
                return found
    return None


def _flow(value: Any) -> str:
    text = yaml.safe_dump(value, default_flow_style=True, width=10_000, sort_keys=False).strip()
    return text.removesuffix("\n...").removesuffix("...").strip() or '""'


if __name__ == "__main__":
    SCHEMA.write_text(schema())
    README.write_text(readme())
