"""`lyra cluster`: inspect and operate a release on Kubernetes."""

import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.live import Live
from rich.markup import escape

from cli import cluster_stores
from cli.cluster_options import (
    ComponentArgument,
    ContextOption,
    JsonOption,
    KubeconfigOption,
    NamespaceOption,
    ReleaseOption,
    YesOption,
    confirm,
    connected,
    connected_release,
)
from cli.cluster_show import show_diagnosis, status_table
from cli.console import err, note, out, write_text
from cli.failure import CommandFailed

if TYPE_CHECKING:
    from services.operations.cluster.status import ComponentStatus

app = typer.Typer(
    no_args_is_help=True,
    help="Inspect and operate a release on Kubernetes. Asks for confirmation before changing anything.",
)
app.add_typer(cluster_stores.weights, name="weights")
app.command("job-metrics")(cluster_stores.job_metrics)

_COLOURS = ("cyan", "green", "magenta", "yellow", "blue", "bright_red")


@app.command()
def doctor(
    manifest: Annotated[
        str, typer.Option(help="Rendered manifest of a release that is not installed yet; - for stdin.")
    ] = "",
    as_json: JsonOption = False,
    release: ReleaseOption = None,
    namespace: NamespaceOption = None,
    context: ContextOption = None,
    kubeconfig: KubeconfigOption = None,
) -> None:
    """Find what prevents a release from running and how to fix it. Exits with 1 if something is missing.

    Checks the Kubernetes version, API resources, GPUs, storage, Secrets, quotas, images and pods.

    \b
    Examples:
      lyra cluster doctor -n lyra
      helm template lyra helm/lyra -f values.yaml | lyra cluster doctor -n lyra --manifest -
      lyra cluster doctor --json | jq '.findings[] | select(.state == "missing")'
    """
    with connected(kubeconfig, context, namespace) as cluster:
        from services.operations.cluster.doctor import diagnose

        with err.status("running checks"):
            found = diagnose(cluster, release, _manifest(manifest))
    if as_json:
        page = {
            "server": found.address,
            "namespace": found.namespace,
            "release": found.release,
            "findings": [each.as_json() for each in found.findings],
        }
        write_text(json.dumps(page, indent=2, ensure_ascii=False) + "\n")
    else:
        show_diagnosis(found)
    if found.missing:
        problems = "1 problem prevents" if found.missing == 1 else f"{found.missing} problems prevent"
        raise CommandFailed(f"{problems} the release from running", "fix the first one and run this again")


def _manifest(name: str) -> str | None:
    if not name:
        return None
    if name == "-":
        return sys.stdin.read()
    try:
        return Path(name).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise typer.BadParameter(f"{name} cannot be read", param_hint="--manifest") from error


@app.command()
def status(
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Refresh until Ctrl-C.")] = False,
    every: Annotated[float, typer.Option(min=0.5, help="Refresh interval of --watch in seconds.")] = 3.0,
    metrics: Annotated[bool, typer.Option(help="Scrape pods for waiting and running work.")] = True,
    as_json: JsonOption = False,
    release: ReleaseOption = None,
    namespace: NamespaceOption = None,
    context: ContextOption = None,
    kubeconfig: KubeconfigOption = None,
) -> None:
    """Show every component of a release: pods, restarts, image, rollout, autoscaler, waiting and running work.

    \b
    Examples:
      lyra cluster status -n lyra
      lyra cluster status --watch
      lyra cluster status --json | jq '.[] | {component, ready, wanted}'
    """
    with connected_release(kubeconfig, context, namespace, release) as (cluster, found):
        from services.operations.cluster.status import status as read_status

        def rows() -> list["ComponentStatus"]:
            return read_status(cluster, found, with_metrics=metrics)

        if not watch:
            _show_rows(rows(), as_json)
        elif as_json or not out.is_terminal:
            for each in _poll(rows, every):
                _show_rows(each, as_json)
        else:
            with Live(console=out, auto_refresh=False) as live:
                for each in _poll(rows, every):
                    live.update(status_table(each), refresh=True)


def _poll(read: Callable[[], list["ComponentStatus"]], every: float) -> Iterator[list["ComponentStatus"]]:
    """Polls forever. Continues if the API server is unreachable for a while, as during its upgrade."""
    from services.operations.cluster.cluster_errors import Unreachable

    yield read()
    while True:
        time.sleep(every)
        try:
            yield read()
        except Unreachable as error:
            note(error.message)


def _show_rows(rows: list["ComponentStatus"], as_json: bool) -> None:
    if as_json:
        write_text(json.dumps([row.as_json() for row in rows]) + "\n")
    else:
        out.print(status_table(rows), soft_wrap=True)


@app.command()
def scale(
    component: ComponentArgument,
    replicas: Annotated[int, typer.Argument(min=0, metavar="N", help="Number of pods.")],
    anyway: Annotated[bool, typer.Option("--anyway", help="Scale even if an autoscaler will revert it.")] = False,
    yes: YesOption = False,
    release: ReleaseOption = None,
    namespace: NamespaceOption = None,
    context: ContextOption = None,
    kubeconfig: KubeconfigOption = None,
) -> None:
    """Set the number of pods of a component. If an autoscaler would revert it, show how to make it permanent.

    \b
    Examples:
      lyra cluster scale speech-encoder 3
      lyra cluster scale worker-clips 8 --yes
    """
    with connected_release(kubeconfig, context, namespace, release) as (cluster, found):
        from services.operations.cluster import scaling

        plan = scaling.plan_scale(cluster, found, component, replicas)
        if plan.current == plan.replicas and plan.autoscaler is None:
            note(f"{plan.workload} already has {plan.current} pods")
            return
        for each in plan.warnings:
            note(each)
        scaler = plan.autoscaler
        if scaler is not None:
            bounds = f"between {scaler.min_replicas} and {scaler.max_replicas} pods"
            reverts = f"{scaler.kind} {scaler.name} keeps {plan.workload} {bounds}"
            if not anyway:
                commands = " or ".join(f"`{each}`" for each in plan.permanent_commands)
                raise CommandFailed(
                    f"{reverts} and would revert this", f"make it permanent with {commands}, or pass --anyway"
                )
            note(f"{reverts} and will revert this")
        confirm(f"Scale {plan.workload} from {plan.current} to {plan.replicas}?", yes)
        scaling.scale(cluster, plan)
    note(f"{plan.workload}: {plan.current} -> {plan.replicas}; the next `helm upgrade` resets it to that of the values")


@app.command()
def drain(
    pod: Annotated[str, typer.Argument(help="Name of the pod.")],
    timeout: Annotated[float, typer.Option(min=0, help="Seconds to wait for running calls.")] = 900.0,
    undo: Annotated[bool, typer.Option("--undo", help="Return it to its Service instead.")] = False,
    anyway: Annotated[bool, typer.Option("--anyway", help="Drain even if no other pod is ready.")] = False,
    yes: YesOption = False,
    release: ReleaseOption = None,
    namespace: NamespaceOption = None,
    context: ContextOption = None,
    kubeconfig: KubeconfigOption = None,
) -> None:
    """Remove a pod from its Service, wait for its running calls, and delete it, so that no call is dropped.

    \b
    Examples:
      lyra cluster drain lyra-language-model-7c9d8-x2x4k
      lyra cluster drain lyra-language-model-7c9d8-x2x4k --undo
    """
    with connected_release(kubeconfig, context, namespace, release) as (cluster, found):
        from services.operations.cluster import draining

        plan = draining.plan_drain(cluster, found, pod)
        if undo:
            confirm(f"Return {pod} to its Service?", yes)
            draining.undo(cluster, pod)
            note(f"{pod} is back in its Service")
            return
        if plan.services and not plan.other_ready_pods and not anyway:
            raise CommandFailed(
                f"no other pod of {plan.component} is ready: calls would fail until there is one",
                f"run `lyra cluster scale {plan.component} 2` first, or pass --anyway",
            )
        work = "pulls its work" if plan.running_calls is None else f"has {plan.running_calls} running calls"
        confirm(f"Drain and delete {pod}? It {work}; {plan.other_ready_pods} other ready pods remain.", yes)
        with err.status(f"draining {pod}") as progress:

            def show(running: int) -> None:
                progress.update(f"draining {pod}: {running} running")

            draining.drain(cluster, plan, timeout, show)
    note(f"{pod} has been deleted")


@app.command()
def logs(
    component: ComponentArgument,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Stream until Ctrl-C, including new pods.")] = False,
    tail: Annotated[int, typer.Option(min=-1, help="Number of last lines per pod; -1 for all.")] = 100,
    since: Annotated[int | None, typer.Option(min=1, help="Only lines of this many last seconds.")] = None,
    previous: Annotated[
        bool, typer.Option("--previous", "-p", help="Logs of the previous, terminated container.")
    ] = False,
    container: Annotated[str, typer.Option("--container", "-c", help="Container; the pod's first by default.")] = "",
    release: ReleaseOption = None,
    namespace: NamespaceOption = None,
    context: ContextOption = None,
    kubeconfig: KubeconfigOption = None,
) -> None:
    """Print the logs of all pods of a component, each line prefixed with its pod.

    \b
    Examples:
      lyra cluster logs gateway --follow
      lyra cluster logs language-model --since 600 --tail -1
      lyra cluster logs speech-encoder --previous
    """
    with connected_release(kubeconfig, context, namespace, release) as (cluster, found):
        from services.operations.cluster import logs as pod_logs

        last = None if tail < 0 else tail
        options = pod_logs.LogOptions(tail=last, since_seconds=since, previous=previous, container=container)
        lines = (
            pod_logs.follow(cluster, found, component, options, threading.Event())
            if follow
            else pod_logs.read(cluster, found, component, options)
        )
        colours: dict[str, str] = {}
        for line in lines:
            colour = colours.setdefault(line.pod, _COLOURS[len(colours) % len(_COLOURS)])
            out.print(f"[{colour}]{line.pod}[/] {escape(line.text)}", soft_wrap=True)
