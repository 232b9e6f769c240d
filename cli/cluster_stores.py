"""`lyra cluster weights` and `job-metrics`, which use the stores of a release instead of Kubernetes."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.cluster_options import JsonOption, YesOption, cluster_failures, confirm
from cli.cluster_show import job_metrics_tables
from cli.connection import lyra_home
from cli.console import note, out, upload_bar
from cli.failure import CommandFailed
from cli.weights import pull_weights

if TYPE_CHECKING:
    from services.operations.cluster.weights import SyncPlan

weights = typer.Typer(no_args_is_help=True, help="Weights in the object store, from which model services fetch them.")

_PACKAGED = "nano"
_GIB = 2**30


@weights.command()
def sync(
    source: Annotated[str, typer.Argument(help="nano, or the folder of a checkpoint or adapter.")],
    name: Annotated[
        str, typer.Option(help="Name in the store, as in the value `weights.name`; default: name of the folder.")
    ] = "",
    adapter: Annotated[
        bool, typer.Option("--adapter", help="Upload an adapter to adapters/ instead of weights/.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be done.")] = False,
    yes: YesOption = False,
) -> None:
    """Upload weights to the object store with a SHA-256 for each file. Unchanged files are skipped.

    LYRA_STORE_ENDPOINT, LYRA_STORE_ACCESS_KEY and LYRA_STORE_SECRET_KEY select the store (docs/settings.md).

    \b
    Examples:
      lyra cluster weights sync nano
      lyra cluster weights sync ~/Lyra_Base_9B --name base
      lyra cluster weights sync runs/medical --adapter
    """
    from services.operations.cluster import weights as store_weights
    from services.shared.settings import load
    from services.shared.storage.client import ObjectStore
    from services.shared.storage.settings import StoreSettings

    folder = _folder(source)
    settings = load(StoreSettings, "lyra cluster weights sync", ())
    with cluster_failures():
        note(f"reading {folder}")
        files = store_weights.scan_folder(folder)
        store = ObjectStore(settings)
        kind = store_weights.Prefix.ADAPTERS if adapter else store_weights.Prefix.WEIGHTS
        plan = store_weights.plan_sync(store, kind, name or folder.name, files)
        where = f"{settings.store_endpoint}/{settings.store_bucket}/{plan.prefix}"
        _print_plan(plan, where)
        if dry_run:
            return
        confirm(f"Write to {where}?", yes)
        with upload_bar(plan.prefix, plan.bytes_to_upload) as sent:
            store_weights.sync(store, plan, sent)
    note(f"{where} has {len(files)} files and SHA256SUMS")


def _folder(source: str) -> Path:
    if source == _PACKAGED and not Path(source).is_dir():
        pull_weights(source)
        return lyra_home() / "weights" / source
    folder = Path(source).expanduser().resolve()
    if not folder.is_dir():
        raise CommandFailed(f"{source} is not a folder", f"pass the folder of a checkpoint, or {_PACKAGED}")
    return folder


def _print_plan(plan: "SyncPlan", where: str) -> None:
    size = f"{plan.bytes_to_upload / _GIB:.2f} GiB"
    note(f"{where}: {len(plan.to_upload)} of {len(plan.files)} files to upload ({size})")
    if plan.to_delete:
        note(f"to be deleted in the store: {', '.join(plan.to_delete)}")


def job_metrics(
    hours: Annotated[
        float, typer.Option(min=0, help="Count finished jobs that were submitted in this many last hours.")
    ] = 24.0,
    as_json: JsonOption = False,
) -> None:
    """Show the queues of long-audio jobs, and jobs by state.

    LYRA_REDIS_URL and LYRA_STORE_... select Redis and the object store (docs/settings.md).

    \b
    Examples:
      lyra cluster job-metrics
      lyra cluster job-metrics --hours 168 --json | jq .ended
    """
    from services.operations.cluster.job_metrics import job_metrics as read_job_metrics
    from services.shared.jobs.settings import JobSettings
    from services.shared.settings import load

    settings = load(JobSettings, "lyra cluster job-metrics", ())
    with cluster_failures():
        found = read_job_metrics(settings, hours)
    if as_json:
        typer.echo(json.dumps(found.as_json()))
    else:
        out.print(job_metrics_tables(found))
