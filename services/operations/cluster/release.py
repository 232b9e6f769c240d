"""Finds a release of the chart in a cluster by its labels, and reads Helm's record of it or a rendered manifest.

Helm stores a release as a Secret of type helm.sh/release.v1: JSON, gzipped, in base64, with labels owner=helm and name
(https://helm.sh/docs/topics/advanced/#storage-backends).
"""

import base64
import binascii
import gzip
import json
from collections.abc import Iterable
from dataclasses import dataclass

import yaml

from services.operations.cluster.api import DEPLOYMENTS, SECRETS, STATEFUL_SETS, Cluster, Object
from services.operations.cluster.cluster_errors import ClusterError, NotFound
from services.operations.cluster.objects import INSTANCE_LABEL, NAME_LABEL, component_of, labels_of, nested

CHART = "lyra"
# libyaml's loader if available: the pure Python one takes a second for a rendered chart.
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
INSTALL_HINT = (
    "install one: `helm install lyra helm/lyra` (docs/deploy/index.md), or select one with --namespace and --release"
)


@dataclass(frozen=True, slots=True)
class Release:
    """A release of the chart."""

    name: str
    namespace: str

    @property
    def labels(self) -> str:
        """Label selector of all its objects."""
        return f"{NAME_LABEL}={CHART},{INSTANCE_LABEL}={self.name}"

    def component_labels(self, component: str) -> str:
        """Label selector of the objects of a component."""
        return f"{self.labels},app.kubernetes.io/component={component}"


@dataclass(frozen=True, slots=True)
class HelmRecord:
    """Helm's record of the latest revision of a release.

    Attributes:
        status: Helm's status, as in "deployed", "failed", "pending-upgrade".
        kube_version_range: `kubeVersion` of the chart; empty for any.
    """

    revision: int
    status: str
    chart_version: str
    kube_version_range: str
    objects: tuple[Object, ...]


def find_release(cluster: Cluster, name: str | None = None) -> Release:
    """The release of that name, or the only one in the namespace. Raises NotFound if there is none or more than one."""
    names = {labels_of(each).get(INSTANCE_LABEL, "") for each in cluster.list(DEPLOYMENTS, labels=_any_release())}
    if name is not None and name in names:
        return Release(name, cluster.namespace)
    existing = ", ".join(sorted(names))
    if name is not None:
        hint = f"existing releases: {existing}" if existing else INSTALL_HINT
        raise NotFound(f"release {name} of chart {CHART} not found in namespace {cluster.namespace}", hint)
    if not names:
        raise NotFound(f"there is no release of chart {CHART} in namespace {cluster.namespace}", INSTALL_HINT)
    if len(names) > 1:
        raise NotFound(f"namespace {cluster.namespace} has several releases: {existing}", "select one with --release")
    return Release(names.pop(), cluster.namespace)


def workloads(cluster: Cluster, release: Release) -> list[Object]:
    """Deployments and StatefulSets of a release, with `apiVersion` and `kind`, which lists omit."""
    found = []
    for kind, singular in ((DEPLOYMENTS, "Deployment"), (STATEFUL_SETS, "StatefulSet")):
        for each in cluster.list(kind, labels=release.labels):
            found.append({"apiVersion": kind.api_version, "kind": singular, **each})
    return found


def component(cluster: Cluster, release: Release, name: str) -> Object:
    """The workload of a component, named as in labels (speech-encoder) or values (speechEncoder). Raises NotFound."""
    components = {component_of(each): each for each in workloads(cluster, release)}
    found = components.get(component_name(name))
    if found is None:
        raise NotFound(
            f"release {release.name} has no component {name}", f"components: {', '.join(sorted(components))}"
        )
    return found


def component_name(name: str) -> str:
    """A component's name in labels: "speech-encoder" for "speechEncoder", "worker-clips" for "worker.clips"."""
    dashed = "".join(f"-{letter.lower()}" if letter.isupper() else letter for letter in name)
    return dashed.replace("_", "-").replace(".", "-").strip("-")


def helm_record(cluster: Cluster, name: str) -> HelmRecord | None:
    """Helm's record of the latest revision; None if there is none because it was installed by other means."""
    records = list(cluster.list(SECRETS, labels=f"owner=helm,name={name}"))
    if not records:
        return None
    latest = max(records, key=lambda each: int(labels_of(each).get("version", 0)))
    try:
        record = json.loads(gzip.decompress(base64.b64decode(base64.b64decode(latest["data"]["release"]))))
        objects = tuple(read_manifest(record["manifest"]))
    except (KeyError, TypeError, ValueError, OSError, EOFError, binascii.Error) as error:
        raise ClusterError(
            f"Helm's record of release {name} is invalid", "check a rendered manifest instead: --manifest"
        ) from error
    chart = nested(record, "chart", "metadata") or {}
    return HelmRecord(
        revision=int(record.get("version", 0)),
        status=str(nested(record, "info", "status") or "unknown"),
        chart_version=str(chart.get("version", "")),
        kube_version_range=str(chart.get("kubeVersion") or ""),
        objects=objects,
    )


def read_manifest(text: str) -> Iterable[Object]:
    """The objects in a YAML stream, as written by `helm template`. Raises ClusterError for anything else."""
    try:
        documents = [each for each in yaml.load_all(text, _LOADER) if each is not None]
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" (line {mark.line + 1})" if mark else ""
        raise ClusterError(
            f"the manifest is not valid YAML{where}", "render one with `helm template RELEASE helm/lyra -f VALUES`"
        ) from error
    objects: list[Object] = []
    for each in documents:
        several = each.get("items") if isinstance(each, dict) and each.get("kind") == "List" else [each]
        objects += several or []
    for each in objects:
        if not (isinstance(each, dict) and {"apiVersion", "kind"} <= each.keys() and nested(each, "metadata", "name")):
            raise ClusterError(
                "the manifest contains a document without apiVersion, kind or metadata.name",
                "render one with `helm template RELEASE helm/lyra -f VALUES`",
            )
    return objects


def _any_release() -> str:
    return f"{NAME_LABEL}={CHART}"
