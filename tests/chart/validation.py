"""Validation against the strict schemas of Kubernetes, KEDA, the Prometheus operator and the Gateway API."""

import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator
from kubernetes_validate import utils
from referencing import Registry, Resource

SCHEMAS = Path(__file__).parent / "schemas"
CUSTOM = {"ScaledObject", "ServiceMonitor", "PrometheusRule", "HTTPRoute"}


def newest_versions(count: int) -> list[str]:
    """The newest Kubernetes versions that kubernetes-validate supports, newest last."""
    return list(dict.fromkeys(map(str, utils.all_versions())))[-count:]


def problems(data: dict[str, Any], version: str) -> Iterator[str]:
    """Validation errors of an object, including unknown fields."""
    validator = _custom(data["kind"]) if data["kind"] in CUSTOM else _builtin(data["kind"], data["apiVersion"], version)
    for error in validator.iter_errors(data):
        yield f"{data['kind']} {data['metadata']['name']}: {error.json_path}: {error.message[:300]}"


@cache
def _custom(kind: str) -> Draft202012Validator:
    return Draft202012Validator(json.loads((SCHEMAS / f"{kind.lower()}.json").read_text()))


@cache
def _builtin(kind: str, api_version: str, version: str) -> Draft202012Validator:
    """As kubernetes_validate.validate(strict=True), but cached: that reads two megabytes of definitions per object."""
    group, _, name = api_version.rpartition("/")
    part = f"{group.split('.')[0]}-{name}" if group else name
    folder = f"kubernetes-json-schema/v{version}-local-strict"
    schema = utils.schema_contents(f"{folder}/{kind.lower()}-{part}.json", version)
    return Draft202012Validator(schema, registry=_definitions(version))


@cache
def _definitions(version: str) -> Registry[Any]:
    folder = f"kubernetes-json-schema/v{version}-local-strict"
    definitions = utils.schema_contents(f"{folder}/_definitions.json", version)
    return Resource.from_contents(definitions) @ Registry()
