"""`lyra cluster`: a release of the chart, looked over, looked at and steered."""

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
    from services.operations.cluster.status import Row

app = typer.Typer(
    no_args_is_help=True,
    help="A release on Kubernetes: looked over, looked at and steered. Asks before it changes anything.",
)
app.add_typer(cluster_stores.weights, name="weights")
app.command("job-metrics")(cluster_stores.job_metrics)

_COLOURS = ("cyan", "green", "magenta", "yellow", "blue", "bright_red")


@app.command()
def doctor(
    manifest: Annotated[
        str, typer.Option(help="Rendering of a release that is not installed yet; - reads it from stdin.")
    ] = "",
    as_json: JsonOption = False,
    release: ReleaseOption = None,
    namespace: NamespaceOption = None,
    context: ContextOption = None,
    kubeconfig: KubeconfigOption = None,
) -> None:
    """Find what keeps a release from running, and how to mend it: exit code 1 where something is missing.

    Looks at the version, GPUs and who holds them, storage, kinds of objects, Secrets, quotas, images and pods.

    \b
    Examples:
      lyra cluster doctor -n lyra
      helm template lyra helm/lyra -f values.yaml | lyra cluster doctor -n lyra --manifest -
      lyra cluster doctor --json | jq '.findings[] | select(.state == "missing")'
    """
    with connected(kubeconfig, context, namespace) as cluster:
        from services.operations.cluster.doctor import diagnose

        with err.status("looking the cluster over"):
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
        things = "1 thing is" if found.missing == 1 else f"{found.missing} things are"
        raise CommandFailed(f"{things} missing", "mend the first one and look again")


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
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Go on until Ctrl-C.")] = False,
    every: Annotated[float, typer.Option(min=0.5, help="Seconds between two looks with --watch.")] = 3.0,
    metrics: Annotated[bool, typer.Option(help="Whether pods are asked what waits and runs.")] = True,
    as_json: JsonOption = False,
    release: ReleaseOption = None,
    namespace: NamespaceOption = None,
    context: ContextOption = None,
    kubeconfig: KubeconfigOption = None,
) -> None:
    """Show every part of a release: pods, restarts, image, rollout, autoscaler, what waits and what runs.

    \b
    Examples:
      lyra cluster status -n lyra
      lyra cluster status --watch
      lyra cluster status --json | jq '.[] | {component, ready, wanted}'
    """
    with connected_release(kubeconfig, context, namespace, release) as (cluster, found):
        from services.operations.cluster.status import status as look

        def rows() -> list["Row"]:
            return look(cluster, found, with_metrics=metrics)

        if not watch:
            _show_rows(rows(), as_json)
        elif as_json or not out.is_terminal:
            for each in _again_and_again(rows, every):
                _show_rows(each, as_json)
        else:
            with Live(console=out, auto_refresh=False) as live:
                for each in _again_and_again(rows, every):
                    live.update(status_table(each), refresh=True)


def _again_and_again(look: Callable[[], list["Row"]], every: float) -> Iterator[list["Row"]]:
    """What each look sees. An API server that does not answer for a while, as in its upgrade, ends nothing."""
    from services.operations.cluster.cluster_errors import Unreachable

    yield look()
    while True:
        time.sleep(every)
        try:
            yield look()
        except Unreachable as error:
            note(error.message)


def _show_rows(rows: list["Row"], as_json: bool) -> None:
    if as_json:
        write_text(json.dumps([row.as_json() for row in rows]) + "\n")
    else:
        out.print(status_table(rows), soft_wrap=True)


@app.command()
def scale(
    component: ComponentArgument,
    replicas: Annotated[int, typer.Argument(min=0, metavar="N", help="Pods that it is to have.")],
    anyway: Annotated[bool, typer.Option("--anyway", help="Also where an autoscaler will undo it.")] = False,
    yes: YesOption = False,
    release: ReleaseOption = None,
    namespace: NamespaceOption = None,
    context: ContextOption = None,
    kubeconfig: KubeconfigOption = None,
) -> None:
    """Give one service so many pods. Where an autoscaler would undo it, says how to have it last.

    \b
    Examples:
      lyra cluster scale speech-encoder 3
      lyra cluster scale worker-clips 8 --yes
    """
    with connected_release(kubeconfig, context, namespace, release) as (cluster, found):
        from services.operations.cluster import scaling

        plan = scaling.plan_scale(cluster, found, component, replicas)
        if plan.now == plan.wanted and plan.autoscaler is None:
            note(f"{plan.workload} has {plan.now} already")
            return
        for each in plan.cautions:
            note(each)
        scaler = plan.autoscaler
        if scaler is not None:
            undoes = f"{scaler.kind} {scaler.name} keeps {plan.workload} between {scaler.least} and {scaler.most} pods"
            if not anyway:
                lasting = " or `".join(f"{each}`" for each in plan.undone)
                raise CommandFailed(f"{undoes} and would undo this", f"`{lasting} lasts; --anyway does it all the same")
            note(f"{undoes} and will undo this")
        confirm(f"Scale {plan.workload} from {plan.now} to {plan.wanted}?", yes)
        scaling.scale(cluster, plan)
    note(f"{plan.workload}: {plan.now} -> {plan.wanted}; the next `helm upgrade` sets the number of the values again")


@app.command()
def drain(
    pod: Annotated[str, typer.Argument(help="Name of the pod.")],
    timeout: Annotated[float, typer.Option(min=0, help="Seconds that its running calls may take.")] = 900.0,
    undo: Annotated[bool, typer.Option("--undo", help="Put it back into its Service instead.")] = False,
    anyway: Annotated[bool, typer.Option("--anyway", help="Also where no other pod is ready.")] = False,
    yes: YesOption = False,
    release: ReleaseOption = None,
    namespace: NamespaceOption = None,
    context: ContextOption = None,
    kubeconfig: KubeconfigOption = None,
) -> None:
    """Take a pod out of work: out of its Service, wait for its running calls to end, delete it. Nobody is cut off.

    \b
    Examples:
      lyra cluster drain lyra-language-model-7c9d8-x2x4k
      lyra cluster drain lyra-language-model-7c9d8-x2x4k --undo
    """
    with connected_release(kubeconfig, context, namespace, release) as (cluster, found):
        from services.operations.cluster import draining

        plan = draining.plan_drain(cluster, found, pod)
        if undo:
            confirm(f"Put {pod} back to work?", yes)
            draining.undo(cluster, pod)
            note(f"{pod} is found by its Service again")
            return
        if plan.services and not plan.others and not anyway:
            raise CommandFailed(
                f"no other pod of {plan.component} is ready: calls would fail until there is one",
                f"`lyra cluster scale {plan.component} 2` first; --anyway does it all the same",
            )
        runs = "takes work by itself" if plan.running is None else f"has {plan.running} running"
        confirm(f"Drain and delete {pod}? It {runs}, and {plan.others} other ready pods stay.", yes)
        with err.status(f"draining {pod}") as progress:

            def show(running: int) -> None:
                progress.update(f"draining {pod}: {running} running")

            draining.drain(cluster, plan, timeout, show)
    note(f"{pod} is gone")


@app.command()
def logs(
    component: ComponentArgument,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until Ctrl-C, new pods among them.")] = False,
    tail: Annotated[int, typer.Option(min=-1, help="Last lines of each pod; -1 for all.")] = 100,
    since: Annotated[int | None, typer.Option(min=1, help="Only of the last so many seconds.")] = None,
    previous: Annotated[bool, typer.Option("--previous", "-p", help="Of the container before, which ended.")] = False,
    container: Annotated[str, typer.Option("--container", "-c", help="Of the pod; its first by default.")] = "",
    release: ReleaseOption = None,
    namespace: NamespaceOption = None,
    context: ContextOption = None,
    kubeconfig: KubeconfigOption = None,
) -> None:
    """Print the logs of all pods of a service, each line with its pod.

    \b
    Examples:
      lyra cluster logs gateway --follow
      lyra cluster logs language-model --since 600 --tail -1
      lyra cluster logs speech-encoder --previous
    """
    with connected_release(kubeconfig, context, namespace, release) as (cluster, found):
        from services.operations.cluster import logs as of_pods

        last = None if tail < 0 else tail
        options = of_pods.LogOptions(tail=last, since_seconds=since, previous=previous, container=container)
        lines = (
            of_pods.follow(cluster, found, component, options, threading.Event())
            if follow
            else of_pods.read(cluster, found, component, options)
        )
        colours: dict[str, str] = {}
        for line in lines:
            colour = colours.setdefault(line.pod, _COLOURS[len(colours) % len(_COLOURS)])
            out.print(f"[{colour}]{line.pod}[/] {escape(line.text)}", soft_wrap=True)
