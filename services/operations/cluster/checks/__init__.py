"""Checks of `lyra cluster doctor`. Each covers one subject and raises Forbidden if RBAC does not permit it."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from services.operations.cluster.api import CLAIMS, NODES, PODS, Cluster, Object
from services.operations.cluster.release import Release
from services.operations.cluster.release_requirements import ReleaseRequirements


@dataclass
class CheckContext:
    """Input of the checks. Lists that several checks need are read once.

    Attributes:
        release: None if none is installed.
        kube_version_range: `kubeVersion` of the chart; empty if unknown.
        requirements: Requirements of the release.
    """

    cluster: Cluster
    release: Release | None
    kube_version_range: str
    requirements: ReleaseRequirements

    @property
    def namespace(self) -> str:
        return self.cluster.namespace

    @cached_property
    def nodes(self) -> list[Object]:
        return list(self.cluster.list(NODES))

    @cached_property
    def all_pods(self) -> list[Object]:
        """Pods of all namespaces."""
        return list(self.cluster.list(PODS, ""))

    @cached_property
    def release_pods(self) -> list[Object]:
        """Pods of the release."""
        return list(self.cluster.list(PODS, labels=self.release.labels)) if self.release else []

    @cached_property
    def release_claims(self) -> list[Object]:
        """PersistentVolumeClaims of the release."""
        return list(self.cluster.list(CLAIMS, labels=self.release.labels)) if self.release else []


def shortened(names: Iterable[str], limit: int = 5) -> str:
    """A list of names for output: the first `limit`, and how many more there are."""
    listed = list(names)
    more = f" and {len(listed) - limit} more" if len(listed) > limit else ""
    return ", ".join(listed[:limit]) + more
