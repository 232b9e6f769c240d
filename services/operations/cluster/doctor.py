"""Diagnoses a cluster: finds everything that prevents a release from running, with a fix for each problem.

Read-only. Checks that RBAC does not permit are reported as such and skipped.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from services.operations.cluster.api import NAMESPACES, Cluster, Object
from services.operations.cluster.checks import CheckContext, cluster_checks, pod_checks, release_checks
from services.operations.cluster.cluster_errors import Forbidden, NotFound
from services.operations.cluster.findings import Finding, State, good, missing, unknown, warning
from services.operations.cluster.release import HelmRecord, Release, find_release, helm_record, read_manifest, workloads
from services.operations.cluster.release_requirements import release_requirements

Check = Callable[[CheckContext], Iterator[Finding]]

# In the order in which problems have to be fixed.
CHECKS: tuple[tuple[str, Check], ...] = (
    ("Kubernetes", cluster_checks.version),
    ("kinds of objects", cluster_checks.kinds),
    ("GPUs", cluster_checks.gpus),
    ("storage class", cluster_checks.storage),
    ("Secrets", release_checks.secrets),
    ("ConfigMaps", release_checks.config_maps),
    ("quota", release_checks.quotas),
    ("limit ranges", release_checks.limit_ranges),
    ("images", pod_checks.images),
    ("pods", pod_checks.pods),
)


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """All findings about a release.

    Attributes:
        release: Its name; empty if none is installed and only the cluster was checked.
    """

    address: str
    namespace: str
    release: str
    findings: tuple[Finding, ...]

    @property
    def missing(self) -> int:
        """Number of findings that prevent the release from running."""
        return sum(each.state is State.MISSING for each in self.findings)


def diagnose(cluster: Cluster, release: str | None = None, manifest: str | None = None) -> Diagnosis:
    """Runs all checks.

    Args:
        release: Its name; None for the only one in the namespace.
        manifest: Output of `helm template`, for a release that is to be installed or upgraded.

    Raises:
        ClusterError: The cluster cannot be reached, or the manifest is invalid. Everything else is a finding.
    """
    context, findings = _context(cluster, release, manifest)
    for name, check in CHECKS:
        try:
            findings += list(check(context))
        except Forbidden as error:
            findings.append(unknown(name, error.message, error.hint))
    return Diagnosis(
        cluster.address, cluster.namespace, context.release.name if context.release else "", tuple(findings)
    )


def _context(cluster: Cluster, name: str | None, manifest: str | None) -> tuple[CheckContext, list[Finding]]:
    """The input of the checks, and findings about the release itself."""
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
    return CheckContext(
        cluster, release, record.kube_version_range if record else "", release_requirements(objects)
    ), findings


def _namespace(cluster: Cluster) -> Iterator[Finding]:
    try:
        exists = cluster.find(NAMESPACES, cluster.namespace) is not None
    except Forbidden:
        return  # rights in one namespace are enough for everything else
    if not exists:
        command = f"kubectl create namespace {cluster.namespace}"
        yield missing("namespace", "", f"namespace {cluster.namespace} does not exist", command)


def _record(cluster: Cluster, release: Release) -> tuple[HelmRecord | None, list[Finding]]:
    """Helm's record of a release, and a finding about it."""
    only = "only references of its Deployments and StatefulSets are checked"
    rendering = f"helm template {release.name} helm/lyra -f VALUES | lyra cluster doctor --manifest -"
    try:
        record = helm_record(cluster, release.name)
    except Forbidden as error:
        return None, [unknown("release", f"{error.message}: {only}", rendering)]
    if record is None:
        return None, [
            warning("release", release.name, f"Helm has no record of it in this namespace: {only}", rendering)
        ]
    found = f"{release.name}, chart {record.chart_version}, revision {record.revision}, {record.status}"
    if record.status == "deployed":
        return record, [good("release", found)]
    history = f"helm history {release.name} -n {release.namespace}"
    rollback = f"helm rollback {release.name} -n {release.namespace} --wait"
    return record, [warning("release", found, f"the latest revision is {record.status}", history, rollback)]
