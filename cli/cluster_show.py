"""Output of `lyra cluster`: findings, and tables of components, queues and jobs."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from cli.console import out

if TYPE_CHECKING:
    from services.operations.cluster.doctor import Diagnosis
    from services.operations.cluster.findings import Finding
    from services.operations.cluster.job_metrics import JobMetrics
    from services.operations.cluster.status import ComponentStatus

_MARKS = {
    "good": "[green]✓[/]",
    "warning": "[yellow]![/]",
    "missing": "[bold red]✗[/]",
    "not checked": "[yellow]?[/]",
}
_CHECK_WIDTH = 18
_COMMANDS = ("kubectl", "helm", "lyra", "kind")


def show_diagnosis(diagnosis: "Diagnosis") -> None:
    """Prints every finding: what was found, what is missing, and how to fix it."""
    release = f"release {diagnosis.release}" if diagnosis.release else "no release"
    out.print(
        f"[bold]{escape(diagnosis.address)}[/]  namespace {escape(diagnosis.namespace)}, {release}", soft_wrap=True
    )
    for finding in diagnosis.findings:
        _show_finding(finding)


def _show_finding(finding: "Finding") -> None:
    start = f"{_MARKS[finding.state.value]} [bold]{finding.check.ljust(_CHECK_WIDTH)}[/]"
    indent = " " * (_CHECK_WIDTH + 2)
    lines = [escape(line) for line in (finding.found, finding.missing) if line]
    out.print(f"{start}{lines[0]}", soft_wrap=True)
    for line in lines[1:]:
        out.print(f"{indent}{line}", soft_wrap=True)
    for each in finding.remedies:
        command = each.split(" ", 1)[0] in _COMMANDS
        out.print(f"{indent}{'[cyan]$ ' if command else '[cyan]→ '}{escape(each)}[/]", soft_wrap=True)


def status_table(rows: Sequence["ComponentStatus"]) -> RenderableType:
    """One row per component of a release, and a note on metrics that could not be read."""
    table = Table(box=None, header_style="bold")
    table.add_column("component", no_wrap=True)
    for name in ("pods", "restarts", "image", "rollout", "autoscaler", "waiting", "running"):
        table.add_column(name, justify="right" if name in ("pods", "restarts", "waiting", "running") else "left")
    for row in rows:
        pods = f"{row.ready}/{row.desired}"
        table.add_row(
            escape(row.component or row.name),
            pods if row.ready >= row.desired else f"[yellow]{pods}[/]",
            str(row.restarts),
            escape(_short_image(row.image)),
            f"[red]{escape(row.rollout)}[/]" if row.rollout.startswith("stuck") else escape(row.rollout),
            _autoscaler(row),
            _waiting(row),
            "" if row.running is None else str(row.running),
        )
    unreadable = sum(row.without_metrics for row in rows)
    if not unreadable:
        return table
    pods = "1 pod" if unreadable == 1 else f"{unreadable} pods"
    note = f"Metrics of {pods} cannot be read through the API server: see Network policies in docs/deploy/cluster.md"
    return Group(table, Text(note, style="yellow"))


def job_metrics_tables(found: "JobMetrics") -> RenderableType:
    """Queues, jobs by state, and open jobs by tenant."""
    queues = Table("queue", "waiting", "taken by workers", box=None, header_style="bold")
    for each in found.queues:
        queues.add_row(each.queue, str(each.waiting), str(each.taken))
    jobs = Table("jobs", "", box=None, header_style="bold")
    for state, count in found.open.items():
        jobs.add_row(state, str(count))
    for state, count in found.ended.items():
        jobs.add_row(state, f"{count} [dim](submitted in the last {found.hours:g} h)[/]")
    if not jobs.row_count:
        jobs.add_row("none", "")
    tenants = Table("tenant", "open jobs", box=None, header_style="bold")
    for tenant, count in sorted(found.tenants.items(), key=lambda each: -each[1]):
        tenants.add_row(escape(tenant), str(count))
    if not found.open:
        return Group(queues, Text(), jobs)
    left = Text(f"{found.seconds_left / 3600:.1f} h of audio of open jobs are planned and not yet encoded")
    return Group(queues, Text(), jobs, Text(), tenants, Text(), left)


def _short_image(image: str) -> str:
    """An image without its registry and path, and with a shortened digest."""
    name, at, digest = image.rpartition("/")[2].partition("@")
    return f"{name}@{digest.removeprefix('sha256:')[:12]}" if at else name


def _autoscaler(row: "ComponentStatus") -> str:
    scaler = row.autoscaler
    if scaler is None:
        return ""
    kind = "keda" if scaler.kind == "ScaledObject" else "hpa"
    current = "?" if scaler.current is None else scaler.current
    return f"{kind} {current} ({scaler.min_replicas}..{scaler.max_replicas}){', paused' if scaler.paused else ''}"


def _waiting(row: "ComponentStatus") -> str:
    parts = [] if row.waiting is None else [str(row.waiting)]
    if row.audio_seconds_waiting is not None:
        parts.append(f"{row.audio_seconds_waiting:.0f} s of audio")
    return ", ".join(parts)
