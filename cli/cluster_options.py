"""Shared by the commands of `lyra cluster`: options, connection, error handling, confirmation."""

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
    typer.Option("--namespace", "-n", help="Namespace of the release; default: that of the context."),
]
ReleaseOption = Annotated[
    str | None, typer.Option("--release", help="Name of the release; default: the only one in the namespace.")
]
ContextOption = Annotated[
    str | None, typer.Option("--context", help="Context of the kubeconfig; default: the current one.")
]
KubeconfigOption = Annotated[
    Path | None, typer.Option("--kubeconfig", help="Path of the kubeconfig; default: $KUBECONFIG.")
]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
ComponentArgument = Annotated[
    str, typer.Argument(metavar="COMPONENT", help="Component as in `lyra cluster status`, such as speech-encoder.")
]


@contextmanager
def cluster_failures() -> Iterator[None]:
    """Converts errors of services.operations.cluster and the object store to CommandFailed."""
    from services.operations.cluster.cluster_errors import ClusterError
    from services.shared.storage.store_errors import StoreUnavailable

    try:
        yield
    except ClusterError as error:
        raise CommandFailed(error.message, error.hint) from error
    except StoreUnavailable as error:
        raise CommandFailed(
            error.message,
            "set LYRA_STORE_ENDPOINT, LYRA_STORE_ACCESS_KEY and LYRA_STORE_SECRET_KEY; for the bundled one, run in "
            "another terminal: `kubectl port-forward service/RELEASE-object-store 9000` (docs/deploy/cluster.md)",
        ) from error


@contextmanager
def connected(kubeconfig: Path | None, context: str | None, namespace: str | None) -> Iterator["Cluster"]:
    """The selected cluster. Errors inside the block become CommandFailed."""
    with cluster_failures():
        from services.operations.cluster.api import Cluster

        yield Cluster.connect(kubeconfig, context, namespace)


@contextmanager
def connected_release(
    kubeconfig: Path | None, context: str | None, namespace: str | None, release: str | None
) -> Iterator[tuple["Cluster", "Release"]]:
    """The selected cluster and release. Errors inside the block become CommandFailed."""
    with connected(kubeconfig, context, namespace) as cluster:
        from services.operations.cluster.release import find_release

        yield cluster, find_release(cluster, release)


def confirm(question: str, yes: bool) -> None:
    """Asks for confirmation unless `yes`. Raises CommandFailed if it is denied or there is no terminal."""
    if yes:
        return
    try:
        confirmed = typer.confirm(question, err=True)
    except typer.Abort:
        confirmed = False
    if not confirmed:
        raise CommandFailed("nothing was changed", "--yes skips the confirmation")
