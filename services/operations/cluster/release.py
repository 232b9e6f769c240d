"""Finds a release of the chart: in a cluster by its labels, in Helm's record, or in a rendered manifest.

Helm keeps a release as a Secret of type helm.sh/release.v1: JSON, gzipped, in base64, with labels owner=helm and name
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
from services.operations.cluster.objects import INSTANCE_LABEL, NAME_LABEL, component_of, labels_of, pick

CHART = "lyra"
# libyaml's, where it is there: a rendering of some thousand lines takes the one in Python a second.
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
INSTALL_HINT = (
    "install one: `helm install lyra helm/lyra`, see docs/deploy/index.md; --namespace and --release name another"
)


@dataclass(frozen=True, slots=True)
class Release:
    """A release by name, in the namespace of its cluster."""

    name: str
    namespace: str

    @property
    def labels(self) -> str:
        """Selector of all its objects."""
        return f"{NAME_LABEL}={CHART},{INSTANCE_LABEL}={self.name}"

    def component_labels(self, component: str) -> str:
        """Selector of the objects of one of its parts."""
        return f"{self.labels},app.kubernetes.io/component={component}"


@dataclass(frozen=True, slots=True)
class HelmRecord:
    """What Helm keeps of a release's latest revision.

    Attributes:
        status: Of Helm, as in "deployed", "failed", "pending-upgrade".
        kube_versions: Range of Kubernetes versions that the chart asks for; empty for any.
    """

    revision: int
    status: str
    chart_version: str
    kube_versions: str
    objects: tuple[Object, ...]


def find_release(cluster: Cluster, name: str | None = None) -> Release:
    """The release of that name, else the only one of the namespace. Raises NotFound where that is none, or not one."""
    names = {labels_of(each).get(INSTANCE_LABEL, "") for each in cluster.list(DEPLOYMENTS, labels=_any_release())}
    if name is not None and name in names:
        return Release(name, cluster.namespace)
    there = ", ".join(sorted(names))
    if name is not None:
        hint = f"there are: {there}" if there else INSTALL_HINT
        raise NotFound(f"there is no release {name} of the chart {CHART} in the namespace {cluster.namespace}", hint)
    if not names:
        raise NotFound(f"there is no release of the chart {CHART} in the namespace {cluster.namespace}", INSTALL_HINT)
    if len(names) > 1:
        raise NotFound(f"the namespace {cluster.namespace} has several releases: {there}", "name one with --release")
    return Release(names.pop(), cluster.namespace)


def workloads(cluster: Cluster, release: Release) -> list[Object]:
    """Deployments and StatefulSets of a release, with `apiVersion` and `kind`, which lists leave out."""
    found = []
    for kind, singular in ((DEPLOYMENTS, "Deployment"), (STATEFUL_SETS, "StatefulSet")):
        for each in cluster.list(kind, labels=release.labels):
            found.append({"apiVersion": kind.api, "kind": singular, **each})
    return found


def component(cluster: Cluster, release: Release, name: str) -> Object:
    """The workload of a part of a release: "speech-encoder", or as in the values, "speechEncoder". Raises NotFound."""
    there = {component_of(each): each for each in workloads(cluster, release)}
    found = there.get(component_name(name))
    if found is None:
        raise NotFound(f"release {release.name} has no component {name}", f"it has {', '.join(sorted(there))}")
    return found


def component_name(name: str) -> str:
    """As labels have it: "speechEncoder" and "speech_encoder" are "speech-encoder", "worker.clips" "worker-clips"."""
    dashed = "".join(f"-{letter.lower()}" if letter.isupper() else letter for letter in name)
    return dashed.replace("_", "-").replace(".", "-").strip("-")


def helm_record(cluster: Cluster, name: str) -> HelmRecord | None:
    """What Helm keeps of the latest revision; None where Helm keeps nothing here (it was installed by other means)."""
    kept = list(cluster.list(SECRETS, labels=f"owner=helm,name={name}"))
    if not kept:
        return None
    latest = max(kept, key=lambda each: int(labels_of(each).get("version", 0)))
    try:
        record = json.loads(gzip.decompress(base64.b64decode(base64.b64decode(latest["data"]["release"]))))
        objects = tuple(read_manifest(record["manifest"]))
    except (KeyError, TypeError, ValueError, OSError, EOFError, binascii.Error) as error:
        raise ClusterError(
            f"what Helm keeps of release {name} cannot be read", "check it with a rendering: --manifest"
        ) from error
    chart = pick(record, "chart", "metadata") or {}
    return HelmRecord(
        revision=int(record.get("version", 0)),
        status=str(pick(record, "info", "status") or "unknown"),
        chart_version=str(chart.get("version", "")),
        kube_versions=str(chart.get("kubeVersion") or ""),
        objects=objects,
    )


def read_manifest(text: str) -> Iterable[Object]:
    """The objects of a YAML stream, as `helm template` writes it. Raises ClusterError for anything else."""
    try:
        documents = [each for each in yaml.load_all(text, _LOADER) if each is not None]
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" (line {mark.line + 1})" if mark else ""
        raise ClusterError(
            f"the manifest is no YAML{where}", "`helm template RELEASE helm/lyra -f VALUES` makes one"
        ) from error
    objects: list[Object] = []
    for each in documents:
        several = each.get("items") if isinstance(each, dict) and each.get("kind") == "List" else [each]
        objects += several or []
    for each in objects:
        if not (isinstance(each, dict) and {"apiVersion", "kind"} <= each.keys() and pick(each, "metadata", "name")):
            raise ClusterError(
                "the manifest holds something that is no Kubernetes object (apiVersion, kind, metadata.name)",
                "`helm template RELEASE helm/lyra -f VALUES` makes one",
            )
    return objects


def _any_release() -> str:
    return f"{NAME_LABEL}={CHART}"
