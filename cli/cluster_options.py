"""What the commands of `lyra cluster` share: which cluster and release is meant, how they fail, how they ask."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.failure import CommandFailed

if TYPE_CHECKING:
    from services.operations.cluster.api import Cluster
    from services.operations.cluster.release import Release

NamespaceOption = Annotated[
    str | None,
    typer.Option("--namespace", "-n", help="Namespace of the release; that of the kubeconfig's context by default."),
]
ReleaseOption = Annotated[
    str | None, typer.Option("--release", help="Name of the release; the only one of the namespace by default.")
]
ContextOption = Annotated[
    str | None, typer.Option("--context", help="Context of the kubeconfig; its current one by default.")
]
KubeconfigOption = Annotated[
    Path | None, typer.Option("--kubeconfig", help="File that names the cluster; $KUBECONFIG by default.")
]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Do it without asking.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
ComponentArgument = Annotated[
    str, typer.Argument(metavar="COMPONENT", help="As `lyra cluster status` names it, as in speech-encoder.")
]


@contextmanager
def cluster_failures() -> Iterator[None]:
    """Turns what services.operations.cluster and the stores raise into CommandFailed."""
    from services.operations.cluster.cluster_errors import ClusterError
    from services.shared.storage.store_errors import StoreUnavailable

    try:
        yield
    except ClusterError as error:
        raise CommandFailed(error.message, error.hint) from error
    except StoreUnavailable as error:
        raise CommandFailed(
            error.message,
            "LYRA_STORE_ENDPOINT, LYRA_STORE_ACCESS_KEY and LYRA_STORE_SECRET_KEY name it; for the bundled one, in "
            "another terminal: `kubectl port-forward service/RELEASE-object-store 9000` (docs/deploy/cluster.md)",
        ) from error


@contextmanager
def connected(kubeconfig: Path | None, context: str | None, namespace: str | None) -> Iterator["Cluster"]:
    """The cluster that is meant. Raises CommandFailed for whatever goes wrong with it."""
    with cluster_failures():
        from services.operations.cluster.api import Cluster

        yield Cluster.connect(kubeconfig, context, namespace)


@contextmanager
def connected_release(
    kubeconfig: Path | None, context: str | None, namespace: str | None, release: str | None
) -> Iterator[tuple["Cluster", "Release"]]:
    """The cluster that is meant, and the release in it. Raises CommandFailed likewise."""
    with connected(kubeconfig, context, namespace) as cluster:
        from services.operations.cluster.release import find_release

        yield cluster, find_release(cluster, release)


def confirm(question: str, yes: bool) -> None:
    """Returns where it may be done. Raises CommandFailed where nobody agrees."""
    if yes:
        return
    try:
        agreed = typer.confirm(question, err=True)
    except typer.Abort:
        agreed = False
    if not agreed:
        raise CommandFailed("nothing was changed", "--yes does it without asking")
