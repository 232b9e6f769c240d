"""Looks a cluster over for a release: everything that would keep it from running, each with the way to mend it.

It only reads. What it may not read it says so of, and goes on.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from services.operations.cluster.api import NAMESPACES, Cluster, Object
from services.operations.cluster.checks import Subject
from services.operations.cluster.checks import cluster as of_cluster
from services.operations.cluster.checks import pods as of_pods
from services.operations.cluster.checks import release_checks as of_requirements
from services.operations.cluster.cluster_errors import Forbidden, NotFound
from services.operations.cluster.findings import Finding, State, good, missing, unknown, warning
from services.operations.cluster.release import HelmRecord, Release, find_release, helm_record, read_manifest, workloads
from services.operations.cluster.release_requirements import requirements_of

Check = Callable[[Subject], Iterator[Finding]]

# In the order in which things have to be mended.
CHECKS: tuple[tuple[str, Check], ...] = (
    ("Kubernetes", of_cluster.version),
    ("kinds of objects", of_cluster.kinds),
    ("GPUs", of_cluster.gpus),
    ("storage class", of_cluster.storage),
    ("Secrets", of_requirements.secrets),
    ("ConfigMaps", of_requirements.config_maps),
    ("quota", of_requirements.quotas),
    ("limit ranges", of_requirements.limit_ranges),
    ("images", of_pods.images),
    ("pods", of_pods.pods),
)


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """All findings about a release.

    Attributes:
        release: Its name; empty where none is installed and only the cluster was looked at.
    """

    address: str
    namespace: str
    release: str
    findings: tuple[Finding, ...]

    @property
    def missing(self) -> int:
        """Findings that keep the release from running."""
        return sum(each.state is State.MISSING for each in self.findings)


def diagnose(cluster: Cluster, release: str | None = None, manifest: str | None = None) -> Diagnosis:
    """Looks a cluster over.

    Args:
        release: Its name; None for the only one of the namespace.
        manifest: Text of a rendering (`helm template`), for a release that is not installed yet, or about to change.

    Raises:
        ClusterError: The cluster cannot be reached, or the manifest cannot be read. All else is a finding.
    """
    subject, findings = _subject(cluster, release, manifest)
    for name, check in CHECKS:
        try:
            findings += list(check(subject))
        except Forbidden as error:
            findings.append(unknown(name, error.message, error.hint))
    return Diagnosis(
        cluster.address, cluster.namespace, subject.release.name if subject.release else "", tuple(findings)
    )


def _subject(cluster: Cluster, name: str | None, manifest: str | None) -> tuple[Subject, list[Finding]]:
    """What to look at, and what was found on the way there."""
    findings = list(_namespace(cluster))
    try:
        release: Release | None = find_release(cluster, name)
    except NotFound as error:
        release = None
        if manifest is None:
            findings.append(missing("release", "", error.message, error.hint))
    except Forbidden as error:
        release = None
        findings.append(unknown("release", error.message, error.hint))
    record: HelmRecord | None = None
    objects: Sequence[Object] = ()
    if manifest is not None:
        objects = list(read_manifest(manifest))
        findings.append(good("release", f"a manifest of {len(objects)} objects"))
    elif release is not None:
        record, more = _record(cluster, release)
        findings += more
        objects = record.objects if record else workloads(cluster, release)
    return Subject(cluster, release, record.kube_versions if record else "", requirements_of(objects)), findings


def _namespace(cluster: Cluster) -> Iterator[Finding]:
    try:
        there = cluster.find(NAMESPACES, cluster.namespace) is not None
    except Forbidden:
        return  # a role of one namespace is enough for all else
    if not there:
        command = f"kubectl create namespace {cluster.namespace}"
        yield missing("namespace", "", f"there is no namespace {cluster.namespace}", command)


def _record(cluster: Cluster, release: Release) -> tuple[HelmRecord | None, list[Finding]]:
    """Helm's record of a release; where it cannot be had, only Deployments and StatefulSets are looked at, said so."""
    only = "only what its Deployments and StatefulSets name is checked"
    rendering = f"helm template {release.name} helm/lyra -f VALUES | lyra cluster doctor --manifest -"
    try:
        record = helm_record(cluster, release.name)
    except Forbidden as error:
        return None, [unknown("release", f"{error.message}: {only}", rendering)]
    if record is None:
        return None, [warning("release", release.name, f"Helm keeps no record of it here: {only}", rendering)]
    found = f"{release.name}, chart {record.chart_version}, revision {record.revision}, {record.status}"
    if record.status == "deployed":
        return record, [good("release", found)]
    history = f"helm history {release.name} -n {release.namespace}"
    rollback = f"helm rollback {release.name} -n {release.namespace} --wait"
    return record, [warning("release", found, f"the last change is {record.status}", history, rollback)]
