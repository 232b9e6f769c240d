"""Renders the chart with helm, and accessors for the rendered objects."""

import base64
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import yaml

from tests.chart.combinations import merge
from tests.chart.programs import helm

ROOT = Path(__file__).parents[2]
CHART = ROOT / "helm/lyra"
VALUES_FILES = ("values-nano.yaml", "values-base-gpu.yaml", "values-production.yaml")
NAMESPACE = "speech"

Object = dict[str, Any]

# The fastest available YAML 1.1 loader, as Kubernetes parses manifests.
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class RenderError(RuntimeError):
    """Helm rejected the values; the text is its error output."""


@dataclass(frozen=True)
class Rendering:
    """The chart rendered with some values."""

    name: str
    text: str
    values: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def objects(self) -> tuple[Object, ...]:
        return tuple(each for each in yaml.load_all(self.text, _Loader) if each)

    def of(self, *kinds: str) -> list[Object]:
        """Objects of these kinds."""
        return [each for each in self.objects if each["kind"] in kinds]

    def get(self, kind: str, suffix: str) -> Object:
        """The object of a kind whose name has this suffix. Raises LookupError."""
        for each in self.of(kind):
            if each["metadata"]["name"].endswith(suffix):
                return each
        raise LookupError(f"{self.name}: no {kind} ...{suffix}")

    def pods(self) -> Iterator[tuple[str, Object]]:
        """Name and pod template of every Pod, Deployment, StatefulSet and Job."""
        for each in self.objects:
            if each["kind"] == "Pod":
                yield each["metadata"]["name"], each
            elif each["kind"] in ("Deployment", "StatefulSet", "Job"):
                yield each["metadata"]["name"], each["spec"]["template"]


def containers(pod: Object) -> list[Object]:
    """Containers of a pod, including init containers."""
    return [*pod["spec"].get("initContainers", ()), *pod["spec"]["containers"]]


def environment(container: Object) -> dict[str, str]:
    """Environment variables of a container that have a literal value."""
    return {each["name"]: each["value"] for each in container.get("env", ()) if "value" in each}


def matches(selector: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    """Whether a label selector matches. Raises ValueError for one with expressions."""
    if selector.keys() - {"matchLabels"}:
        raise ValueError(f"selector with {sorted(selector)}")
    return all(labels.get(key) == value for key, value in selector.get("matchLabels", {}).items())


def quantity(text: str | int) -> float:
    """A Kubernetes quantity as a number."""
    found = re.fullmatch(r"([0-9.]+)(m|k|M|G|T|Ki|Mi|Gi|Ti)?", str(text))
    if found is None:
        raise ValueError(f"{text!r} is not a quantity")
    factor = {"m": 1e-3, None: 1, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}
    factor |= {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}
    return float(found[1]) * factor[found[2]]


def render(
    values: Mapping[str, Any] | None = None,
    files: Sequence[str] = (),
    release: str = "demo",
    name: str = "",
    options: Sequence[str] = (),
) -> Rendering:
    """Renders the chart; results are cached. Raises RenderError."""
    text = yaml.safe_dump(dict(values or {}))
    given = merge(*(yaml.load((CHART / file).read_text(), _Loader) for file in files), values or {})
    return Rendering(name or ",".join(files) or release, _rendered(text, tuple(files), release, tuple(options)), given)


@cache
def _rendered(values: str, files: tuple[str, ...], release: str, options: tuple[str, ...]) -> str:
    arguments: list[str | Path] = ["template", release, CHART, "--namespace", NAMESPACE, *options]
    for file in files:
        arguments += ["--values", CHART / file]
    done = helm(*arguments, "--values", "-", stdin=values)
    if done.returncode:
        raise RenderError(done.stderr)
    return done.stdout


@cache
def of_file(file: str) -> Rendering:
    """The chart rendered with a values file as release "lyra"."""
    return render(files=(file,), release="lyra")


def fixed(text: str) -> str:
    """Replaces the contents of generated Secrets, which differ in every rendering."""
    secret = re.compile(r"(?m)^(  (?:password|access-key|secret-key|api-key|keys\.json|token): )\S+$")
    return secret.sub(lambda found: found[1] + base64.b64encode(b"generated").decode(), text)
