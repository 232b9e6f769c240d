"""What `doctor` looks at. Each check yields findings about one matter and raises Forbidden where it may not look."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from services.operations.cluster.api import CLAIMS, NODES, PODS, Cluster, Object
from services.operations.cluster.release import Release
from services.operations.cluster.release_requirements import ReleaseRequirements


@dataclass
class Subject:
    """What is looked at; lists that several checks need are read once.

    Attributes:
        release: None where none is installed.
        kube_versions: Range of Kubernetes versions that the chart asks for; empty where it is not known.
        requirements: What the release asks for.
    """

    cluster: Cluster
    release: Release | None
    kube_versions: str
    requirements: ReleaseRequirements

    @property
    def namespace(self) -> str:
        return self.cluster.namespace

    @cached_property
    def nodes(self) -> list[Object]:
        return list(self.cluster.list(NODES))

    @cached_property
    def all_pods(self) -> list[Object]:
        """Of all namespaces."""
        return list(self.cluster.list(PODS, ""))

    @cached_property
    def own_pods(self) -> list[Object]:
        """Of the release."""
        return list(self.cluster.list(PODS, labels=self.release.labels)) if self.release else []

    @cached_property
    def own_volumes(self) -> list[Object]:
        """Claims of the release."""
        return list(self.cluster.list(CLAIMS, labels=self.release.labels)) if self.release else []


def some(names: Iterable[str], most: int = 5) -> str:
    """Names for people: the first few, and how many more there are."""
    listed = list(names)
    more = f" and {len(listed) - most} more" if len(listed) > most else ""
    return ", ".join(listed[:most]) + more
