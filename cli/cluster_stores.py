"""`lyra cluster weights` and `job-metrics`: what speaks to the stores of a release, and not to Kubernetes."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.cluster_options import JsonOption, YesOption, cluster_failures, confirm
from cli.cluster_show import jobs_tables
from cli.connection import lyra_home
from cli.console import note, out, upload_bar
from cli.failure import CommandFailed
from cli.weights import pull_weights

if TYPE_CHECKING:
    from services.operations.cluster.weights import SyncPlan

weights = typer.Typer(no_args_is_help=True, help="Weights in the object store, for model services to fetch.")

_PACKAGED = "nano"
_GIB = 2**30


@weights.command()
def sync(
    source: Annotated[str, typer.Argument(help="nano, or the folder of a checkpoint or of an adapter.")],
    name: Annotated[
        str, typer.Option(help="Name in the store, as `weights.name` of the values; that of the folder by default.")
    ] = "",
    adapter: Annotated[
        bool, typer.Option("--adapter", help="It is an adapter: goes to adapters/, not weights/.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and stop.")] = False,
    yes: YesOption = False,
) -> None:
    """Bring weights into the object store, with a SHA-256 for each file. What is there already is not sent again.

    LYRA_STORE_ENDPOINT, LYRA_STORE_ACCESS_KEY and LYRA_STORE_SECRET_KEY name the store (docs/settings.md).

    \b
    Examples:
      lyra cluster weights sync nano
      lyra cluster weights sync ~/Lyra_Base_9B --name base
      lyra cluster weights sync runs/medical --adapter
    """
    from services.operations.cluster import weights as of_store
    from services.shared.settings import load
    from services.shared.storage.client import ObjectStore
    from services.shared.storage.settings import StoreSettings

    folder = _folder(source)
    settings = load(StoreSettings, "lyra cluster weights sync", ())
    with cluster_failures():
        note(f"reading {folder}")
        files = of_store.folder_files(folder)
        store = ObjectStore(settings)
        shelf = of_store.Shelf.ADAPTERS if adapter else of_store.Shelf.WEIGHTS
        plan = of_store.plan_sync(store, shelf, name or folder.name, files)
        where = f"{settings.store_endpoint}/{settings.store_bucket}/{plan.prefix}"
        _tell(plan, where)
        if dry_run:
            return
        confirm(f"Write to {where}?", yes)
        with upload_bar(plan.prefix, plan.bytes_to_send) as sent:
            of_store.sync(store, plan, sent)
    note(f"{where} has {len(files)} files and SHA256SUMS")


def _folder(source: str) -> Path:
    if source == _PACKAGED and not Path(source).is_dir():
        pull_weights(source)
        return lyra_home() / "weights" / source
    folder = Path(source).expanduser().resolve()
    if not folder.is_dir():
        raise CommandFailed(f"{source} is no folder", f"name the folder of a checkpoint, or {_PACKAGED}")
    return folder


def _tell(plan: "SyncPlan", where: str) -> None:
    size = f"{plan.bytes_to_send / _GIB:.2f} GiB"
    note(f"{where}: {len(plan.to_send)} of {len(plan.files)} files are to be sent ({size})")
    if plan.to_delete:
        note(f"to be deleted there: {', '.join(plan.to_delete)}")


def job_metrics(
    hours: Annotated[float, typer.Option(min=0, help="How far back jobs that have ended are counted.")] = 24.0,
    as_json: JsonOption = False,
) -> None:
    """Show what waits in each queue of long-audio jobs, and jobs by state.

    LYRA_REDIS_URL and LYRA_STORE_... name Redis and object store (docs/settings.md).

    \b
    Examples:
      lyra cluster job-metrics
      lyra cluster job-metrics --hours 168 --json | jq .ended
    """
    from services.operations.cluster import job_metrics as of_jobs
    from services.shared.jobs.settings import JobSettings
    from services.shared.settings import load

    settings = load(JobSettings, "lyra cluster job-metrics", ())
    with cluster_failures():
        found = of_jobs.job_metrics(settings, hours)
    if as_json:
        typer.echo(json.dumps(found.as_json()))
    else:
        out.print(jobs_tables(found))
